//! Rates: how many calls may start in how much time, for a principal, a tool, both, a workspace or all of them.
//!
//! GCRA: of each bucket one time is kept, the moment at which it would be full again. Each node has its own buckets; with a
//! shared store ([`SharedRates`]) nodes also share one set, looked at after the node's own, so that what this node alone has
//! too much of is refused without asking anyone. Also here: the bounded account of what limits refused.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_domain::{Refusal, RefusalKind};

/// So many calls per period; the burst is the whole allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls.
    pub calls: NonZeroU32,
    /// Per this long.
    pub per: Duration,
}

impl Rate {
    /// The time that one call takes up, in ns; never nothing.
    pub fn interval(&self) -> u64 {
        u64::try_from(self.per.as_nanos() / u128::from(self.calls.get())).unwrap_or(u64::MAX >> 32).max(1)
    }

    /// How far ahead a bucket may be: the time that the whole allowance takes up, in ns.
    pub fn burst(&self) -> u64 {
        self.interval().saturating_mul(u64::from(self.calls.get()))
    }
}

/// The rates that hold for every call.
#[derive(Debug, Clone)]
pub struct Rates {
    /// Calls of one principal, over all tools.
    pub per_principal: Rate,
    /// Calls of one tool, over all principals.
    pub per_tool: Rate,
    /// Calls of one principal to one tool.
    pub per_principal_and_tool: Option<Rate>,
    /// Calls of one workspace.
    pub per_workspace: Option<Rate>,
    /// All calls.
    pub global: Option<Rate>,
}

/// One bucket that a call takes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// What it is of, for people: `principal`, `tool`, ….
    pub what: &'static str,
    /// Which one.
    pub key: String,
    /// How fast it fills, and how much it holds.
    pub rate: Rate,
}

/// Which bucket was empty, and how long it takes until it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// The bucket's place in what was asked.
    pub bucket: usize,
    /// How long.
    pub wait: Duration,
}

/// Buckets that nodes share.
#[async_trait]
pub trait SharedRates: Send + Sync {
    /// Takes one from each bucket, or nothing from any.
    ///
    /// # Errors
    /// In words for the log, if the store does not answer. It may have taken them or not.
    async fn take(&self, buckets: &[Bucket]) -> Result<Option<Empty>, String>;
}

/// What happens to calls while the shared buckets are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenAway {
    /// The node's own buckets alone decide.
    #[default]
    Local,
    /// They are refused.
    Refuse,
}

/// Shared buckets with what to do without them.
#[derive(Clone)]
pub struct Sharing {
    /// The store.
    pub rates: Arc<dyn SharedRates>,
    /// What happens while it is away.
    pub when_away: WhenAway,
    /// How long a call waits for it.
    pub patience: Duration,
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sharing({:?}, {:?})", self.when_away, self.patience)
    }
}

/// How the shared buckets stand, for the operator.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct SharingStatus {
    /// Whether the last call that asked got no answer.
    pub away: bool,
    /// Calls that asked and got no answer, since the start.
    pub unanswered: u64,
    /// Whether calls are refused meanwhile.
    pub refuses: bool,
}

/// Takes calls from buckets.
pub(crate) struct Limiter {
    own: Buckets,
    sharing: Option<Sharing>,
    away: AtomicBool,
    unanswered: AtomicU64,
}

impl Limiter {
    pub fn new(sharing: Option<Sharing>) -> Self {
        Self { own: Buckets::new(), sharing, away: AtomicBool::new(false), unanswered: AtomicU64::new(0) }
    }

    /// Takes one call from each bucket, or from none.
    ///
    /// # Errors
    /// [`RefusalKind::RateLimited`] with the seconds to wait; [`RefusalKind::Unavailable`] where shared buckets are away and
    /// the operator wants no calls without them.
    pub async fn take(&self, buckets: &[Bucket]) -> Result<(), Refusal> {
        self.own.take(buckets, self.own.now()).map_err(|empty| refusal(buckets, empty))?;
        let Some(sharing) = &self.sharing else { return Ok(()) };
        let asked = tokio::time::timeout(sharing.patience, sharing.rates.take(buckets)).await;
        match asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", sharing.patience.as_millis()))) {
            Ok(answer) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the shared rate limits answer again");
                }
                answer.map_or(Ok(()), |empty| Err(refusal(buckets, empty)))
            }
            Err(error) => self.without(sharing, &error),
        }
    }

    fn without(&self, sharing: &Sharing, error: &str) -> Result<(), Refusal> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let refuses = sharing.when_away == WhenAway::Refuse;
        if !self.away.swap(true, Ordering::Relaxed) {
            let meanwhile = if refuses { "calls are refused" } else { "this node's own limits alone decide" };
            tracing::warn!(error, meanwhile, "the shared rate limits are away");
        }
        if !refuses {
            return Ok(());
        }
        let detail = "the store of the shared rate limits does not answer, and without it no calls are made; try again";
        let mut refusal = Refusal::new(RefusalKind::Unavailable, detail);
        refusal.retry_after = Some(1);
        Err(refusal)
    }

    pub fn status(&self) -> Option<SharingStatus> {
        self.sharing.as_ref().map(|sharing| SharingStatus {
            away: self.away.load(Ordering::Relaxed),
            unanswered: self.unanswered.load(Ordering::Relaxed),
            refuses: sharing.when_away == WhenAway::Refuse,
        })
    }

    /// Forgets buckets that are full again. Off the request path.
    pub fn sweep(&self) {
        self.own.sweep(self.own.now());
    }
}

fn refusal(buckets: &[Bucket], empty: Empty) -> Refusal {
    let wait = empty.wait.as_millis().div_ceil(1000).clamp(1, u128::from(u32::MAX)) as u64;
    let Some(bucket) = buckets.get(empty.bucket) else {
        return Refusal::new(RefusalKind::Internal, "a rate limit that nobody asked for is reached");
    };
    let (calls, per) = (bucket.rate.calls, bucket.rate.per.as_secs_f64());
    let whose = bucket.what;
    let detail = format!("the limit of this {whose} is {calls} calls in {per} s; try again in {wait} s");
    let mut refusal = Refusal::new(RefusalKind::RateLimited, detail).with("limit", whose);
    refusal.retry_after = Some(wait);
    refusal
}

const SHARDS: usize = 16;
/// The most buckets of a shard; what comes beyond shares one.
const MAX_BUCKETS: usize = 65_536;

/// A node's own buckets: by key the moment, in ns since the start, at which the bucket would be full again.
struct Buckets {
    shards: [Mutex<HashMap<String, u64>>; SHARDS],
    hasher: RandomState,
    start: Instant,
}

impl Buckets {
    fn new() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, hasher: RandomState::new(), start: Instant::now() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn shard(&self, key: &str) -> &Mutex<HashMap<String, u64>> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards.get(at).unwrap_or(&self.shards[0])
    }

    fn take(&self, buckets: &[Bucket], now: u64) -> Result<(), Empty> {
        for (i, bucket) in buckets.iter().enumerate() {
            if let Err(wait) = self.take_one(bucket, now) {
                // All or nothing: what was taken before goes back.
                buckets.iter().take(i).for_each(|taken| self.put_back(taken));
                return Err(Empty { bucket: i, wait });
            }
        }
        Ok(())
    }

    fn take_one(&self, bucket: &Bucket, now: u64) -> Result<(), Duration> {
        let mut shard = self.shard(&bucket.key).lock().unwrap_or_else(PoisonError::into_inner);
        let (interval, burst) = (bucket.rate.interval(), bucket.rate.burst());
        let room = |full: u64| {
            let next = full.max(now).saturating_add(interval);
            let latest = now.saturating_add(burst);
            if next <= latest { Ok(next) } else { Err(Duration::from_nanos(next - latest)) }
        };
        if let Some(full) = shard.get_mut(&bucket.key) {
            *full = room(*full)?;
            return Ok(());
        }
        let key = if shard.len() < MAX_BUCKETS { bucket.key.as_str() } else { "(others)" };
        let full = room(shard.get(key).copied().unwrap_or(0))?;
        shard.insert(key.to_owned(), full);
        Ok(())
    }

    fn put_back(&self, bucket: &Bucket) {
        let mut shard = self.shard(&bucket.key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full) = shard.get_mut(&bucket.key) {
            *full = full.saturating_sub(bucket.rate.interval());
        }
    }

    fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, full| *full > now);
            let wanted = shard.len() * 2;
            shard.shrink_to(wanted);
        }
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

    const SECOND: u64 = 1_000_000_000;

    fn bucket(what: &'static str, key: &str, calls: u32, seconds: u64) -> Bucket {
        let calls = NonZeroU32::new(calls).expect("not zero");
        Bucket { what, key: key.to_owned(), rate: Rate { calls, per: Duration::from_secs(seconds) } }
    }

    #[test]
    fn a_bucket_holds_its_allowance_and_fills_evenly() {
        let buckets = Buckets::new();
        let a = [bucket("principal", "a", 3, 60)];
        for _ in 0..3 {
            buckets.take(&a, 5 * SECOND).expect("there are three");
        }
        assert_eq!(buckets.take(&a, 5 * SECOND), Err(Empty { bucket: 0, wait: Duration::from_secs(20) }));
        assert_eq!(buckets.take(&a, 10 * SECOND), Err(Empty { bucket: 0, wait: Duration::from_secs(15) }));
        buckets.take(&a, 25 * SECOND).expect("one came back");
        assert!(buckets.take(&a, 25 * SECOND).is_err());
        buckets.take(&[bucket("principal", "b", 3, 60)], 5 * SECOND).expect("another key");
        buckets.sweep(1000 * SECOND);
        assert!(buckets.shards.iter().all(|shard| shard.lock().expect("whole").is_empty()));
    }

    #[test]
    fn buckets_are_taken_from_all_or_none() {
        let buckets = Buckets::new();
        let both = [bucket("tool", "t", 10, 60), bucket("workspace", "w", 1, 60)];
        buckets.take(&both, 0).expect("both have one");
        for _ in 0..20 {
            assert_eq!(buckets.take(&both, 0).expect_err("the second is empty").bucket, 1);
        }
        for _ in 0..9 {
            buckets.take(&both[..1], 0).expect("the first lost nothing");
        }
        assert!(buckets.take(&both[..1], 0).is_err());
    }

    #[test]
    fn odd_rates_are_still_rates() {
        let buckets = Buckets::new();
        for (calls, per) in [(u32::MAX, Duration::ZERO), (1, Duration::MAX), (u32::MAX, Duration::MAX)] {
            let rate = Rate { calls: NonZeroU32::new(calls).expect("not zero"), per };
            let odd = [Bucket { what: "tool", key: format!("{calls} {per:?}"), rate }];
            buckets.take(&odd, SECOND).expect("the first call");
        }
    }

    struct Script(Mutex<Vec<Result<Option<Empty>, String>>>);

    #[async_trait]
    impl SharedRates for Script {
        async fn take(&self, _: &[Bucket]) -> Result<Option<Empty>, String> {
            let next = self.0.lock().expect("whole").pop();
            match next {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_without_the_shared_buckets_is_a_setting() {
        for (when_away, kind) in [(WhenAway::Local, None), (WhenAway::Refuse, Some(RefusalKind::Unavailable))] {
            let empty = Empty { bucket: 0, wait: Duration::from_millis(1500) };
            let answers = vec![Err("broken".to_owned()), Ok(Some(empty)), Ok(None)];
            let rates = Arc::new(Script(Mutex::new(answers)));
            let limiter = Limiter::new(Some(Sharing { rates, when_away, patience: Duration::from_millis(50) }));
            let a = [bucket("principal", "a", 100, 60)];
            limiter.take(&a).await.expect("the shared bucket has one");
            let refusal = limiter.take(&a).await.expect_err("the shared bucket is empty");
            assert_eq!((refusal.kind, refusal.retry_after), (RefusalKind::RateLimited, Some(2)));
            // An error first, and then silence.
            for unanswered in 1..=2 {
                let kind_now = limiter.take(&a).await.err().map(|refusal| refusal.kind);
                assert_eq!(kind_now, kind);
                let status = limiter.status().expect("there is a shared store");
                assert!(status.away && status.unanswered == unanswered);
            }
        }
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
