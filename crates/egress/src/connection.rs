//! One HTTP/1.1 connection, driven by whoever uses it: no task of its own, and no word between tasks for each request.
//!
//! A connection that nobody uses is not driven. That the other side closed it is found out when it is taken out again.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What carries bytes: TCP, TLS, a tunnel through a proxy.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Noting>, Full<Bytes>>;

pub(crate) struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    /// Gone once the connection is over.
    driver: Option<Pin<Box<Driver>>>,
    sent: Arc<AtomicBool>,
}

/// Why there is no response, with the request if it was not taken.
pub(crate) struct Failed {
    pub(crate) error: hyper::Error,
    pub(crate) unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.driver.is_some()).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) async fn over(stream: Box<dyn Stream>) -> Result<Self, hyper::Error> {
        let sent = Arc::new(AtomicBool::new(false));
        let noting = Noting { stream, sent: Arc::clone(&sent) };
        let (requests, driver) = http1::handshake(TokioIo::new(noting)).await?;
        Ok(Self { requests, driver: Some(Box::pin(driver)), sent })
    }

    /// Whether any byte of the newest request was written.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        self.sent.store(false, Ordering::Release);
        let ready = poll_fn(|cx| {
            self.drive(cx);
            self.requests.poll_ready(cx)
        });
        if let Err(error) = ready.await {
            return Err(Failed { error, unsent: Some(Box::new(request)) });
        }
        let mut answer = std::pin::pin!(self.requests.try_send_request(request));
        let driver = &mut self.driver;
        let answered = poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(cx)
        });
        answered.await.map_err(|mut failed| {
            let unsent = failed.take_message().map(Box::new);
            Failed { error: failed.into_error(), unsent }
        })
    }

    /// The next frame of the body of this connection's response.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => {
                self.drive(cx);
                Pin::new(body).poll_frame(cx)
            }
        }
    }

    /// After a response's end: whether another request can be sent.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.is_open(cx))).await
    }

    /// Looks whether the connection is still there, which a closed one is not.
    pub(crate) fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.requests.is_ready()
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }
}

/// Once it is over there is nothing to drive, and whoever waits for it has been told.
fn drive(driver: &mut Option<Pin<Box<Driver>>>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && running.as_mut().poll(cx).is_ready()
    {
        *driver = None;
    }
}

/// Notes that a byte was written.
struct Noting {
    stream: Box<dyn Stream>,
    sent: Arc<AtomicBool>,
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.note(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts));
        self.note(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Noting {
    fn note(&self, written: &io::Result<usize>) {
        if written.as_ref().is_ok_and(|written| *written > 0) {
            self.sent.store(true, Ordering::Release);
        }
    }
}
