//! Teams that are told by mail, and by mail and webhook at once, by a running node. The server here speaks no TLS, which it may on
//! the loopback alone; TLS and passwords are in the client's own tests.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Reply, World};

/// What a server was told, mail by mail.
type Mails = Arc<Mutex<Vec<String>>>;

/// A mail server that knows nobody called bob, and answers a mail with this, or not at all.
async fn mail_server(answer: Option<&'static str>) -> (u16, Mails) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mails = Mails::default();
    let kept = Arc::clone(&mails);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, answer, Arc::clone(&kept)));
        }
    });
    (port, mails)
}

async fn converse(stream: TcpStream, answer: Option<&'static str>, mails: Mails) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.example\r\n").await.ok()?;
    loop {
        let command = line(&mut stream).await?;
        let reply = match command.split([' ', ':']).next().unwrap_or_default() {
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mut mail = String::new();
                loop {
                    let line = line(&mut stream).await?;
                    if line == "." {
                        break;
                    }
                    mail.push_str(&line);
                    mail.push('\n');
                }
                mails.lock().expect("nobody panicked").push(mail);
                answer?
            }
            "RCPT" if command.contains("<bob@") => "550 5.1.1 nobody",
            _ => "250 yes",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    Some(line.trim_end_matches("\r\n").to_owned())
}

/// A webhook that answers every request so.
async fn webhook(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 16 << 10];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
        }
    });
    url
}

/// A node with one team, `ops`.
async fn world(port: u16, team: &str) -> World {
    let mail = format!(
        "[trust]\nenabled = true\n[trust.mail]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\nfrom = \"node@example.com\"\n"
    );
    World::start_with(&format!("{mail}[[trust.teams]]\nname = \"ops\"\n{team}\n")).await
}

async fn notify(world: &World) -> Reply {
    let wanted = json!({ "team": "ops", "artifact": "api:v1", "subject": "ready", "text": "Please look.\n.\nQUIT" });
    world.post("/v1/notifications", &world.agent("bot"), &wanted.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_hears_by_webhook_and_mail_and_each_is_told_apart() {
    let (port, mails) = mail_server(Some("250 2.0.0 taken")).await;
    let hook = webhook(204).await;
    let team = format!("webhook = \"{hook}\"\nmail = [\"ann@example.com\", \"bob@example.com\"]");
    let world = world(port, &team).await;
    let reply = notify(&world).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let told = reply.json();
    let recipients = json!([
        { "address": "ann@example.com", "outcome": "accepted" },
        { "address": "bob@example.com", "outcome": "refused", "reason": "the mail server answered 550 5.1.1" },
    ]);
    let channels = json!([
        { "channel": "webhook", "outcome": "accepted", "status": 204 },
        { "channel": "mail", "outcome": "accepted", "recipients": recipients },
    ]);
    assert_eq!((&told["notified"], &told["complete"], &told["channels"]), (&json!(true), &json!(false), &channels));
    let mail = mails.lock().expect("nobody panicked").pop().expect("a mail");
    let id = told["notification_id"].as_str().expect("an id");
    for part in ["\nFrom: node@example.com\n", "\nSubject: api:v1: ready\n", &format!("<{id}.ops@example.com>")] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    assert!(mail.contains("\nPlease look.\n=2E\nQUIT\n"), "a lone dot ends nothing: {mail}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_that_works_is_enough_and_the_other_is_said() {
    let hook = webhook(500).await;
    let (port, _) = mail_server(Some("250 taken")).await;
    let world_ = world(port, &format!("webhook = \"{hook}\"\nmail = [\"ann@example.com\"]")).await;
    let told = notify(&world_).await.json();
    assert_eq!((&told["notified"], &told["complete"]), (&json!(true), &json!(false)), "{told}");
    assert_eq!(told["channels"][0]["outcome"], "failed", "{told}");
    world_.node.shutdown().await;

    // The webhook was told, and nobody knows of the mail.
    let (port, _) = mail_server(None).await;
    let hook = webhook(200).await;
    let world = world(port, &format!("webhook = \"{hook}\"\nmail = [\"ann@example.com\"]")).await;
    let told = notify(&world).await.json();
    assert_eq!((&told["notified"], &told["channels"][1]["outcome"]), (&json!(true), &json!("unknown")), "{told}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_refused_is_not_sent_and_one_without_an_answer_is_unknown() {
    let unknown = async |world: &World| -> Value {
        world.get("/admin/unknown", &world.person("ops", &["operator"])).await.json()
    };
    let (port, mails) = mail_server(Some("554 5.7.1 no")).await;
    let world_ = world(port, "mail = [\"ann@example.com\"]").await;
    let refused = notify(&world_).await;
    assert_eq!(refused.problem(), "upstream-unavailable", "{}", refused.text());
    assert!(refused.text().contains("no mail was sent") && refused.text().contains("554 5.7.1"), "{}", refused.text());
    assert_eq!(mails.lock().expect("nobody panicked").len(), 1);
    assert_eq!(unknown(&world_).await, json!([]));
    world_.node.shutdown().await;

    let (port, mails) = mail_server(None).await;
    let world = world(port, "mail = [\"ann@example.com\"]").await;
    assert_eq!(notify(&world).await.problem(), "upstream-unavailable");
    assert_eq!(mails.lock().expect("nobody panicked").len(), 1);
    assert_eq!(unknown(&world).await.as_array().map(Vec::len), Some(1), "a person has to look");
    world.node.shutdown().await;
}
