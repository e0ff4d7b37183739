//! Rate limits in a Redis or Valkey server, so that many nodes share one set of buckets.
//!
//! GCRA in one Lua script: of each bucket one number is kept, the moment (μs, by the server's clock) at which it would be full
//! again. The script takes from all buckets of a call or from none, and every key expires by itself when its bucket is full.
//! All keys carry one hash tag, so that a cluster keeps them together.
//!
//! Calls never wait for a connection to be made: while there is none they are told so at once, and a task of its own tries
//! again, with growing pauses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Value};

/// The one script. KEYS: the buckets; ARGV: for each its interval and its burst, in μs. Answers the place of the first empty
/// bucket (from 1; 0 if there is none) and the μs to wait.
const SCRIPT: &str = "\
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full = {}
for i, key in ipairs(KEYS) do
  local interval, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local next = math.max(tonumber(redis.call('GET', key)) or 0, now) + interval
  if next > now + burst then return {i, next - now - burst} end
  full[i] = next
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000) + 1)
end
return {0, 0}";

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// The first and the longest pause between attempts.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One bucket that a call takes from.
#[derive(Debug, Clone, Copy)]
pub struct SharedBucket<'a> {
    /// Which one.
    pub key: &'a str,
    /// The time that one call takes up.
    pub interval: Duration,
    /// How far ahead the bucket may be.
    pub burst: Duration,
}

/// Why a shared bucket could not be asked. The words are for the log.
#[derive(Debug, thiserror::Error)]
pub enum RedisAway {
    /// The URL is none.
    #[error("the URL of the Redis server cannot be used")]
    Url,
    /// There is no connection; one is being tried for.
    #[error("there is no connection to the Redis server")]
    NotConnected,
    /// The server refused, or the connection broke.
    #[error("the Redis server: {0}")]
    Failed(String),
}

/// Buckets in a Redis or Valkey server.
pub struct RedisRates {
    this: Weak<Self>,
    client: Client,
    patience: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
    connecting: AtomicBool,
}

impl RedisRates {
    /// Connects in its own time. `patience` is how long an answer is waited for.
    ///
    /// # Errors
    /// [`RedisAway::Url`]. Must be called within a tokio runtime.
    pub fn new(url: &str, patience: Duration) -> Result<Arc<Self>, RedisAway> {
        let client = Client::open(url).map_err(|_| RedisAway::Url)?;
        let rates = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            client,
            patience,
            connection: Mutex::new(None),
            connecting: AtomicBool::new(false),
        });
        rates.connect();
        Ok(rates)
    }

    /// Takes one from each bucket or nothing from any: `None`, or the place of the first empty one and how long to wait.
    ///
    /// # Errors
    /// [`RedisAway`]; whether something was taken is then not known.
    pub async fn take(&self, buckets: &[SharedBucket<'_>]) -> Result<Option<(usize, Duration)>, RedisAway> {
        if buckets.is_empty() {
            return Ok(None);
        }
        let Some(mut connection) = self.current() else {
            self.connect();
            return Err(RedisAway::NotConnected);
        };
        let asked = command(buckets).query_async::<(i64, i64)>(&mut connection).await;
        match asked {
            Ok((0, _)) => Ok(None),
            Ok((place, wait)) => {
                let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
                Ok(Some((place, Duration::from_micros(u64::try_from(wait).unwrap_or(0)))))
            }
            Err(error) => {
                if !stays_connected(&error) {
                    self.forget();
                    self.connect();
                }
                Err(RedisAway::Failed(error.to_string().chars().take(200).collect()))
            }
        }
    }

    fn current(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Tries for a connection until there is one or nobody wants it any more. One attempt at a time.
    fn connect(&self) {
        if self.connecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut pause = AGAIN.0;
            while let Some(rates) = this.upgrade() {
                match rates.attempt().await {
                    Ok(connection) => {
                        *rates.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                        rates.connecting.store(false, Ordering::Release);
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "no connection to the Redis server"),
                }
                drop(rates);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN.1);
            }
        });
    }

    async fn attempt(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.patience.max(Duration::from_millis(1))));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        // A server that accepts connections and is still loading its data, or wants a password, is not there yet.
        let _: Value = redis::cmd("PING").query_async(&mut connection).await?;
        Ok(connection)
    }
}

fn command(buckets: &[SharedBucket<'_>]) -> redis::Cmd {
    // EVAL with the text each time: the server keeps the compiled script, and there is no NOSCRIPT to handle.
    let mut command = redis::cmd("EVAL");
    command.arg(SCRIPT).arg(buckets.len());
    for bucket in buckets {
        command.arg(format!("{{countersign}}:{}", bucket.key));
    }
    for bucket in buckets {
        command.arg(micros(bucket.interval).max(1)).arg(micros(bucket.burst).max(1));
    }
    command
}

/// Within what Lua's numbers hold exactly beside a clock in μs.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(1 << 51)
}

fn stays_connected(error: &RedisError) -> bool {
    // What the server says leaves the connection as it is; everything else is a reason for a new one.
    error.code().is_some()
}
