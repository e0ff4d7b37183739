//! Requests and responses under one purpose's rule.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, response};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use url::{Position, Url};

use crate::Purpose;
use crate::connection::Connection;
use crate::dial::Dialer;
use crate::error::{EgressError, chain};
use crate::pool::Pool;
use crate::rules::{Origin, Rule};

const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

/// A client for one purpose. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct PurposeClient {
    purpose: Purpose,
    rule: Arc<Rule>,
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
}

/// The head of a response; its body is read in pieces. Dropped before its end, it closes its connection.
#[derive(Debug)]
pub struct Response {
    head: response::Parts,
    body: Incoming,
    /// Until the body's end, when it goes back to the others.
    connection: Option<Connection>,
    origin: Origin,
    pool: Arc<Pool>,
}

impl PurposeClient {
    pub(crate) fn new(purpose: Purpose, rule: Rule, dialer: Arc<Dialer>) -> Self {
        Self { purpose, rule: Arc::new(rule), dialer, pool: Arc::default() }
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
        let origin = self.rule.check_url(url).map_err(refused)?;
        let request = self.request(method, url, headers, body)?;
        let mut used = None;
        match tokio::time::timeout_at(deadline.into(), self.exchange(request, url, origin, &mut used)).await {
            Ok(answered) => answered,
            Err(_) => Err(EgressError::Timeout { sent: used.is_some_and(|connection| connection.has_sent()) }),
        }
    }

    fn request(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, EgressError> {
        let unusable = |what: &str| EgressError::Refused(format!("the URL's {what} can't be sent"));
        let host = &url[Position::BeforeHost..Position::AfterPort];
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| unusable("host"))?);
        headers.entry(USER_AGENT).or_insert(const { HeaderValue::from_static(AGENT) });
        headers.entry(ACCEPT).or_insert(const { HeaderValue::from_static("*/*") });
        if let Some(credential) = self.dialer.proxy_credential(url) {
            headers.insert(http::header::PROXY_AUTHORIZATION, credential);
        }
        // A proxy is told the whole of an `http` URL (RFC 9112, 3.2.2); everybody else only the path.
        let from = if self.dialer.forwards(url) { Position::BeforeScheme } else { Position::BeforePath };
        let target = url[from..Position::AfterQuery].parse().map_err(|_| unusable("path"))?;
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, target, headers);
        Ok(request)
    }

    /// One exchange, on a kept connection if there is one. One that turns out to be closed is replaced as long as it is certain
    /// that nothing of the request was sent on it. `used` is the connection while the outcome is open.
    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        url: &Url,
        origin: Origin,
        used: &mut Option<Connection>,
    ) -> Result<Response, EgressError> {
        loop {
            let kept = self.pool.take(&origin);
            let (fresh, connection) = match kept {
                Some(connection) => (false, connection),
                None => (true, self.dialer.dial(url, &self.rule).await?),
            };
            let connection = used.insert(connection);
            match connection.send(request).await {
                Ok(response) => {
                    // No path and no query: they may hold what nobody else is to know.
                    let (purpose, status) = (self.purpose.as_str(), response.status().as_u16());
                    tracing::trace!(purpose, %origin, status, fresh, "answered");
                    let (head, body) = response.into_parts();
                    let connection = used.take();
                    let mut response = Response { head, body, connection, origin, pool: Arc::clone(&self.pool) };
                    if response.body.is_end_stream() {
                        response.ended().await;
                    }
                    return Ok(response);
                }
                Err(failed) => match (connection.has_sent(), failed.unsent) {
                    (true, _) => return Err(EgressError::Lost(chain(&failed.error))),
                    (false, Some(unsent)) if !fresh => request = *unsent,
                    (false, _) => return Err(EgressError::Unreachable(chain(&failed.error))),
                },
            }
        }
    }
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The next piece of the body as it arrives; `None` at its end.
    ///
    /// # Errors
    /// [`EgressError::Timeout`] or [`EgressError::Lost`].
    pub async fn chunk(&mut self, deadline: Instant) -> Result<Option<Bytes>, EgressError> {
        match tokio::time::timeout_at(deadline.into(), self.piece()).await {
            Ok(piece) => piece,
            Err(_) => Err(EgressError::Timeout { sent: true }),
        }
    }

    /// The whole body, at most `limit` bytes.
    ///
    /// # Errors
    /// [`EgressError::TooLarge`] as soon as it is known; otherwise as [`Response::chunk`].
    pub async fn bytes(mut self, limit: usize, deadline: Instant) -> Result<Bytes, EgressError> {
        if self.body.size_hint().lower() > limit as u64 {
            return Err(EgressError::TooLarge { limit });
        }
        let whole = async {
            let mut whole = self.piece().await?.unwrap_or_default();
            let mut longer = BytesMut::new();
            while whole.len() + longer.len() <= limit {
                match self.piece().await? {
                    Some(piece) if longer.is_empty() => {
                        longer.extend_from_slice(&whole);
                        longer.extend_from_slice(&piece);
                        whole = Bytes::new();
                    }
                    Some(piece) => longer.extend_from_slice(&piece),
                    None if longer.is_empty() => return Ok(whole),
                    None => return Ok(longer.freeze()),
                }
            }
            Err(EgressError::TooLarge { limit })
        };
        match tokio::time::timeout_at(deadline.into(), whole).await {
            Ok(whole) => whole,
            Err(_) => Err(EgressError::Timeout { sent: true }),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, EgressError> {
        loop {
            let Some(connection) = &mut self.connection else { return Ok(None) };
            match poll_fn(|cx| connection.poll_body(&mut self.body, cx)).await {
                Some(Ok(frame)) => {
                    // Trailers say nothing that anybody here asks for.
                    if let Ok(data) = frame.into_data() {
                        if self.body.is_end_stream() {
                            self.ended().await;
                        }
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(EgressError::Lost(chain(&error))),
                None => self.ended().await,
            }
        }
    }

    /// Nothing more comes: the connection can serve the next request, if it is still good.
    async fn ended(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if connection.is_reusable().await {
            self.pool.put(&self.origin, connection);
        }
    }
}
