//! Replies as servers write them and as nobody should, and mails that end where they should.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// The replies in these bytes, however they are cut.
fn all(bytes: &[u8]) -> Result<Vec<Reply>, ReplyError> {
    let whole = cut(bytes, bytes.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(cut(bytes, size), whole, "in pieces of {size}: {:?}", String::from_utf8_lossy(bytes));
    }
    whole
}

fn cut(bytes: &[u8], size: usize) -> Result<Vec<Reply>, ReplyError> {
    let (mut replies, mut found) = (Replies::default(), Vec::new());
    for piece in bytes.chunks(size) {
        replies.push(piece);
        while let Some(reply) = replies.take()? {
            found.push(reply);
        }
    }
    Ok(found)
}

fn one(text: &str) -> Reply {
    let mut found = all(text.as_bytes()).unwrap();
    assert_eq!(found.len(), 1, "{text:?}");
    found.remove(0)
}

#[test]
fn replies_are_read_line_by_line() {
    for (text, code, done) in
        [("250 OK\r\n", 250, true), ("354\r\n", 354, false), ("550-no\r\n550-no\r\n550 no\r\n", 550, false)]
    {
        let reply = one(text);
        assert_eq!((reply.code(), reply.is_done()), (code, done), "{text:?}");
    }
    assert_eq!(all(b"220 a\r\n250 b\r\n25").unwrap().len(), 2);
}

#[test]
fn what_is_no_reply_is_refused() {
    use ReplyError as E;
    let long = format!("250 {}\r\n", "a".repeat(MAX_LINE));
    let endless = "250-a\r\n".repeat(MAX_LINES + 1);
    for (text, error) in [
        ("OK\r\n", E::Code),
        ("25\r\n", E::Code),
        ("\r\n", E::Code),
        ("199 a\r\n", E::Code),
        ("600 a\r\n", E::Code),
        ("260 a\r\n", E::Code),
        ("250_a\r\n", E::Code),
        ("2500 a\r\n", E::Code),
        ("250-a\r\n550 b\r\n", E::Codes),
        ("250 a\n", E::Ending),
        ("250 a\r550 b\r\n", E::Ending),
        ("250 a\0\r\n", E::Ending),
        (&long, E::Line),
        (&long[..MAX_LINE], E::Line),
        (&endless, E::Lines),
    ] {
        assert_eq!(all(text.as_bytes()), Err(error), "{:?}", text.get(..40).unwrap_or(text));
    }
}

#[test]
fn what_came_out_of_turn_is_seen() {
    let mut replies = Replies::default();
    replies.push(b"220 go on\r\n250 in");
    assert_eq!(replies.take().unwrap().unwrap().code(), 220);
    assert!(!replies.is_quiet());
    replies.push(b"jected\r\n");
    assert!(replies.take().unwrap().is_some() && replies.is_quiet());
    replies.push(b"250-half\r\n");
    assert!(replies.take().unwrap().is_none() && !replies.is_quiet());
}

#[test]
fn of_a_refusal_only_codes_are_shown() {
    for (text, shown) in [
        ("550 5.1.1 <ann@example.com>: no such user\r\n", "550 5.1.1"),
        ("550-5.7.1 a\r\n550 5.7.1 b\r\n", "550 5.7.1"),
        ("550 your password is hunter2\r\n", "550"),
        ("550 4.1.1 of another class\r\n", "550"),
        ("550 5.1.1111 too long\r\n", "550"),
        ("550 5.1\r\n", "550"),
        ("451\r\n", "451"),
    ] {
        assert_eq!(one(text).refusal().to_string(), shown);
    }
}

#[test]
fn offers_are_those_of_ehlo() {
    let reply = one("250-mail.example greets you STARTTLS\r\n250-size 1000\r\n250-AUTH login CRAM-MD5 plain\r\n\
         250-XSTARTTLS\r\n250 HELP\r\n");
    let expected = Offers { starttls: false, plain: true, login: true, most_bytes: Some(1000) };
    assert_eq!(reply.offers(), expected);
    assert!(one("250-a\r\n250 StartTls\r\n").offers().starttls);
    assert_eq!(one("250-a\r\n250 SIZE 0\r\n").offers().most_bytes, None, "no bound");
    assert_eq!(one("250 STARTTLS\r\n").offers(), Offers::default(), "the first line is a greeting");
}

#[test]
fn credentials_are_as_the_rfc_has_them() {
    // RFC 4616, section 4: without an authorization identity.
    assert_eq!(&*plain("tim", "tanstaaftanstaaf"), "AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
    assert_eq!(&*login("tim"), "dGlt");
}

#[test]
fn dots_are_doubled_and_stray_ends_refused() {
    assert_eq!(stuffed("a\r\n.\r\n..b\r\n\r\nc.\r\n").as_deref(), Some("a\r\n..\r\n...b\r\n\r\nc.\r\n"));
    for smuggled in ["a", "a\r\n.\n", "a\n.\n\r\n", "a\r.\r\r\n", "a\r\n\r.\r\n", ""] {
        assert_eq!(stuffed(smuggled), None, "{smuggled:?}");
    }
}
