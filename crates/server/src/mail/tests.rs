//! The client against servers that refuse, lie, wait, flood and go away, over real sockets and real TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use countersign_egress::EgressConfig;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const MAIL: &str = "Subject: hello\r\n\r\n.hidden\r\nbye\r\n";
const PASSWORD: &str = "hunter2";
/// `\0node\0hunter2`.
const PLAIN: &str = "AG5vZGUAaHVudGVyMg==";

/// What the server does when it hears what it waits for.
#[derive(Clone)]
enum Does {
    Says(String),
    /// Byte by byte.
    Mutters(String),
    Tls,
    Closes,
    Hangs,
    Floods(&'static str),
}

/// The beginning of a line that is waited for, and what follows. An empty one is not waited for; a dot is, over all lines.
type Step = (&'static str, Vec<Does>);

fn says(text: &str) -> Vec<Does> {
    vec![Does::Says(format!("{text}\r\n"))]
}

/// A server as it should be.
fn good() -> Vec<Step> {
    vec![
        ("", says("220 mail.example at your service")),
        ("EHLO node.example", says("250-mail.example\r\n250 STARTTLS")),
        ("STARTTLS", vec![Does::Says("220 go on\r\n".into()), Does::Tls]),
        ("EHLO node.example", says("250-mail.example\r\n250-SIZE 10000\r\n250 AUTH LOGIN PLAIN")),
        ("AUTH PLAIN", says("235 welcome")),
        ("MAIL FROM:<node@example.com>", says("250 yes")),
        ("RCPT TO:<ann@example.com>", says("250 yes")),
        ("RCPT TO:<bob@example.com>", says("250 yes")),
        ("DATA", says("354 go on")),
        (".", says("250 2.0.0 taken")),
        ("QUIT", says("221 bye")),
    ]
}

const GREETING: usize = 0;
const EHLO: usize = 1;
const TLS: usize = 2;
const OFFERS: usize = 3;
const AUTH: usize = 4;
const SENDER: usize = 5;
const ANN: usize = 6;
const BOB: usize = 7;
const DATA: usize = 8;
const DOT: usize = 9;
const QUIT: usize = 10;

fn with(step: usize, does: Vec<Does>) -> Vec<Step> {
    let mut steps = good();
    steps[step].1 = does;
    steps
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A certificate for the loopback, and its authority as PEM.
fn certified() -> (TlsAcceptor, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem().into_bytes())
}

/// Plays its part for one connection, and gives what it heard.
async fn play(mut stream: Box<dyn Stream>, acceptor: TlsAcceptor, steps: Vec<Step>) -> Vec<String> {
    let (mut heard, mut rest) = (Vec::new(), Vec::new());
    for (awaited, does) in steps {
        while !awaited.is_empty() {
            let Some(line) = line(&mut stream, &mut rest).await else { return heard };
            heard.push(line.clone());
            let over = if awaited == "." { line == "." } else { line.starts_with(awaited) };
            if over {
                break;
            }
            assert_eq!(awaited, ".", "heard {line:?}");
        }
        for act in does {
            match act {
                Does::Says(text) => drop(stream.write_all(text.as_bytes()).await),
                Does::Mutters(text) => {
                    for byte in text.bytes() {
                        if stream.write_all(&[byte]).await.is_err() {
                            return heard;
                        }
                        tokio::time::sleep(Duration::from_millis(30)).await;
                    }
                }
                Does::Tls => match acceptor.accept(stream).await {
                    Ok(secured) => stream = Box::new(secured),
                    Err(_) => return heard,
                },
                Does::Closes => return heard,
                Does::Hangs => {
                    // Until the other side has had enough.
                    while line(&mut stream, &mut rest).await.is_some() {}
                    return heard;
                }
                Does::Floods(text) => while stream.write_all(text.as_bytes()).await.is_ok() {},
            }
            drop(stream.flush().await);
        }
    }
    heard
}

async fn line(stream: &mut Box<dyn Stream>, rest: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let line = rest.drain(..end + 2).collect::<Vec<u8>>();
            return Some(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        rest.extend_from_slice(&buffer[..read]);
    }
}

/// How a mailer is made for a test.
struct Setting {
    tls: MailTls,
    password: String,
    trusts: bool,
    patience: Duration,
}

const USUAL: Duration = Duration::from_secs(10);

impl Default for Setting {
    fn default() -> Self {
        Self { tls: MailTls::StartTls, password: PASSWORD.to_owned(), trusts: true, patience: USUAL }
    }
}

/// One mail to a server with this part: what came of it, and what the server heard.
async fn attempt(setting: Setting, steps: Vec<Step>) -> (Result<Vec<Recipient>, MailError>, Vec<String>) {
    let (acceptor, root) = certified();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let implicit = setting.tls == MailTls::Implicit;
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let stream: Box<dyn Stream> = match implicit {
            true => Box::new(acceptor.accept(socket).await.unwrap()),
            false => Box::new(socket),
        };
        play(stream, acceptor, steps).await
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", setting.password)).unwrap();
    let settings = MailSettings {
        host: "127.0.0.1".to_owned(),
        port,
        tls: setting.tls,
        from: "node@example.com".to_owned(),
        login: Some(MailLogin { username: "node".to_owned(), password_file: file.path().to_owned() }),
        networks: Vec::new(),
    };
    let extra_roots = if setting.trusts { root } else { Vec::new() };
    let egress = Egress::new(EgressConfig { extra_roots, ..EgressConfig::default() });
    let mailer = Mailer::open(&settings, "node.example", &egress).unwrap();
    let to = ["ann@example.com".to_owned(), "bob@example.com".to_owned()];
    let sent = mailer.send(&to, MAIL, Instant::now() + setting.patience).await;
    (sent, server.await.unwrap())
}

fn undone(sent: &Result<Vec<Recipient>, MailError>) -> &str {
    match sent {
        Err(MailError::Undone(why)) => why,
        other => panic!("not undone: {other:?}"),
    }
}

fn unknown(sent: &Result<Vec<Recipient>, MailError>) -> &str {
    match sent {
        Err(MailError::Unknown(why)) => why,
        other => panic!("not unknown: {other:?}"),
    }
}

#[tokio::test]
async fn a_mail_is_taken_over_tls_by_those_who_take_it() {
    let (sent, heard) = attempt(Setting::default(), with(BOB, says("550 5.1.1 <bob@example.com> is nobody"))).await;
    let sent = sent.unwrap();
    assert_eq!(sent[0], Recipient { address: "ann@example.com".into(), refused: None });
    assert_eq!(sent[1].refused.as_ref().unwrap().to_string(), "550 5.1.1");
    let end = ["DATA", "Subject: hello", "", "..hidden", "bye", ".", "QUIT"];
    assert_eq!(heard[3], format!("AUTH PLAIN {PLAIN}"));
    assert!(heard.ends_with(&end.map(str::to_owned)), "{heard:?}");
}

#[tokio::test]
async fn tls_may_come_first_or_on_this_machine_not_at_all() {
    for tls in [MailTls::Implicit, MailTls::None] {
        let mut steps = good();
        steps.drain(EHLO..OFFERS);
        let (sent, heard) = attempt(Setting { tls, ..Setting::default() }, steps).await;
        assert_eq!((sent.unwrap().len(), heard[1].as_str()), (2, format!("AUTH PLAIN {PLAIN}").as_str()));
    }
}

#[tokio::test]
async fn passwords_go_as_the_server_takes_them() {
    let mut steps = with(OFFERS, says("250-mail.example\r\n250 AUTH CRAM-MD5 LOGIN"));
    let login = [
        ("AUTH LOGIN", says("334 VXNlcm5hbWU6")),
        ("bm9kZQ==", says("334 UGFzc3dvcmQ6")),
        ("aHVudGVyMg==", says("235 welcome")),
    ];
    steps.splice(AUTH..SENDER, login);
    assert_eq!(attempt(Setting::default(), steps).await.0.unwrap().len(), 2);

    // Too long for one command: the server is asked first.
    let password = "p".repeat(600);
    let mut steps = good();
    steps.splice(AUTH..SENDER, [("AUTH PLAIN", says("334 ")), ("AG5vZGUAcHBw", says("235 welcome"))]);
    let (sent, heard) = attempt(Setting { password, ..Setting::default() }, steps).await;
    assert_eq!((sent.unwrap().len(), heard[3].as_str()), (2, "AUTH PLAIN"));
}

#[tokio::test]
async fn refused_before_the_dot_or_behind_it_is_not_sent() {
    for (step, reply, said) in [
        (GREETING, "554 not you", "to be spoken to: 554"),
        (GREETING, "421 busy", "to be spoken to: 421"),
        (EHLO, "502 what?", "the greeting: 502"),
        (TLS, "454 4.7.0 no TLS today", "to begin TLS: 454 4.7.0"),
        (OFFERS, "501 what?", "the greeting: 501"),
        (AUTH, "535 5.7.8 no: AG5vZGUAaHVudGVyMg== is hunter2", "the username and password: 535 5.7.8"),
        (AUTH, "250 fine", "the username and password: 250"),
        (SENDER, "451 4.3.0 later", "the sender: 451 4.3.0"),
        (SENDER, "550 not from you", "the sender: 550"),
        (ANN, "421 closing", "to go on: 421"),
        (DATA, "554 5.7.1 no", "the mail: 554 5.7.1"),
        (DATA, "250 fine", "the mail: 250"),
        (DOT, "451 4.3.0 disk full", "the mail: 451 4.3.0"),
        (DOT, "554 5.7.1 spam", "the mail: 554 5.7.1"),
    ] {
        let mut steps = with(step, says(reply));
        steps.truncate(step + 1);
        let (sent, heard) = attempt(Setting::default(), steps).await;
        let why = undone(&sent);
        assert!(why.ends_with(said), "{reply}: {why}");
        assert!(!why.contains("hunter2") && !why.contains(PLAIN), "{why}");
        assert_eq!(heard.iter().any(|line| line == "."), step == DOT, "{reply}: {heard:?}");
    }
    let mut steps = with(ANN, says("550 5.1.1 nobody"));
    steps[BOB].1 = says("450 later");
    steps.splice(DATA..QUIT, []);
    let (sent, heard) = attempt(Setting::default(), steps).await;
    let said = "every recipient: ann@example.com (550 5.1.1), bob@example.com (450)";
    assert!(undone(&sent).ends_with(said) && heard.last().unwrap() == "QUIT", "{sent:?} {heard:?}");
}

#[tokio::test]
async fn nothing_is_entrusted_to_a_connection_that_is_not_secure() {
    // No TLS offered; something slipped in before it; a stranger's certificate; a server without a way to take passwords.
    let slipped = vec![Does::Says("220 go on\r\n250-mail.example\r\n250 AUTH PLAIN\r\n".into()), Does::Tls];
    for (steps, trusts, said) in [
        (with(EHLO, says("250-mail.example\r\n250 AUTH PLAIN")), true, "does not offer TLS"),
        (with(TLS, slipped), true, "out of turn"),
        (good(), false, "TLS: "),
        (with(OFFERS, says("250-mail.example\r\n250 AUTH CRAM-MD5")), true, "takes no password"),
        (with(EHLO, says("250-mail.example\r\n250 STARTTLS\r\n220 go on")), true, "out of turn"),
    ] {
        let (sent, heard) = attempt(Setting { trusts, ..Setting::default() }, steps).await;
        assert!(undone(&sent).contains(said), "{sent:?}");
        assert!(!heard.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{said}: {heard:?}");
    }
}

#[tokio::test]
async fn whoever_floods_or_babbles_is_left() {
    for (step, does, said) in [
        (GREETING, Does::Floods("220-welcome\r\n"), "more than 64 lines"),
        (EHLO, Does::Floods("250-welcome\r\n"), "more than 64 lines"),
        (OFFERS, Does::Floods("x"), "more than 2048 bytes"),
        (GREETING, Does::Says("HTTP/1.1 400 Bad Request\r\n\r\n".into()), "does not begin with a code"),
        (SENDER, Does::Says("250 fine\n".into()), "CR LF"),
        (SENDER, Does::Says("250-fine\r\n550 not fine\r\n".into()), "different codes"),
        (EHLO, Does::Closes, "closed"),
        (DATA, Does::Says("354 go on\r\n250 taken already\r\n".into()), "out of turn"),
    ] {
        let (sent, _) = attempt(Setting::default(), with(step, vec![does])).await;
        assert!(undone(&sent).contains(said), "{said}: {sent:?}");
    }
}

#[tokio::test]
async fn silence_before_the_dot_is_not_sent_and_after_it_is_unknown() {
    let patience = Duration::from_millis(700);
    for (step, does, certain) in [
        (GREETING, Does::Hangs, true),
        (GREETING, Does::Mutters(format!("220 {}\r\n", "slowly ".repeat(20))), true),
        (TLS, Does::Hangs, true),
        (AUTH, Does::Hangs, true),
        (DATA, Does::Hangs, true),
        (DOT, Does::Hangs, false),
        (DOT, Does::Closes, false),
        (DOT, Does::Says("what?\r\n".into()), false),
        (DOT, Does::Says("250-taken\r\n".into()), false),
    ] {
        let since = Instant::now();
        let mut steps = with(step, vec![does]);
        steps.truncate(step + 1);
        let (sent, _) = attempt(Setting { patience, ..Setting::default() }, steps).await;
        if certain {
            undone(&sent)
        } else {
            unknown(&sent)
        };
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    }
    let shakes = vec![Does::Says("220 go on\r\n".into()), Does::Hangs];
    undone(&attempt(Setting { patience, ..Setting::default() }, with(TLS, shakes)).await.0);
    // The whole mail may have been read by the time at which the connection is seen to be gone.
    let (sent, _) =
        attempt(Setting::default(), with(DATA, vec![Does::Says("354 go on\r\n".into()), Does::Closes])).await;
    assert!(sent.is_err(), "{sent:?}");
    // What comes of the farewell changes nothing.
    for does in [Does::Hangs, Does::Closes, Does::Says("500 what?\r\n".into())] {
        let (sent, _) = attempt(Setting { patience, ..Setting::default() }, with(QUIT, vec![does])).await;
        assert_eq!(sent.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_mail_that_is_too_long_is_not_begun() {
    let mut steps = with(OFFERS, says("250-mail.example\r\n250-SIZE 20\r\n250 AUTH PLAIN"));
    steps.splice(SENDER..QUIT, []);
    let (sent, heard) = attempt(Setting::default(), steps).await;
    assert!(undone(&sent).contains("more than 20 bytes") && heard.last().unwrap() == "QUIT", "{sent:?}");
}

#[tokio::test]
async fn passwords_that_everybody_can_read_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let login = MailLogin { username: "node".to_owned(), password_file: file.path().to_owned() };
    let settings = MailSettings {
        host: "mail.example".to_owned(),
        port: 587,
        tls: MailTls::StartTls,
        from: "node@example.com".to_owned(),
        login: Some(login),
        networks: Vec::new(),
    };
    let egress = Egress::new(EgressConfig::default());
    for (text, mode, said) in [(PASSWORD, 0o644, "chmod 600"), ("", 0o600, "one line"), ("a\nb", 0o600, "one line")] {
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let why = Mailer::open(&settings, "node.example", &egress).err().unwrap();
        assert!(why.contains(said) && !why.contains(PASSWORD), "{why}");
    }
}
