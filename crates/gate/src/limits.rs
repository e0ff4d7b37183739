//! Rate limits in memory: GCRA per principal and per tool, and the bounded account of what they refused.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use countersign_domain::{Refusal, RefusalKind};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// So many calls per period; the burst is the whole allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls.
    pub calls: NonZeroU32,
    /// Per this long.
    pub per: Duration,
}

/// The limits of one kind of key.
pub struct Limiter {
    rate: Rate,
    what: &'static str,
    buckets: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Limiter {
    /// A limiter that hands each key `rate`. A zero period counts as one nanosecond.
    pub fn new(what: &'static str, rate: Rate) -> Self {
        let quota = Quota::with_period(rate.per.max(Duration::from_nanos(1)) / rate.calls.get())
            .unwrap_or(Quota::per_second(rate.calls))
            .allow_burst(rate.calls);
        Self { rate, what, buckets: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes one call from the key's allowance.
    ///
    /// # Errors
    /// [`RefusalKind::RateLimited`] with the seconds to wait.
    pub fn take(&self, key: &str) -> Result<(), Refusal> {
        // The key is only copied on a key's first use: governor looks up by reference to the owned type.
        self.buckets.check_key(&key.to_owned()).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now()).as_secs_f64().ceil().max(1.0) as u64;
            let detail = format!(
                "this {} may make {} calls in {} s; try again in {wait} s",
                self.what,
                self.rate.calls,
                self.rate.per.as_secs_f64()
            );
            let mut refusal = Refusal::new(RefusalKind::RateLimited, detail).with("limit", self.what);
            refusal.retry_after = Some(wait);
            refusal
        })
    }

    /// Forgets keys whose allowance is whole again. Off the request path.
    pub fn sweep(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }
}

/// Which limit refused whom: the first refusal of a window is an event, the rest are counted.
#[derive(Default)]
pub struct Suppressed {
    counts: Mutex<HashMap<(String, String), u64>>,
}

/// How many different keys one window keeps apart; beyond it, refusals are counted under one shared key.
const MAX_KEYS: usize = 10_000;

impl Suppressed {
    /// Notes a refusal. True for the first of its window, which deserves an event.
    pub fn note(&self, workspace: &str, key: &str) -> bool {
        let Ok(mut counts) = self.counts.lock() else { return false };
        let key = if counts.len() < MAX_KEYS { key } else { "(others)" };
        let count = counts.entry((workspace.to_owned(), key.to_owned())).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Ends the window: what was refused beyond the first, by workspace and key.
    pub fn drain(&self) -> Vec<(String, String, u64)> {
        let Ok(mut counts) = self.counts.lock() else { return Vec::new() };
        let drained = counts.drain().filter(|(_, n)| *n > 1).map(|((w, k), n)| (w, k, n - 1));
        drained.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(calls: u32) -> Limiter {
        let calls = NonZeroU32::new(calls).expect("not zero");
        Limiter::new("principal", Rate { calls, per: Duration::from_secs(3600) })
    }

    #[test]
    fn each_key_has_its_own_allowance_and_learns_when_to_return() {
        let limiter = limiter(3);
        for _ in 0..3 {
            assert!(limiter.take("a").is_ok());
        }
        let refusal = limiter.take("a").expect_err("the fourth call of three");
        assert_eq!(refusal.kind, RefusalKind::RateLimited);
        assert!((1..=1200).contains(&refusal.retry_after.expect("a time to wait")));
        assert!(limiter.take("b").is_ok());
    }

    #[test]
    fn a_window_has_one_event_and_a_count() {
        let suppressed = Suppressed::default();
        assert!(suppressed.note("w", "k"));
        assert!(!suppressed.note("w", "k"));
        assert!(!suppressed.note("w", "k"));
        assert_eq!(suppressed.drain(), vec![("w".into(), "k".into(), 2)]);
        assert!(suppressed.note("w", "k"), "a new window begins");
    }
}
