//! A server that answers as a test says, over TCP or TLS, one request a connection; and a certificate for it.

use std::sync::{Arc, Mutex, PoisonError};

use rcgen::CertifiedKey;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What it answers.
pub struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// After the body nothing comes, and the connection stays.
    hangs: bool,
    /// The body comes again and again.
    endless: bool,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, headers: String::new(), body: Vec::new(), hangs: false, endless: false }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self { body: body.to_string().into_bytes(), ..Self::status(status) }
    }

    pub fn text(body: &str) -> Self {
        Self { body: body.as_bytes().to_vec(), ..Self::status(200) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub fn hanging(self) -> Self {
        Self { hangs: true, ..self }
    }

    pub fn endless(self) -> Self {
        Self { endless: true, ..self }
    }
}

/// A running one.
pub struct Fake {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

impl Fake {
    pub async fn start(handler: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(handler), None).await
    }

    pub async fn over_tls(authority: &Authority, handler: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(handler), Some(authority.acceptor())).await
    }

    async fn serve(handler: Handler, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (handler, seen, tls) = (Arc::clone(&handler), Arc::clone(&seen), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(socket, handler, seen).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => answer(socket, handler, seen).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { port, requests }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1` and its port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What came, whole.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    handler: Handler,
    seen: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let request = request(&mut socket).await?;
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let answer = handler(&request);
    let length = match answer.endless || answer.hangs {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {}", answer.body.len()),
    };
    let head = format!("HTTP/1.1 {} X\r\n{}{length}\r\nconnection: close\r\n\r\n", answer.status, answer.headers);
    socket.write_all(head.as_bytes()).await.ok()?;
    if !request.starts_with("HEAD ") {
        let chunk = [format!("{:x}\r\n", answer.body.len()).as_bytes(), &answer.body, b"\r\n"].concat();
        loop {
            let chunked = answer.endless || answer.hangs;
            socket.write_all(if chunked { &chunk } else { &answer.body }).await.ok()?;
            if !answer.endless {
                break;
            }
        }
        if answer.hangs {
            socket.flush().await.ok()?;
            std::future::pending::<()>().await;
        }
    }
    socket.shutdown().await.ok()
}

async fn request(socket: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap_or(0)) {
                return Some(text);
            }
        }
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// A self-signed certificate and its key.
#[derive(Clone)]
pub struct Authority(Arc<CertifiedKey<rcgen::KeyPair>>);

impl Authority {
    pub fn new(name: &str) -> Self {
        Self(Arc::new(rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate")))
    }

    pub fn pem(&self) -> String {
        self.0.cert.pem()
    }

    /// PKCS #8.
    pub fn key(&self) -> Vec<u8> {
        self.0.signing_key.serialize_der()
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key())))
            .expect("a server");
        TlsAcceptor::from(Arc::new(config))
    }
}
