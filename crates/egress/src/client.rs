//! Requests and responses under one purpose's rule.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use url::Url;

use crate::error::{EgressError, chain};
use crate::resolve::{AddressRefused, GuardedResolver, Lookup};
use crate::rules::Rule;
use crate::{EgressConfig, Purpose};

/// Idle connections are dropped before common servers drop theirs (5 s in Node.js): a request on a connection that is
/// just being closed would leave a write with an unknown outcome.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections kept for one host.
const IDLE_PER_HOST: usize = 64;

/// A client for one purpose. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct PurposeClient {
    purpose: Purpose,
    rule: Arc<Rule>,
    http: reqwest::Client,
}

/// The head of a response; its body is read in pieces.
#[derive(Debug)]
pub struct Response {
    inner: reqwest::Response,
}

impl PurposeClient {
    pub(crate) fn new(
        purpose: Purpose,
        rule: Rule,
        config: &EgressConfig,
        lookup: &Arc<dyn Lookup>,
    ) -> Result<Self, EgressError> {
        let rule = Arc::new(rule);
        let setup = |e: reqwest::Error| EgressError::Setup(chain(&e));
        let resolver = GuardedResolver { rule: Arc::clone(&rule), lookup: Arc::clone(lookup) };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .dns_resolver(Arc::new(resolver));
        if let Some(proxy) = &config.proxy {
            let except = reqwest::NoProxy::from_string("localhost,127.0.0.0/8,::1");
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(setup)?.no_proxy(except));
        }
        if !config.extra_roots.is_empty() {
            let roots = reqwest::Certificate::from_pem_bundle(&config.extra_roots).map_err(setup)?;
            builder = builder.tls_certs_merge(roots);
        }
        Ok(Self { purpose, rule, http: builder.build().map_err(setup)? })
    }

    /// What the client is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Sends one request and waits for the head of its response. Redirects are responses like any other.
    ///
    /// # Errors
    /// [`EgressError`]; [`EgressError::not_sent`] tells whether the request may have reached anyone.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response, EgressError> {
        let refused = |why| EgressError::Refused(format!("{} ({})", why, self.purpose.as_str()));
        self.rule.check_url(url).map_err(refused)?;
        let sent = Arc::new(AtomicBool::new(false));
        let mut request = self.http.request(method, url.clone()).headers(headers);
        // A request without a body is not tracked; it then counts as sent as soon as it is tried.
        if body.is_empty() {
            sent.store(true, Ordering::Release);
        } else {
            request = request.body(reqwest::Body::wrap(TrackedBody { bytes: Some(body), sent: Arc::clone(&sent) }));
        }
        match tokio::time::timeout_at(deadline.into(), request.send()).await {
            Ok(Ok(inner)) => Ok(Response { inner }),
            Ok(Err(error)) => Err(classify(&error, sent.load(Ordering::Acquire))),
            Err(_) => Err(EgressError::Timeout { sent: sent.load(Ordering::Acquire) }),
        }
    }
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The next piece of the body as it arrives; `None` at its end.
    ///
    /// # Errors
    /// [`EgressError::Timeout`] or [`EgressError::Lost`].
    pub async fn chunk(&mut self, deadline: Instant) -> Result<Option<Bytes>, EgressError> {
        match tokio::time::timeout_at(deadline.into(), self.inner.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(EgressError::Lost(chain(&error))),
            Err(_) => Err(EgressError::Timeout { sent: true }),
        }
    }

    /// The whole body, at most `limit` bytes.
    ///
    /// # Errors
    /// [`EgressError::TooLarge`] as soon as it is known; otherwise as [`Response::chunk`].
    pub async fn bytes(mut self, limit: usize, deadline: Instant) -> Result<Bytes, EgressError> {
        if self.inner.content_length().is_some_and(|length| length > limit as u64) {
            return Err(EgressError::TooLarge { limit });
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk(deadline).await? {
            if whole.len() + chunk.len() > limit {
                return Err(EgressError::TooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

fn classify(error: &reqwest::Error, sent: bool) -> EgressError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<AddressRefused>() {
            return EgressError::Refused(refused.0.clone());
        }
        cause = inner.source();
    }
    if error.is_connect() || error.is_builder() || !sent {
        return EgressError::Unreachable(chain(error));
    }
    EgressError::Lost(chain(error))
}

/// A body that notes when the connection first asks for it. The connection is made before that, and nothing, not even the
/// request's head, is flushed before that: a body that nobody asked for was certainly not sent.
struct TrackedBody {
    bytes: Option<Bytes>,
    sent: Arc<AtomicBool>,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.sent.store(true, Ordering::Release);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |b| b.len() as u64))
    }
}
