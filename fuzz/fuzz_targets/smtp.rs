//! What mail servers answer: cut anywhere it says the same, and is bounded; and of any mail, no line can end it.
#![no_main]

use countersign_trust::notify::smtp::{MAX_LINE, Replies, Reply, ReplyError, stuffed};
use libfuzzer_sys::fuzz_target;

fn all(data: &[u8], size: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let (mut replies, mut found) = (Replies::default(), Vec::new());
    for piece in data.chunks(size) {
        replies.push(piece);
        loop {
            match replies.take() {
                Ok(Some(reply)) => found.push(reply),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let whole = all(data, data.len().max(1));
    for size in [1, 3, 1024] {
        assert_eq!(all(data, size), whole);
    }
    for reply in &whole.0 {
        assert!((200..600).contains(&reply.code()) && reply.is_done() == (reply.code() < 300));
        let shown = reply.refusal().to_string();
        assert!(shown.len() <= 15 && shown.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b' '), "{shown}");
        let _ = reply.offers();
    }
    if whole.1.is_none() && !data.contains(&b'\n') {
        assert!(data.len() < MAX_LINE);
    }
    if let Some(sent) = std::str::from_utf8(data).ok().and_then(stuffed) {
        assert!(sent.ends_with("\r\n") && sent.split("\r\n").all(|line| line != "."));
        let read = sent.split("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line)).collect::<Vec<_>>();
        assert_eq!(read.join("\r\n").as_bytes(), data);
    }
});
