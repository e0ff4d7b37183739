//! Requests to S3: signed, tried again a few times, within a deadline.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use countersign_egress::aws::{Credentials, sigv4};
use countersign_egress::{Egress, Purpose, PurposeClient};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::{Position, Url};

use super::S3Config;
use super::answer::{Fault, fault};

/// Longest answer about an error or a setting that is read, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 10;
/// Before a further attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);

/// Whoever knows the credentials; asked for every operation, so that whoever renews them need not restart anything. May block.
pub type CredentialSource = Arc<dyn Fn() -> Result<Credentials, String> + Send + Sync>;

/// One request. The body's digest and the signature are added to the headers.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// The object's key below the bucket; nothing for the bucket itself.
    pub(super) key: Option<&'a str>,
    pub(super) query: Vec<(&'a str, &'a str)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// Most bytes of a good answer.
    pub(super) limit: usize,
    /// Most attempts. Every request here does the same made twice as made once.
    pub(super) attempts: u32,
}

impl<'a> Call<'a> {
    /// A question: about an object, or about the bucket.
    pub(super) fn get(key: Option<&'a str>, query: Vec<(&'a str, &'a str)>, limit: usize) -> Self {
        Self { method: Method::GET, key, query, headers: Vec::new(), body: Bytes::new(), limit, attempts: 2 }
    }
}

/// A 2xx answer.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) struct Client {
    http: PurposeClient,
    /// An origin.
    base: Url,
    /// `/BUCKET` where the bucket stands in the path, nothing where it stands in the host.
    bucket: String,
    region: String,
    credentials: CredentialSource,
}

impl Client {
    /// # Errors
    /// In words, if the endpoint cannot be reached by the rules of `egress`.
    pub(super) fn new(config: &S3Config, credentials: CredentialSource, egress: &Egress) -> Result<Self, String> {
        let (base, bucket) = place(config)?;
        let http = egress.client_for(Purpose::ObjectStore, &base).map_err(|error| error.to_string())?;
        Ok(Self { http, base, bucket, region: config.region.clone(), credentials })
    }

    /// Makes a request, and makes it again if that may help, until the deadline.
    pub(super) async fn call(&self, call: Call<'_>, deadline: Instant) -> Result<Answer, Fault> {
        let credentials = self.read_credentials().await?;
        let mut pause = PAUSE;
        let mut attempt = 1;
        let mut may_be_done = false;
        loop {
            let fault = match self.attempt(&call, &credentials, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let wait = pause + jitter(pause);
            if !fault.may_pass() || attempt >= call.attempts || Instant::now() + wait >= deadline {
                return Err(fault.after(may_be_done));
            }
            may_be_done |= call.method == Method::PUT && !matches!(fault, Fault::Unsent(_));
            tracing::debug!(method = %call.method, attempt, ?fault, "trying again");
            tokio::time::sleep(wait).await;
            (attempt, pause) = (attempt + 1, pause * 2);
        }
    }

    async fn attempt(&self, call: &Call<'_>, credentials: &Credentials, deadline: Instant) -> Result<Answer, Fault> {
        let path = call.key.map(|key| format!("/{}", sigv4::encoded(key, true))).unwrap_or_default();
        let path = match format!("{}{path}", self.bucket) {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        };
        let unusable = |what: &str| Fault::Refused { code: String::new(), words: format!("the {what} cannot be sent") };
        let mut url = self.base.clone();
        url.set_path(&path);
        url.set_query((!call.query.is_empty()).then(|| sigv4::query_string(&call.query)).as_deref());
        // What is signed is what is sent, or nothing is.
        if url.path() != path {
            return Err(unusable("key"));
        }
        let headers = self.headers(call, &path, credentials).map_err(unusable)?;
        let response = self.http.send(call.method.clone(), &url, headers, call.body.clone(), deadline).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_success() {
            let body = response.bytes(call.limit, deadline).await?;
            return Ok(Answer { headers, body });
        }
        let body = response.bytes(MAX_ANSWER, deadline).await.map_err(|error| match Fault::from(error) {
            Fault::TooLarge => Fault::Odd(format!("the store answered {status} at great length; check the endpoint")),
            other => other,
        })?;
        let body = (call.method != Method::HEAD).then_some(&body[..]);
        Err(fault(status.as_u16(), &headers, body, |text| credentials.are_in(text)))
    }

    /// Everything that is sent is signed, but for what the network client adds by itself.
    fn headers(&self, call: &Call<'_>, path: &str, credentials: &Credentials) -> Result<HeaderMap, &'static str> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let time = sigv4::timestamp(seconds).ok_or("date")?;
        let body_digest = sigv4::body_digest(&call.body);
        let mut headers = vec![
            // As the network client writes it.
            ("host", &self.base[Position::BeforeHost..Position::AfterPort]),
            ("x-amz-content-sha256", &body_digest),
            ("x-amz-date", &time),
        ];
        headers.extend(call.headers.iter().map(|(name, value)| (*name, value.as_str())));
        headers.extend(credentials.session_token.as_ref().map(|token| ("x-amz-security-token", token.as_str())));
        let request = sigv4::Request {
            method: call.method.as_str(),
            path,
            query: &call.query,
            headers: &headers,
            body_digest: &body_digest,
        };
        let scope = sigv4::Scope { region: &self.region, service: "s3" };
        let authorization = sigv4::authorization(&request, credentials, &scope, &time);
        headers.push(("authorization", &authorization));
        let mut map = HeaderMap::new();
        for (name, text) in headers.into_iter().filter(|(name, _)| *name != "host") {
            let mut value = HeaderValue::from_str(text).map_err(|_| name)?;
            value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
            map.insert(HeaderName::from_static(name), value);
        }
        Ok(map)
    }

    async fn read_credentials(&self) -> Result<Credentials, Fault> {
        let source = Arc::clone(&self.credentials);
        let read = tokio::task::spawn_blocking(move || source()).await;
        let refused = |words: String| Fault::Refused { code: String::new(), words };
        read.unwrap_or_else(|_| Err("reading the credentials broke off".to_owned())).map_err(refused)
    }
}

/// Where the bucket is: an origin and what stands before the key. A bucket with dots is no name that AWS's certificates cover.
fn place(config: &S3Config) -> Result<(Url, String), String> {
    let S3Config { bucket, region, endpoint, .. } = config;
    let domain = countersign_egress::aws::domain_of(region);
    let (base, before) = match endpoint {
        Some(endpoint) => (endpoint.to_string(), format!("/{bucket}")),
        None if bucket.contains('.') => (format!("https://s3.{region}.{domain}/"), format!("/{bucket}")),
        None => (format!("https://{bucket}.s3.{region}.{domain}/"), String::new()),
    };
    let url = Url::parse(&base).map_err(|error| format!("{base}: {error}"))?;
    Ok((url, before))
}

/// Up to as much again, so that many who were turned away together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    pause * (nanos % 256) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_stands_in_the_host_unless_that_cannot_be() {
        let at = |bucket: &str, region: &str, endpoint: Option<&str>| {
            let mut config = S3Config::new(bucket.to_owned(), region.to_owned());
            config.endpoint = endpoint.map(|text| text.parse().expect("a URL"));
            place(&config).map(|(url, before)| format!("{url} {before}"))
        };
        for (bucket, region, endpoint, expected) in [
            ("kept", "eu-central-1", None, "https://kept.s3.eu-central-1.amazonaws.com/ "),
            ("kept.here", "eu-central-1", None, "https://s3.eu-central-1.amazonaws.com/ /kept.here"),
            ("kept", "cn-north-1", None, "https://kept.s3.cn-north-1.amazonaws.com.cn/ "),
            ("kept", "eu-central-1", Some("https://minio.example:9000"), "https://minio.example:9000/ /kept"),
        ] {
            assert_eq!(at(bucket, region, endpoint).as_deref(), Ok(expected));
        }
    }
}
