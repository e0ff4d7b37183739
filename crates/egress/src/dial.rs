//! New connections: names resolved and addresses checked here, TLS, and a proxy if there is one.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use url::{Host, Position, Url};

use crate::EgressConfig;
use crate::connection::{Connection, Stream};
use crate::error::{EgressError, chain};
use crate::resolve::{Lookup, addresses};
use crate::rules::{Rule, is_localhost};

/// How long one address is waited for before the next is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

pub(crate) struct Dialer {
    proxy: Option<Proxy>,
    connect_timeout: Duration,
    lookup: Arc<dyn Lookup>,
    extra_roots: Vec<CertificateDer<'static>>,
    /// Made with the first connection that needs it: reading the platform's authorities takes time and memory.
    tls: OnceLock<Result<Connectors, String>>,
}

/// TLS by the same authorities, for each of what is spoken inside it.
struct Connectors {
    http: TlsConnector,
    other: TlsConnector,
}

/// What is spoken inside TLS: HTTP is named to the other side (RFC 7301), anything else is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http,
    Other,
}

struct Proxy {
    url: Url,
    credential: Option<HeaderValue>,
}

impl Dialer {
    pub(crate) fn new(config: &EgressConfig, lookup: Arc<dyn Lookup>) -> Result<Self, EgressError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&config.extra_roots).collect();
        let extra_roots = roots.map_err(|e| EgressError::Setup(format!("the further authorities: {e}")))?;
        let proxy = config.proxy.clone().map(Proxy::new).transpose()?;
        Ok(Self { proxy, connect_timeout: config.connect_timeout, lookup, extra_roots, tls: OnceLock::new() })
    }

    /// A connection on which this URL can be requested.
    pub(crate) async fn dial(&self, url: &Url, rule: &Rule) -> Result<Connection, EgressError> {
        let dialled = async {
            let is_https = url.scheme() == "https";
            let mut stream = self.way_to(url, rule, is_https).await?;
            if is_https {
                stream = self.secured(url, stream, Spoken::Http).await?;
            }
            Connection::over(stream).await.map_err(|e| EgressError::Unreachable(chain(&e)))
        };
        self.in_time(dialled).await
    }

    /// A connection to the URL's host and port, still without TLS.
    pub(crate) async fn open(&self, url: &Url, rule: &Rule) -> Result<Box<dyn Stream>, EgressError> {
        self.in_time(self.way_to(url, rule, true)).await
    }

    /// TLS on a connection, by the name of the URL's host.
    pub(crate) async fn upgrade(&self, url: &Url, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, EgressError> {
        self.in_time(self.secured(url, stream, Spoken::Other)).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, EgressError>>) -> Result<T, EgressError> {
        match tokio::time::timeout(self.connect_timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(EgressError::Unreachable("no connection in time".into())),
        }
    }

    /// TCP to the host, or to the proxy and, where it is to tunnel, through it.
    async fn way_to(&self, url: &Url, rule: &Rule, tunnelled: bool) -> Result<Box<dyn Stream>, EgressError> {
        let Some(proxy) = self.proxy_for(url) else { return Ok(Box::new(self.connect(url, Some(rule)).await?)) };
        let mut stream: Box<dyn Stream> = Box::new(self.connect(&proxy.url, None).await?);
        if proxy.url.scheme() == "https" {
            stream = self.secured(&proxy.url, stream, Spoken::Http).await?;
        }
        if tunnelled { tunnel(stream, proxy, url).await } else { Ok(stream) }
    }

    /// Whether a proxy is asked for this URL itself, instead of for a tunnel.
    pub(crate) fn forwards(&self, url: &Url) -> bool {
        url.scheme() == "http" && self.proxy_for(url).is_some()
    }

    /// The credential that the request to a forwarding proxy carries.
    pub(crate) fn proxy_credential(&self, url: &Url) -> Option<HeaderValue> {
        self.proxy_for(url).filter(|_| url.scheme() == "http")?.credential.clone()
    }

    fn proxy_for(&self, url: &Url) -> Option<&Proxy> {
        let is_local = match url.host()? {
            Host::Domain(name) => is_localhost(name.trim_end_matches('.')),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        self.proxy.as_ref().filter(|_| !is_local)
    }

    /// TCP to one of the host's addresses: those that the rule allows, or any of an operator's proxy.
    async fn connect(&self, url: &Url, rule: Option<&Rule>) -> Result<TcpStream, EgressError> {
        let unusable = || EgressError::Refused("the URL has no host or no port".into());
        let port = url.port_or_known_default().ok_or_else(unusable)?;
        let found = match url.host().ok_or_else(unusable)? {
            // Literals were checked with the URL.
            Host::Ipv4(address) => vec![IpAddr::V4(address)],
            Host::Ipv6(address) => vec![IpAddr::V6(address)],
            Host::Domain(name) => addresses(&*self.lookup, name, rule).await?,
        };
        let stream = first_of(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()).await;
        let stream = stream.map_err(|e| EgressError::Unreachable(chain(&e)))?;
        // Requests are written whole: waiting for more to send would only delay them.
        stream.set_nodelay(true).map_err(|e| EgressError::Unreachable(chain(&e)))?;
        Ok(stream)
    }

    async fn secured(
        &self,
        url: &Url,
        stream: Box<dyn Stream>,
        spoken: Spoken,
    ) -> Result<Box<dyn Stream>, EgressError> {
        let connectors = self.tls.get_or_init(|| self.connectors()).as_ref();
        let connectors = connectors.map_err(|why| EgressError::Setup(why.clone()))?;
        let connector = match spoken {
            Spoken::Http => &connectors.http,
            Spoken::Other => &connectors.other,
        };
        let name = match url.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address).into()),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address).into()),
            None => None,
        };
        let name = name.ok_or_else(|| EgressError::Refused("the URL's host is no name for TLS".into()))?;
        let shaken = connector.connect(name, stream).await;
        Ok(Box::new(shaken.map_err(|e| EgressError::Unreachable(format!("TLS: {}", chain(&e))))?))
    }

    fn connectors(&self) -> Result<Connectors, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::new_with_extra_roots(self.extra_roots.iter().cloned(), Arc::clone(&provider));
        let verifier = Arc::new(verifier.map_err(|e| chain(&e))?);
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| chain(&e))?.dangerous().with_custom_certificate_verifier(verifier);
        let other = builder.with_no_client_auth();
        let mut http = other.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Connectors { http: TlsConnector::from(Arc::new(http)), other: TlsConnector::from(Arc::new(other)) })
    }
}

impl Proxy {
    fn new(mut url: Url) -> Result<Self, EgressError> {
        let setup = |why: &str| EgressError::Setup(format!("the proxy: {why}"));
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(setup("it has to be an http or https URL with a host"));
        }
        let credential = (!url.username().is_empty()).then(|| {
            let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
            let pair = [decoded(url.username()), decoded(url.password().unwrap_or_default())].join(&b':');
            let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let credential = credential.flatten();
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| setup("its credential"))?;
        Ok(Self { url, credential })
    }
}

/// The first address that answers; each is given a head start before the next.
async fn first_of(addresses: Vec<SocketAddr>) -> std::io::Result<TcpStream> {
    let mut rest = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = std::io::Error::from(std::io::ErrorKind::NotFound);
    loop {
        if let Some(address) = rest.next() {
            attempts.spawn(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            },
            () = tokio::time::sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

/// A way through the proxy to the URL's host (RFC 9110, 9.3.6).
async fn tunnel(stream: Box<dyn Stream>, proxy: &Proxy, url: &Url) -> Result<Box<dyn Stream>, EgressError> {
    let unreachable = |why: String| EgressError::Unreachable(format!("the proxy: {why}"));
    let host = &url[Position::BeforeHost..Position::AfterHost];
    let authority = format!("{host}:{}", url.port_or_known_default().unwrap_or(443));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = authority.parse().map_err(|_| unreachable("the host can't be named to it".into()))?;
    let named = HeaderValue::from_str(&authority).map_err(|_| unreachable("the host can't be named to it".into()))?;
    request.headers_mut().insert(HOST, named);
    request.headers_mut().extend(proxy.credential.clone().map(|value| (PROXY_AUTHORIZATION, value)));
    let (mut requests, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(chain(&e)))?;
    // It ends with the answer, whose connection is then ours.
    tokio::spawn(driver.with_upgrades());
    let response = requests.send_request(request).await.map_err(|e| unreachable(chain(&e)))?;
    if !response.status().is_success() {
        return Err(unreachable(format!("it answered {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| unreachable(chain(&e)))?;
    Ok(Box::new(TokioIo::new(upgraded)))
}
