//! What is accepted, and what travels.

use super::*;

pub(super) fn draft() -> Draft {
    Draft {
        team: "security".to_owned(),
        artifact: "api:v1.2.1".to_owned(),
        subject: "Ready for review".to_owned(),
        text: "Fixes CVE-2024-1234.\nPlease look.".to_owned(),
        link: Some("https://node.example.com/a?b=1&c=2".to_owned()),
        event_id: "019ca945-0a00-7303-8303-030303030303".to_owned(),
        at_ms: 1_772_366_400_123,
    }
}

fn with(change: impl Fn(&mut Draft)) -> Result<Notification, InvalidNotification> {
    let mut draft = draft();
    change(&mut draft);
    Notification::new(draft)
}

#[test]
fn lines_stay_lines_and_links_are_links() {
    use InvalidNotification as E;
    assert!(with(|_| {}).is_ok());
    let long = "x".repeat(4_000);
    type Change = Box<dyn Fn(&mut Draft)>;
    let cases: Vec<(Change, E)> = vec![
        (Box::new(|d| d.team = "Security Team".to_owned()), E::Team),
        (Box::new(|d| d.artifact = String::new()), E::Artifact),
        (Box::new(|d| d.artifact = "a\nb".to_owned()), E::Artifact),
        (Box::new(|d| d.subject = "Hi\r\nBcc: all@example.com".to_owned()), E::Subject),
        (Box::new(|d| d.subject = "Hi\u{2028}there".to_owned()), E::Subject),
        (Box::new(|d| d.subject = "\u{1b}[31m".to_owned()), E::Subject),
        (Box::new(|d| d.subject = " ".to_owned()), E::Subject),
        (Box::new(|d| d.subject = "x".repeat(201)), E::Subject),
        (Box::new(move |d| d.text.clone_from(&long)), E::Text),
        (Box::new(|d| d.event_id = "a.b".to_owned()), E::EventId),
        (Box::new(|d| d.at_ms = -1), E::Time),
    ];
    for (change, expected) in cases {
        assert_eq!(with(change).err(), Some(expected));
    }
    for (link, good) in [
        ("https://node.example.com", true),
        ("http://[::1]:8000/x", true),
        ("javascript:alert(1)", false),
        ("https://", false),
        ("https:///etc", false),
        ("https://e.example/|x", false),
        ("https://e.example/>", false),
        ("https://e.example/ x", false),
        ("https://é.example", false),
        ("ftp://e.example", false),
    ] {
        assert_eq!(with(|d| d.link = Some(link.to_owned())).is_ok(), good, "{link}");
    }
}

#[test]
fn our_own_payload_has_a_version_and_says_everything() {
    let expected = json!({
        "version": 1,
        "type": "trust.notification",
        "id": "019ca945-0a00-7303-8303-030303030303",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {
            "team": "security",
            "artifact": "api:v1.2.1",
            "subject": "Ready for review",
            "text": "Fixes CVE-2024-1234.\nPlease look.",
            "link": "https://node.example.com/a?b=1&c=2",
            "event_id": "019ca945-0a00-7303-8303-030303030303",
            "at_ms": 1_772_366_400_123_i64,
        },
    });
    assert_eq!(with(|_| {}).unwrap().webhook(), expected);
    let hidden = with(|d| d.text = "pay\u{202e}load".to_owned()).unwrap();
    assert_eq!(hidden.webhook()["data"]["text"], "pay⟨U+202E⟩load");
}

#[test]
fn slack_sees_no_markup_of_strangers() {
    let slack = with(|d| {
        d.subject = "<!channel> *free* & <https://evil.example|click>".to_owned();
        d.artifact = "a<b".to_owned();
    });
    let slack = slack.unwrap().slack();
    let subject = "&lt;!channel&gt; *free* &amp; &lt;https://evil.example|click&gt;";
    assert_eq!(slack["blocks"][0]["text"], json!({"type": "plain_text", "text": subject, "emoji": false}));
    assert_eq!(slack["text"], format!("a&lt;b: {subject}"));
    assert_eq!(slack["blocks"][2]["elements"][0]["text"], "a&lt;b for security, 2026-03-01T12:00:00Z");
    assert_eq!(slack["blocks"][3]["text"]["text"], "<https://node.example.com/a?b=1&amp;c=2|Open>");
    let bare = with(|d| {
        d.text = String::new();
        d.link = None;
    });
    assert_eq!(bare.unwrap().slack()["blocks"].as_array().map(Vec::len), Some(2));
}

#[test]
fn slack_text_is_cut_at_its_bounds_and_never_in_an_escape() {
    for (text, limit, expected) in [
        ("abcd", 4, "abcd"),
        ("abcde", 4, "abc…"),
        ("a&bcd", 7, "a&amp;…"),
        ("a&b", 7, "a&amp;b"),
        ("a&b", 6, "a…"),
        ("<<", 8, "&lt;&lt;"),
    ] {
        assert_eq!(escaped(text, limit), expected, "{text} {limit}");
    }
    let slack = with(|d| d.text = "&".repeat(3_000)).unwrap().slack();
    let text = slack["blocks"][1]["text"]["text"].as_str().unwrap();
    assert!(text.chars().count() <= 3_000 && text.ends_with("&amp;…"));
}
