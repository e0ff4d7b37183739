//! Circuit breakers, one for each upstream and each tool: after too many failures calls are refused at once for a while,
//! then one call is let through to see. What counts is whether the upstream could be reached and spoke the protocol, never
//! what a tool says. Each node has its own; the state here is pure, with the time as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_domain::{Refusal, RefusalKind, ToolRef, UpstreamName};
use serde::Serialize;

use crate::upstream::{DispatchError, ToolResult};

/// When breakers open, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRule {
    /// So many failures in a row open it.
    pub consecutive: u32,
    /// So many failures …
    pub failures: u32,
    /// … among so many of the last calls open it too.
    pub of: u32,
    /// How long it stays open at first. It doubles with each probe that fails.
    pub open_for: Duration,
    /// The longest that it stays open before the next probe.
    pub open_at_most: Duration,
}

impl Default for BreakerRule {
    fn default() -> Self {
        let (open_for, open_at_most) = (Duration::from_secs(10), Duration::from_secs(300));
        Self { consecutive: 5, failures: 10, of: 20, open_for, open_at_most }
    }
}

/// How a breaker stands, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakerReport {
    /// An upstream, or `upstream:tool`.
    pub name: String,
    /// `closed`, `open` or `half-open`.
    pub state: &'static str,
    /// Failures in a row.
    pub consecutive: u32,
    /// Failures among the last calls.
    pub failures: u32,
    /// Of so many.
    pub calls: u32,
    /// Seconds until the next call is let through, if it is open.
    pub retry_after: Option<u64>,
    /// The last failure, in a word.
    pub last_failure: Option<String>,
}

/// What a call's end says about its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered.
    Well,
    /// It could not be reached, did not answer in time, broke off or broke the protocol; in a word.
    Ill(&'static str),
}

/// What a dispatch's end says about the upstream's health; nothing, if this node held the call back itself.
pub(crate) fn health(dispatched: &Result<ToolResult, DispatchError>, hurried: bool) -> Option<Health> {
    match dispatched {
        // A caller in a hurry must not have an upstream taken away from others.
        Err(DispatchError::Timeout) if hurried => None,
        Ok(_) | Err(DispatchError::Rpc { .. } | DispatchError::Unauthorised(_)) => Some(Health::Well),
        Err(DispatchError::NotSent(_)) => Some(Health::Ill("not-sent")),
        Err(DispatchError::Timeout) => Some(Health::Ill("timeout")),
        Err(DispatchError::Lost(_)) => Some(Health::Ill("lost")),
        Err(DispatchError::Protocol(_)) => Some(Health::Ill("protocol")),
        Err(DispatchError::Busy(_) | DispatchError::Undone(_) | DispatchError::Cancelled) => None,
    }
}

/// What became of a breaker, for the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// An upstream, or `upstream:tool`.
    pub name: String,
    /// Whether it opened; else it closed.
    pub opened: bool,
    /// For how long, if it opened.
    pub open_for: Duration,
    /// The failure that opened it.
    pub failure: Option<&'static str>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant, pause: Duration },
    HalfOpen { pause: Duration },
}

#[derive(Debug)]
struct Breaker {
    state: State,
    last: VecDeque<bool>,
    consecutive: u32,
    last_failure: Option<&'static str>,
}

impl Breaker {
    fn new() -> Self {
        Self { state: State::Closed, last: VecDeque::new(), consecutive: 0, last_failure: None }
    }

    fn failures(&self) -> u32 {
        u32::try_from(self.last.iter().filter(|failed| **failed).count()).unwrap_or(u32::MAX)
    }

    /// How long a caller has to wait, if it may not call now.
    fn blocked(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Open { until, .. } => Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero()),
            // The probe is under way; it tells within a call's time.
            State::HalfOpen { .. } => Some(Duration::from_secs(1)),
        }
    }

    /// Lets a call through; whether it is the probe. [`Breaker::blocked`] was asked before, under the same lock.
    fn enter(&mut self) -> bool {
        if let State::Open { pause, .. } = self.state {
            self.state = State::HalfOpen { pause };
            return true;
        }
        false
    }

    fn note(&mut self, rule: &BreakerRule, health: Health, probe: bool, now: Instant) -> Option<(bool, Duration)> {
        match health {
            Health::Well => self.consecutive = 0,
            Health::Ill(word) => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.last_failure = Some(word);
            }
        }
        let failed = health != Health::Well;
        match self.state {
            // Its time was over, and the upstream could not even be asked for its tools.
            State::Open { until, pause } if probe && failed && until <= now => {
                let pause = pause.saturating_mul(2).min(rule.open_at_most);
                self.state = State::Open { until: now + pause, pause };
                Some((true, pause))
            }
            State::HalfOpen { pause } if probe && failed => {
                let pause = pause.saturating_mul(2).min(rule.open_at_most);
                self.state = State::Open { until: now + pause, pause };
                Some((true, pause))
            }
            State::HalfOpen { .. } if probe => {
                *self = Self { last_failure: self.last_failure, ..Self::new() };
                Some((false, Duration::ZERO))
            }
            // Calls that began before it opened say nothing new.
            State::HalfOpen { .. } | State::Open { .. } => None,
            State::Closed => {
                self.last.push_back(failed);
                while self.last.len() > rule.of as usize {
                    self.last.pop_front();
                }
                let full = self.last.len() == rule.of as usize;
                if !failed {
                    return None;
                }
                if self.consecutive < rule.consecutive && !(full && self.failures() >= rule.failures) {
                    return None;
                }
                let pause = rule.open_for;
                self.state = State::Open { until: now + pause, pause };
                Some((true, pause))
            }
        }
    }

    /// A probe that ended without a word on the upstream: the next call is the probe.
    fn abandon(&mut self, now: Instant) {
        if let State::HalfOpen { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    fn report(&self, name: &str, now: Instant) -> BreakerReport {
        let (state, retry_after) = match self.state {
            State::Closed => ("closed", None),
            State::Open { until, .. } => ("open", Some(seconds(until.saturating_duration_since(now)))),
            State::HalfOpen { .. } => ("half-open", None),
        };
        BreakerReport {
            name: name.to_owned(),
            state,
            consecutive: self.consecutive,
            failures: self.failures(),
            calls: u32::try_from(self.last.len()).unwrap_or(u32::MAX),
            retry_after,
            last_failure: self.last_failure.map(str::to_owned),
        }
    }
}

/// The breakers of a node. Tools come from accepted definitions, so their number is bounded.
#[derive(Debug)]
pub struct Breakers {
    rule: Option<BreakerRule>,
    all: Mutex<BTreeMap<String, Breaker>>,
}

/// Leave to call, which is told how the call ended. Dropped without a word, it says nothing about the upstream.
#[derive(Debug)]
pub(crate) struct Pass {
    breakers: Arc<Breakers>,
    /// Names, and whether this is their probe.
    names: [(String, bool); 2],
    told: bool,
}

impl Breakers {
    /// Breakers by this rule; none at all without one.
    pub fn new(rule: Option<BreakerRule>) -> Arc<Self> {
        Arc::new(Self { rule, all: Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Breaker>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call of this tool would be let through, without letting it.
    ///
    /// # Errors
    /// [`RefusalKind::CircuitOpen`].
    pub(crate) fn look(&self, tool: &ToolRef, now: Instant) -> Result<(), Refusal> {
        let all = self.lock();
        if all.is_empty() {
            return Ok(());
        }
        let blocked = |name: &str| all.get(name).and_then(|b| b.blocked(now));
        let names = [tool.upstream.to_string(), tool.to_string()];
        let hit = names.iter().find_map(|name| blocked(name).map(|left| (name, left)));
        hit.map_or(Ok(()), |(name, left)| Err(refusal(name, left)))
    }

    /// Lets a call through: any while closed, one while half open.
    ///
    /// # Errors
    /// [`RefusalKind::CircuitOpen`].
    pub(crate) fn enter(self: &Arc<Self>, tool: &ToolRef, now: Instant) -> Result<Pass, Refusal> {
        let names = [tool.upstream.to_string(), tool.to_string()];
        let mut all = self.lock();
        let blocked = names.iter().find_map(|n| all.get(n).and_then(|b| b.blocked(now)).map(|left| (n, left)));
        if let Some((name, left)) = blocked {
            return Err(refusal(name, left));
        }
        let names = names.map(|name| {
            let probe = all.get_mut(&name).is_some_and(Breaker::enter);
            (name, probe)
        });
        Ok(Pass { breakers: Arc::clone(self), names, told: false })
    }

    /// The upstream could not be asked for its tools, which every call of it needs first.
    pub(crate) fn unverified(&self, upstream: &UpstreamName, now: Instant) -> Vec<Change> {
        self.note(&[(upstream.to_string(), true)], Health::Ill("unverified"), now)
    }

    fn note(&self, names: &[(String, bool)], health: Health, now: Instant) -> Vec<Change> {
        let Some(rule) = &self.rule else { return Vec::new() };
        let mut all = self.lock();
        let mut changes = Vec::new();
        for (name, probe) in names {
            let breaker = all.entry(name.clone()).or_insert_with(Breaker::new);
            if let Some((opened, open_for)) = breaker.note(rule, health, *probe, now) {
                let failure = breaker.last_failure.filter(|_| opened);
                changes.push(Change { name: name.clone(), opened, open_for, failure });
            }
        }
        changes
    }

    /// Every breaker that has seen a call.
    pub fn reports(&self, now: Instant) -> Vec<BreakerReport> {
        self.lock().iter().map(|(name, breaker)| breaker.report(name, now)).collect()
    }

    /// Forgets what a breaker has seen; whether there was one.
    pub(crate) fn reset(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }
}

impl Pass {
    /// How the call ended.
    pub fn tell(mut self, health: Health, now: Instant) -> Vec<Change> {
        self.told = true;
        self.breakers.note(&self.names, health, now)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.told || self.names.iter().all(|(_, probe)| !probe) {
            return;
        }
        let mut all = self.breakers.lock();
        for (name, _) in self.names.iter().filter(|(_, probe)| *probe) {
            if let Some(breaker) = all.get_mut(name) {
                breaker.abandon(Instant::now());
            }
        }
    }
}

fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

fn refusal(name: &str, left: Duration) -> Refusal {
    let wait = seconds(left);
    let detail = format!(
        "{name} failed again and again and is left alone; nothing was sent to it. Try again in {wait} s; operators see why with `countersign breakers list`"
    );
    let mut refusal = Refusal::new(RefusalKind::CircuitOpen, detail).with("breaker", name);
    refusal.retry_after = Some(wait);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rule() -> BreakerRule {
        BreakerRule { consecutive: 3, failures: 4, of: 8, open_for: 10 * SECOND, open_at_most: 30 * SECOND }
    }

    fn tool() -> ToolRef {
        "bank:pay".parse().expect("a tool")
    }

    fn call(breakers: &Arc<Breakers>, health: Health, now: Instant) -> Result<Vec<String>, u64> {
        let pass = breakers.enter(&tool(), now).map_err(|r| r.retry_after.expect("a time to wait"))?;
        let changes = pass.tell(health, now).into_iter();
        Ok(changes.map(|c| format!("{} {}", c.name, if c.opened { "opened" } else { "closed" })).collect())
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_closes_it() {
        let (breakers, start) = (Breakers::new(Some(rule())), Instant::now());
        let ill = Health::Ill("timeout");
        assert_eq!(call(&breakers, ill, start), Ok(vec![]));
        assert_eq!(call(&breakers, Health::Well, start), Ok(vec![]), "an answer in between");
        assert_eq!(call(&breakers, ill, start), Ok(vec![]));
        assert_eq!(call(&breakers, ill, start), Ok(vec![]));
        let opened = vec!["bank opened".to_owned(), "bank:pay opened".to_owned()];
        assert_eq!(call(&breakers, ill, start), Ok(opened.clone()));
        assert_eq!(call(&breakers, Health::Well, start + 3 * SECOND), Err(7));
        let probe = breakers.enter(&tool(), start + 10 * SECOND).expect("one probe");
        assert_eq!(call(&breakers, Health::Well, start + 10 * SECOND), Err(1), "and only one");
        drop(probe);
        // A probe that said nothing leaves its place; one that fails opens for twice as long, up to a bound.
        let mut now = start + 11 * SECOND;
        for pause in [20, 30, 30] {
            assert_eq!(call(&breakers, ill, now), Ok(opened.clone()));
            assert_eq!(call(&breakers, ill, now), Err(pause));
            now += u32::try_from(pause).expect("small") * SECOND;
        }
        let closed = vec!["bank closed".to_owned(), "bank:pay closed".to_owned()];
        assert_eq!(call(&breakers, Health::Well, now), Ok(closed));
        assert_eq!(call(&breakers, ill, now), Ok(vec![]), "it begins anew");
    }

    #[test]
    fn a_share_of_failures_opens_it_too() {
        let (breakers, now) = (Breakers::new(Some(rule())), Instant::now());
        for i in 0..7 {
            let health = if i % 2 == 1 { Health::Ill("lost") } else { Health::Well };
            assert_eq!(call(&breakers, health, now), Ok(vec![]), "{i}");
        }
        assert_eq!(call(&breakers, Health::Well, now), Ok(vec![]), "3 of the last 8");
        assert_eq!(call(&breakers, Health::Ill("lost"), now).map(|c| c.len()), Ok(2), "4 of the last 8");
        assert_eq!(breakers.reports(now)[0].state, "open");
        assert!(breakers.reset("bank") && breakers.reset("bank:pay") && !breakers.reset("bank"));
        assert_eq!(call(&breakers, Health::Well, now), Ok(vec![]));
    }

    #[test]
    fn without_a_rule_nothing_opens() {
        let (breakers, now) = (Breakers::new(None), Instant::now());
        for _ in 0..100 {
            assert_eq!(call(&breakers, Health::Ill("lost"), now), Ok(vec![]));
        }
    }
}
