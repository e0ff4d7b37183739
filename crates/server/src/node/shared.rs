//! Rate limits that nodes share: the gate's trait on the store's Redis client.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_gate::limits::{Bucket, Empty, SharedRates, Sharing};
use countersign_store::redis::{RedisRates, SharedBucket};

use super::StartError;
use crate::config::RedisSettings;

/// The shared buckets of the configuration, if there are any.
pub(super) fn rates(settings: Option<&RedisSettings>) -> Result<Option<Sharing>, StartError> {
    let Some(settings) = settings else { return Ok(None) };
    let redis = RedisRates::new(&settings.url, settings.timeout)
        .map_err(|error| StartError::Setup(format!("[limits.redis]: {error}")))?;
    let rates: Arc<dyn SharedRates> = Arc::new(InRedis(redis));
    Ok(Some(Sharing { rates, when_away: settings.when_away, patience: settings.timeout }))
}

struct InRedis(Arc<RedisRates>);

#[async_trait]
impl SharedRates for InRedis {
    async fn take(&self, buckets: &[Bucket]) -> Result<Option<Empty>, String> {
        let shared = |bucket: &'_ Bucket| {
            let (interval, burst) = (bucket.rate.interval(), bucket.rate.burst());
            (Duration::from_nanos(interval), Duration::from_nanos(burst))
        };
        let times: Vec<_> = buckets.iter().map(shared).collect();
        let asked: Vec<_> = buckets
            .iter()
            .zip(&times)
            .map(|(bucket, (interval, burst))| SharedBucket { key: &bucket.key, interval: *interval, burst: *burst })
            .collect();
        let answer = self.0.take(&asked).await.map_err(|error| error.to_string())?;
        Ok(answer.map(|(bucket, wait)| Empty { bucket, wait }))
    }
}
