//! TLS on the listener: certificates that change while it runs, and clients that are known by theirs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_server::{Config, Node, Overrides};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

/// A certificate authority of the tests' own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn certify(&self, name: SanType, purpose: ExtendedKeyUsagePurpose) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    fn server(&self) -> Pair {
        self.certify(SanType::DnsName("localhost".try_into().expect("a name")), ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, uri: &str) -> Pair {
        self.certify(SanType::URI(uri.try_into().expect("a URI")), ExtendedKeyUsagePurpose::ClientAuth)
    }
}

struct World {
    node: Node,
    port: u16,
    home: tempfile::TempDir,
}

impl World {
    async fn start(settings: &str, files: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        for (name, text) in files.iter().chain([&("countersign.toml", settings)]) {
            write(&home.path().join(name), text);
        }
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let node = Node::start_on(config, listener).await.unwrap_or_else(|e| panic!("{e}"));
        Self { node, port, home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn connect(&self, trusted: &Authority, own: Option<&Pair>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// A key may be nobody else's to read.
fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
}

/// One request on a connection that is kept; the status line and the body, if the length is stated.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, port: u16) -> std::io::Result<(u16, String)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n").as_bytes()).await?;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.expect("in time")?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        all.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&all).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0_usize) {
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            return Ok((status, body.to_owned()));
        }
    }
}

const PLAIN: &str = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
const CLIENTS: &str = "client_ca = \"clients.pem\"\n\
    [[tls.clients]]\nuri = \"spiffe://hospital.example/ops\"\nprincipal = \"ops\"\nroles = [\"operator\"]\n\
    [[tls.clients]]\nuri = \"spiffe://hospital.example/agents/*\"\nkind = \"agent\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_dropping_anybody() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let pair = old.server();
    let world = World::start(PLAIN, &[("server.pem", &pair.certificate), ("server.key", &pair.key)]).await;
    assert!(world.node.url().starts_with("https://"));
    let mut kept = world.connect(&old, None).await.expect("the right authority");
    assert_eq!(kept.get_ref().1.alpn_protocol(), None, "none was offered");
    assert_eq!(ask(&mut kept, "/health", world.port).await.expect("answered").0, 200);
    assert!(world.connect(&new, None).await.is_err(), "another authority's word is nothing to this client");
    let mut plain = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connected");
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut answer)).await.expect("in time");
    assert!(!answer.starts_with(b"HTTP"), "nothing is served in the clear");

    // A broken file leaves the old certificate in force.
    write(&world.path("server.pem"), "not a certificate");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.connect(&old, None).await.expect("still the old one");
    let pair = new.server();
    write(&world.path("server.key"), &pair.key);
    write(&world.path("server.pem"), &pair.certificate);
    for round in 0.. {
        if world.connect(&new, None).await.is_ok() {
            break;
        }
        assert!(round < 100, "the new certificate never came into force");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask(&mut kept, "/health", world.port).await.expect("the old connection lives").0, 200);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_who_their_certificates_name() {
    let (servers, clients, strangers) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("clients"));
    let pair = servers.server();
    let files = [("server.pem", pair.certificate.as_str()), ("server.key", &pair.key), ("clients.pem", &clients.pem)];
    let world = World::start(&format!("{PLAIN}{CLIENTS}"), &files).await;
    let status = async |own: Option<Pair>, path: &str| {
        let mut stream = world.connect(&servers, own.as_ref()).await?;
        ask(&mut stream, path, world.port).await.map(|(status, _)| status)
    };
    assert_eq!(status(None, "/health").await.expect("answered"), 200, "a certificate is optional here");
    assert_eq!(status(None, "/admin/status").await.expect("answered"), 401);
    let ops = || Some(clients.client("spiffe://hospital.example/ops"));
    assert_eq!(status(ops(), "/admin/status").await.expect("answered"), 200);
    let agent = || Some(clients.client("spiffe://hospital.example/agents/bot"));
    assert_eq!(status(agent(), "/admin/status").await.expect("answered"), 403, "known, and no operator");
    assert_eq!(status(agent(), "/tool-catalog").await.expect("answered"), 200);
    for unknown in ["spiffe://hospital.example/ops2", "spiffe://hospital.example/agents/", "spiffe://evil.example/ops"]
    {
        assert_eq!(status(Some(clients.client(unknown)), "/tool-catalog").await.expect("answered"), 401, "{unknown}");
    }
    let forged = strangers.client("spiffe://hospital.example/ops");
    assert!(status(Some(forged), "/admin/status").await.is_err(), "an authority of the same name is not the same");
    // A server's certificate is not a client's.
    let wrong = clients.certify(
        SanType::URI("spiffe://hospital.example/ops".try_into().expect("a URI")),
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    assert!(status(Some(wrong), "/admin/status").await.is_err());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_certificate_is_required_nobody_gets_in_without() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let pair = servers.server();
    let files = [("server.pem", pair.certificate.as_str()), ("server.key", &pair.key), ("clients.pem", &clients.pem)];
    let world = World::start(&format!("{PLAIN}client_auth = \"required\"\n{CLIENTS}"), &files).await;
    let refused = match world.connect(&servers, None).await {
        // In TLS 1.3 the client learns it with the first answer.
        Ok(mut stream) => ask(&mut stream, "/health", world.port).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    let mut stream = world.connect(&servers, Some(&clients.client("spiffe://x"))).await.expect("certified");
    assert_eq!(ask(&mut stream, "/health", world.port).await.expect("answered").0, 200);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_everybody_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let pair = Authority::new("servers").server();
    let home = tempfile::tempdir().expect("a directory");
    for (name, text) in [("countersign.toml", PLAIN), ("server.pem", &pair.certificate), ("server.key", &pair.key)] {
        write(&home.path().join(name), text);
    }
    std::fs::set_permissions(home.path().join("server.key"), std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
    let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Node::start_on(config, listener).await.err().expect("refused").to_string();
    assert!(error.contains("server.key: everybody can read this key"), "{error}");
}
