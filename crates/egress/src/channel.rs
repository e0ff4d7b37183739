//! Connections whose bytes are the caller's, for protocols that are not HTTP. TLS begins with the first byte, later, or never.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::Url;

use crate::Purpose;
use crate::connection::Stream;
use crate::dial::Dialer;
use crate::error::EgressError;
use crate::rules::Rule;

/// A host and a port under one purpose's rule. Cheap to clone; nothing is connected until [`Endpoint::open`].
#[derive(Clone)]
pub struct Endpoint {
    purpose: Purpose,
    /// Its host and port; the scheme says nothing.
    url: Url,
    rule: Arc<Rule>,
    dialer: Arc<Dialer>,
}

/// An open connection. Dropped, it is closed. Deadlines for reading and writing are the caller's.
pub struct Channel {
    stream: Box<dyn Stream>,
    endpoint: Endpoint,
    secure: bool,
}

impl Endpoint {
    pub(crate) fn new(purpose: Purpose, url: Url, rule: Rule, dialer: Arc<Dialer>) -> Self {
        Self { purpose, url, rule: Arc::new(rule), dialer }
    }

    /// Connects, without TLS: [`Channel::secured`] adds it.
    ///
    /// # Errors
    /// [`EgressError`], always such that nothing was sent.
    pub async fn open(&self, deadline: Instant) -> Result<Channel, EgressError> {
        let refused = |why| EgressError::Refused(format!("{why} ({})", self.purpose.as_str()));
        self.rule.check_url(&self.url).map_err(refused)?;
        let opened = tokio::time::timeout_at(deadline.into(), self.dialer.open(&self.url, &self.rule)).await;
        let stream = opened.unwrap_or(Err(EgressError::Timeout { sent: false }))?;
        Ok(Channel { stream, endpoint: self.clone(), secure: false })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}, {:?})", self.purpose.as_str(), self.url.host_str())
    }
}

impl Channel {
    /// The same connection with TLS from here on, by the name of the endpoint's host. Whatever was read and not yet looked at
    /// was sent before, by anybody: the caller must not take it for what comes after.
    ///
    /// # Errors
    /// [`EgressError`]; the connection is closed.
    pub async fn secured(self, deadline: Instant) -> Result<Self, EgressError> {
        let Self { stream, endpoint, .. } = self;
        let shaken = tokio::time::timeout_at(deadline.into(), endpoint.dialer.upgrade(&endpoint.url, stream)).await;
        let stream = shaken.unwrap_or(Err(EgressError::Timeout { sent: false }))?;
        Ok(Self { stream, endpoint, secure: true })
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({:?}, secure: {})", self.endpoint, self.secure)
    }
}

impl AsyncRead for Channel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
