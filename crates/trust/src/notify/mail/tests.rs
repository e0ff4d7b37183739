//! Headers that hold, and bodies that come out as they went in.

use super::*;
use crate::notify::tests::draft;
use proptest::prelude::*;

const TO: &[&str] = &["sec@example.com", "alex@example.com"];

fn envelope<'a>(from: &'a str, to: &'a [&'a str]) -> Envelope<'a> {
    Envelope { from, to, seconds: 1_772_366_400 }
}

/// Undoes quoted-printable as RFC 2045 says, apart from the encoder: soft breaks away, then `=XX`.
fn decoded(encoded: &str) -> String {
    let joined = encoded.replace("=\r\n", "");
    let mut pieces = joined.split('=');
    let mut bytes = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

/// Undoes encoded words as RFC 2047 says: white space between them goes.
fn decoded_subject(subject: &str) -> String {
    let words = subject.split("\r\n ").map(|word| {
        let inner = word.strip_prefix("=?utf-8?B?").unwrap().strip_suffix("?=").unwrap();
        String::from_utf8(STANDARD.decode(inner).unwrap()).unwrap()
    });
    words.collect()
}

#[test]
fn a_mail_is_what_its_readers_expect() {
    let notification = Notification::new(draft()).unwrap();
    let mail = mail(&notification, &envelope("node@example.com", TO)).unwrap();
    let expected = "Date: Sun, 01 Mar 2026 12:00:00 +0000\r\n\
        From: node@example.com\r\n\
        To: sec@example.com,\r\n alex@example.com\r\n\
        Subject: api:v1.2.1: Ready for review\r\n\
        Message-ID: <019ca945-0a00-7303-8303-030303030303.security@example.com>\r\n\
        Auto-Submitted: auto-generated\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\
        \r\n\
        Ready for review\r\n\r\n\
        Fixes CVE-2024-1234.\r\nPlease look.\r\n\r\n\
        Artifact: api:v1.2.1\r\n\
        Team: security\r\n\
        Event: 019ca945-0a00-7303-8303-030303030303\r\n\
        Link: https://node.example.com/a?b=3D1&c=3D2\r\n";
    assert_eq!(mail, expected);
}

#[test]
fn addresses_bring_no_headers() {
    let notification = Notification::new(draft()).unwrap();
    for (address, good) in [
        ("ops@example.com", true),
        ("first.last+tag@sub.example.co.uk", true),
        ("ops@localhost", true),
        ("ops@example.com\r\nBcc: all@example.com", false),
        ("ops@example.com, other@example.com", false),
        ("Ops <ops@example.com>", false),
        ("ops@@example.com", false),
        (".ops@example.com", false),
        ("ops@-example.com", false),
        ("ops@example..com", false),
        ("öps@example.com", false),
        ("ops", false),
        ("", false),
        (&format!("{}@example.com", "a".repeat(65)), false),
    ] {
        let as_sender = mail(&notification, &envelope(address, TO)).is_ok();
        let as_recipient = mail(&notification, &envelope("node@example.com", &[address])).is_ok();
        assert_eq!((as_sender, as_recipient), (good, good), "{address}");
    }
    assert_eq!(mail(&notification, &envelope("a@b", &[])), Err(MailError::Recipients));
    assert_eq!(mail(&notification, &envelope("a@b", &["a@b"; 51])), Err(MailError::Recipients));
    let late = Envelope { seconds: u64::MAX, ..envelope("a@b", TO) };
    assert_eq!(mail(&notification, &late), Err(MailError::Time));
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (seconds, expected) in [
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 +0000"),
    ] {
        assert_eq!(date(seconds).as_deref(), Some(expected));
    }
}

#[test]
fn subjects_are_encoded_where_they_have_to_be() {
    for plain in ["api:v1: Ready", "50% done?"] {
        assert_eq!(subject(plain), plain);
    }
    // Made by Python's email.header.Header("Grüße aus Köln", "utf-8"), in our spelling of the charset.
    assert_eq!(subject("Grüße aus Köln"), "=?utf-8?B?R3LDvMOfZSBhdXMgS8O2bG4=?=");
    // What looks encoded is encoded, so that it is not decoded into something else.
    assert_eq!(decoded_subject(&subject("=?utf-8?B?SGk=?=")), "=?utf-8?B?SGk=?=");
    for long in ["x".repeat(700), "日本語".repeat(60), "a😀".repeat(50)] {
        let encoded = subject(&long);
        assert!(encoded.split("\r\n").all(|line| line.len() + "Subject: ".len() <= 76 + 1), "{encoded}");
        assert_eq!(decoded_subject(&encoded), long);
    }
}

#[test]
fn quoted_printable_is_that_of_the_standard() {
    for (text, expected) in [
        ("plain", "plain\r\n"),
        ("a=b", "a=3Db\r\n"),
        ("Grüße", "Gr=C3=BC=C3=9Fe\r\n"),
        ("trailing ", "trailing=20\r\n"),
        ("tab\t", "tab=09\r\n"),
        (".\n..x", "=2E\r\n=2E.x\r\n"),
        ("two\n\nthree\n", "two\r\n\r\nthree\r\n"),
        ("\r", "=0D\r\n"),
    ] {
        assert_eq!(quoted_printable(text), expected, "{text:?}");
    }
    let exactly = "x".repeat(76);
    assert_eq!(quoted_printable(&exactly), format!("{exactly}\r\n"));
    assert_eq!(quoted_printable(&"x".repeat(77)), format!("{}=\r\nxx\r\n", "x".repeat(75)));
}

proptest! {
    #[test]
    fn a_body_comes_out_as_it_went_in(text in "([ -~]|[.= \t]|\\PC|\n){0,400}") {
        let encoded = quoted_printable(&text);
        let back = decoded(&encoded);
        prop_assert_eq!(back.trim_end_matches('\n'), text.trim_end_matches('\n'));
        for line in encoded.split_terminator("\r\n") {
            prop_assert!(line.len() <= 76, "{}", line);
            prop_assert!(!line.starts_with('.'), "{}", line);
            prop_assert!(!line.ends_with([' ', '\t']), "{}", line);
            prop_assert!(line.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic()), "{}", line);
        }
    }

    #[test]
    fn no_draft_brings_a_header(subject in "\\PC{0,60}|[ -~\r\n]{0,60}", artifact in "\\PC{1,30}") {
        let draft = crate::notify::Draft { subject, artifact, ..draft() };
        if let Ok(notification) = Notification::new(draft) {
            let mail = mail(&notification, &envelope("node@example.com", TO)).unwrap();
            let head = mail.split("\r\n\r\n").next().unwrap();
            let lines = head.split("\r\n").filter(|line| !line.starts_with(' '));
            let names: Vec<_> = lines.map(|line| line.split(':').next().unwrap()).collect();
            prop_assert_eq!(names.len(), 9, "{:?}", names);
        }
    }
}
