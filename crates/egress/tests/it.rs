//! The client against real sockets: what is refused, what is certain, what is bounded.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig, EgressError, Lookup, Purpose, PurposeClient, Response, Rule};
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use url::Url;

/// Answers every connection with these bytes, after a first read; counts connections.
async fn server(answer: &'static [u8], hold: bool) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(socket, answer, hold));
        }
    });
    (port, count)
}

async fn serve(mut socket: TcpStream, answer: &'static [u8], hold: bool) {
    let mut buffer = [0; 4096];
    let _ = socket.read(&mut buffer).await;
    let _ = socket.write_all(answer).await;
    if hold {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Names that lead where a test says, another place each time.
struct Fixed(Vec<Vec<IpAddr>>, AtomicUsize);

#[async_trait]
impl Lookup for Fixed {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst);
        Ok(self.0[turn % self.0.len()].clone())
    }
}

fn leading_to(turns: &[&[&str]]) -> Arc<Fixed> {
    let parse = |texts: &&[&str]| texts.iter().map(|t| t.parse().expect("an address")).collect();
    Arc::new(Fixed(turns.iter().map(parse).collect(), AtomicUsize::new(0)))
}

fn url(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

async fn post(client: &PurposeClient, target: &Url, millis: u64) -> Result<Response, EgressError> {
    let deadline = Instant::now() + Duration::from_millis(millis);
    client.send(Method::POST, target, HeaderMap::new(), Bytes::from_static(b"{}"), deadline).await
}

#[tokio::test]
async fn a_configured_literal_is_reached_and_a_redirect_is_not_followed() {
    let (elsewhere, visits) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let answer =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 2\r\n\r\nok");
    let (port, _) = server(answer.leak().as_bytes(), false).await;
    let target = url(&format!("http://127.0.0.1:{port}/mcp"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    let response = post(&client, &target, 5_000).await.expect("an answer");
    assert_eq!(response.status(), 302);
    let body = response.bytes(10, Instant::now() + Duration::from_secs(5)).await.expect("a body");
    assert_eq!((&body[..], visits.load(Ordering::SeqCst)), (&b"ok"[..], 0));
}

#[tokio::test]
async fn other_origins_are_refused_before_anything_is_sent() {
    let (port, visits) = server(b"HTTP/1.1 200 OK\r\n\r\n", false).await;
    let client = Egress::new(EgressConfig::default())
        .client_for(Purpose::Jwks, &url("https://issuer.example/"))
        .expect("a client");
    for target in
        [format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/"), "http://issuer.example/".into()]
    {
        let error = post(&client, &url(&target), 1_000).await.expect_err("refused");
        assert!(matches!(error, EgressError::Refused(_)) && error.not_sent(), "{error}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_even_if_it_once_led_outside() {
    let (port, visits) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let target = url(&format!("http://rebind.example:{port}/"));
    // 192.0.2.1 (TEST-NET) is special, too; a public address must not be connected to from a test.
    for turns in
        [&[&["127.0.0.1"][..]][..], &[&["169.254.169.254"], &["127.0.0.1"]], &[&["::ffff:127.0.0.1", "10.0.0.1"]]]
    {
        let egress = Egress::with_lookup(EgressConfig::default(), leading_to(turns));
        let client = egress.client_for(Purpose::Upstream, &target).expect("a client");
        for _ in 0..2 {
            let error = post(&client, &target, 1_000).await.expect_err("refused");
            assert!(matches!(&error, EgressError::Refused(why) if why.contains("not a public address")), "{error}");
        }
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_listed_network_is_reached_and_bad_addresses_are_left_out() {
    let (port, visits) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let target = url(&format!("http://inside.example:{port}/"));
    let rule = Rule { networks: vec!["127.0.0.1/32".parse().expect("a network")], ..Rule::default() };
    let config = EgressConfig { rules: [(Purpose::Upstream, rule)].into(), ..EgressConfig::default() };
    let egress = Egress::with_lookup(config, leading_to(&[&["169.254.169.254", "127.0.0.1"]]));
    let client = egress.client_for(Purpose::Upstream, &target).expect("a client");
    assert_eq!(post(&client, &target, 2_000).await.expect("an answer").status(), 200);
    // The networks of one purpose are not another's.
    let other = egress.client_for(Purpose::Webhook, &target).expect("a client");
    assert!(matches!(post(&other, &target, 1_000).await, Err(EgressError::Refused(_))));
    assert_eq!(visits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn localhost_in_a_configured_url_means_the_loopback() {
    let (port, _) = server(b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
    let target = url(&format!("http://localhost:{port}/"));
    let egress = Egress::with_lookup(EgressConfig::default(), leading_to(&[&["127.0.0.1"]]));
    let client = egress.client_for(Purpose::Upstream, &target).expect("a client");
    assert_eq!(post(&client, &target, 2_000).await.expect("an answer").status(), 204);
}

#[tokio::test]
async fn errors_say_whether_the_request_may_have_been_sent() {
    // Nobody listens: certain.
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address").port();
    let target = url(&format!("http://127.0.0.1:{closed}/"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    let error = post(&client, &target, 2_000).await.expect_err("nobody there");
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");

    // The connection closes after the request was read: not certain.
    let (port, _) = server(b"", false).await;
    let target = url(&format!("http://127.0.0.1:{port}/"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    let error = post(&client, &target, 2_000).await.expect_err("lost");
    assert!(matches!(error, EgressError::Lost(_)), "{error:?}");

    // No answer: the deadline holds, and the request was sent.
    let (port, _) = server(b"", true).await;
    let target = url(&format!("http://127.0.0.1:{port}/"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    let start = Instant::now();
    assert_eq!(post(&client, &target, 300).await.expect_err("late"), EgressError::Timeout { sent: true });
    assert!(start.elapsed() < Duration::from_secs(2));

    // A name whose resolution takes longer than the deadline: nothing was sent.
    struct Slow;
    #[async_trait]
    impl Lookup for Slow {
        async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(Vec::new())
        }
    }
    let target = url("https://slow.example/");
    let client = Egress::with_lookup(EgressConfig::default(), Arc::new(Slow)).client_for(Purpose::Upstream, &target);
    let error = post(&client.expect("a client"), &target, 200).await.expect_err("late");
    assert_eq!(error, EgressError::Timeout { sent: false });
}

#[tokio::test]
async fn bodies_are_bounded_whatever_the_head_says() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n";
    for (answer, limit, ok) in
        [(&b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"[..], 10, false), (chunked, 9, false), (chunked, 10, true)]
    {
        let (port, _) = server(answer, false).await;
        let target = url(&format!("http://127.0.0.1:{port}/"));
        let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
        let response = post(&client, &target, 2_000).await.expect("a head");
        let body = response.bytes(limit, Instant::now() + Duration::from_secs(2)).await;
        assert_eq!(body.is_ok(), ok, "{body:?}");
        if !ok {
            assert_eq!(body, Err(EgressError::TooLarge { limit }));
        }
    }
}

/// Reads one request's head at a time; answers each, and closes after as many as it is told.
async fn patient(answers: usize) -> (u16, Arc<AtomicUsize>, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let (heads, heard) = mpsc::unbounded_channel();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let heads = heads.clone();
            tokio::spawn(async move {
                for _ in 0..answers {
                    let mut buffer = [0; 4096];
                    let read = socket.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 || heads.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                        return;
                    }
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (port, count, heard)
}

async fn body(client: &PurposeClient, target: &Url) -> Result<Bytes, EgressError> {
    post(client, target, 5_000).await?.bytes(10, Instant::now() + Duration::from_secs(5)).await
}

#[tokio::test]
async fn connections_are_used_again_and_replaced_once_closed() {
    let (port, visits, mut heard) = patient(2).await;
    let target = url(&format!("http://127.0.0.1:{port}/a?b=c"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    for round in 1..=5_usize {
        assert_eq!(&body(&client, &target).await.expect("an answer")[..], b"ok");
        assert_eq!(visits.load(Ordering::SeqCst), round.div_ceil(2));
        // The server's end may still be on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let head = heard.recv().await.expect("a request").to_ascii_lowercase();
    assert!(head.starts_with("post /a?b=c http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: 127.0.0.1:{port}\r\n")), "{head}");
    assert!(head.contains("\r\ncontent-length: 2\r\n") && head.ends_with("{}"), "{head}");
}

#[tokio::test]
async fn a_response_that_is_dropped_early_closes_its_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart";
    let (port, visits) = server(answer, true).await;
    let target = url(&format!("http://127.0.0.1:{port}/"));
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Upstream, &target).expect("a client");
    for round in 1..=2 {
        let mut response = post(&client, &target, 2_000).await.expect("a head");
        let piece = response.chunk(Instant::now() + Duration::from_secs(2)).await.expect("a piece");
        assert_eq!((piece.as_deref(), visits.load(Ordering::SeqCst)), (Some(&b"part"[..]), round));
    }
}

#[tokio::test]
async fn a_proxy_forwards_http_tunnels_https_and_is_left_out_for_loopback() {
    let (port, visits, mut heard) = patient(1).await;
    let proxy = Some(url(&format!("http://user:p%40ss@127.0.0.1:{port}/")));
    // No name is resolved: the proxy does that.
    let egress = Egress::with_lookup(EgressConfig { proxy, ..EgressConfig::default() }, leading_to(&[&[]]));
    let plain = url("http://plain.example/path");
    let client = egress.client_for(Purpose::Upstream, &plain).expect("a client");
    assert_eq!(&body(&client, &plain).await.expect("an answer")[..], b"ok");
    let head = heard.recv().await.expect("a request");
    assert!(head.starts_with("POST http://plain.example/path HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: Basic dXNlcjpwQHNz\r\n"), "{head}");

    let secret = url("https://secret.example/path");
    let client = egress.client_for(Purpose::Upstream, &secret).expect("a client");
    // The tunnel is granted, and what speaks at its end is no TLS.
    let error = post(&client, &secret, 5_000).await.expect_err("no TLS there");
    assert!(error.not_sent(), "{error:?}");
    let head = heard.recv().await.expect("a request");
    assert!(head.starts_with("CONNECT secret.example:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: Basic dXNlcjpwQHNz\r\n"), "{head}");

    let (near, _) = server(b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
    let target = url(&format!("http://127.0.0.1:{near}/"));
    let client = egress.client_for(Purpose::Upstream, &target).expect("a client");
    assert_eq!(post(&client, &target, 2_000).await.expect("an answer").status(), 204);
    assert_eq!(visits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn tls_trusts_further_authorities_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let target = url(&format!("https://localhost:{}/", listener.local_addr().expect("an address").port()));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = acceptor.accept(socket).await else { return };
                let mut buffer = [0; 4096];
                let _ = socket.read(&mut buffer).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = socket.shutdown().await;
            });
        }
    });
    let roots = |extra_roots| EgressConfig { extra_roots, ..EgressConfig::default() };
    let through = |config| {
        let egress = Egress::with_lookup(config, leading_to(&[&["127.0.0.1"]]));
        egress.client_for(Purpose::Upstream, &target)
    };
    let client = through(roots(made.cert.pem().into_bytes())).expect("a client");
    assert_eq!(&body(&client, &target).await.expect("an answer")[..], b"ok");
    let error = body(&through(roots(Vec::new())).expect("a client"), &target).await.expect_err("a stranger");
    assert!(error.not_sent(), "{error:?}");
    let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    assert!(matches!(through(roots(broken.into())), Err(EgressError::Setup(_))));
}

/// A server that speaks first, and goes on in TLS once it is told to; anything else ends it.
async fn upgrading(acceptor: TlsAcceptor) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = socket.write_all(b"hello").await;
                let mut said = [0; 3];
                if socket.read_exact(&mut said).await.is_err() || &said != b"TLS" {
                    return;
                }
                let Ok(mut socket) = acceptor.accept(socket).await else { return };
                let protocol = socket.get_ref().1.alpn_protocol().map_or(0, <[u8]>::len);
                let _ = socket.write_all(&[b'0' + u8::try_from(protocol).unwrap_or(9)]).await;
                let _ = socket.flush().await;
            });
        }
    });
    port
}

#[tokio::test]
async fn other_protocols_run_on_channels_that_become_secure_when_they_are_told() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let port = upgrading(TlsAcceptor::from(Arc::new(config))).await;
    let soon = || Instant::now() + Duration::from_secs(5);
    let egress = |extra_roots| {
        let config = EgressConfig { extra_roots, ..EgressConfig::default() };
        Egress::with_lookup(config, leading_to(&[&["127.0.0.1"]]))
    };
    let upgraded = async |egress: Egress| {
        let endpoint = egress.endpoint(Purpose::Mail, ("localhost", port), &[]).expect("an endpoint");
        let mut channel = endpoint.open(soon()).await.expect("connected");
        let mut hello = [0; 5];
        channel.read_exact(&mut hello).await.expect("a word");
        assert!(&hello == b"hello" && !channel.is_secure());
        channel.write_all(b"TLS").await.expect("sent");
        channel.secured(soon()).await
    };
    let mut channel = upgraded(egress(made.cert.pem().into_bytes())).await.expect("secure");
    let mut protocol = [0];
    channel.read_exact(&mut protocol).await.expect("a word");
    assert!(protocol == *b"0" && channel.is_secure(), "HTTP is not announced: {protocol:?}");
    let error = upgraded(egress(Vec::new())).await.expect_err("a stranger");
    assert!(matches!(&error, EgressError::Unreachable(why) if why.contains("TLS")), "{error}");
}

#[tokio::test]
async fn endpoints_lead_where_the_operator_says_and_nowhere_else() {
    let (port, visits) = server(b"", true).await;
    let soon = || Instant::now() + Duration::from_secs(2);
    let inside = || Egress::with_lookup(EgressConfig::default(), leading_to(&[&["127.0.0.1"]]));
    let refused = inside().endpoint(Purpose::Mail, ("mail.example", port), &[]).expect("an endpoint");
    let error = refused.open(soon()).await.expect_err("refused");
    assert!(matches!(&error, EgressError::Refused(why) if why.contains("not a public address")), "{error}");
    let listed = ["127.0.0.0/8".parse().expect("a network")];
    let endpoint = inside().endpoint(Purpose::Mail, ("mail.example", port), &listed).expect("an endpoint");
    endpoint.open(soon()).await.expect("connected");
    let literal = inside().endpoint(Purpose::Mail, ("127.0.0.1", port), &[]).expect("an endpoint");
    literal.open(soon()).await.expect("connected");
    assert_eq!(visits.load(Ordering::SeqCst), 2);
    for (host, port) in [("", 25), ("a/b", 25), ("a@b", 25), ("a:1", 25), ("a b", 25), ("[::1", 25), ("a", 0)] {
        let made = inside().endpoint(Purpose::Mail, (host, port), &[]);
        assert!(matches!(made, Err(EgressError::Refused(_))), "{host}:{port}");
    }
    assert!(inside().endpoint(Purpose::Mail, ("::1", 25), &[]).is_ok());
    // A proxy tunnels to it.
    let (proxied, _, mut heard) = patient(1).await;
    let proxy = Some(url(&format!("http://127.0.0.1:{proxied}/")));
    let egress = Egress::with_lookup(EgressConfig { proxy, ..EgressConfig::default() }, leading_to(&[&[]]));
    let endpoint = egress.endpoint(Purpose::Mail, ("mail.example", 587), &[]).expect("an endpoint");
    // What is granted has a body here, which is none of a tunnel's.
    drop(endpoint.open(soon()).await);
    let head = heard.recv().await.expect("a request");
    assert!(head.starts_with("CONNECT mail.example:587 HTTP/1.1\r\n"), "{head}");
}
