//! What a team is told about an artifact, in the shapes in which it travels. Sending is somebody else's.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`Notification::webhook`] | our own JSON, version 1 | Standard Webhooks 1.0.0, payload structure |
//! | [`Notification::slack`] | an incoming webhook of Slack | Slack: message payloads, Block Kit, formatting text |
//! | [`signature`] | the headers that prove where a webhook comes from | Standard Webhooks 1.0.0 |
//! | [`mail`] | a mail | RFC 5322, RFC 2047, RFC 2045 |
//! | [`smtp`] | what a mail server says, and what is said to it | RFC 5321, RFC 3463, RFC 4616 |

pub mod mail;
pub mod signature;
pub mod smtp;

use serde::Serialize;
use serde_json::{Value, json};

use crate::review::is_team;
use crate::text::visible;
use crate::time::to_rfc3339;

/// Of our own payload.
pub const VERSION: u32 = 1;
/// Longest subject, in characters.
pub const MAX_SUBJECT_CHARS: usize = 200;
/// Longest name of an artifact, in characters.
pub const MAX_ARTIFACT_CHARS: usize = 512;
/// Longest text, in characters.
pub const MAX_TEXT_CHARS: usize = 3_000;
/// Longest link, in bytes.
pub const MAX_LINK_BYTES: usize = 2_000;

/// Slack refuses longer text in a section.
const SLACK_SECTION_CHARS: usize = 3_000;
/// Slack asks for no longer text beside blocks.
const SLACK_TEXT_CHARS: usize = 4_000;

/// What a notification is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Draft {
    /// Who is told.
    pub team: String,
    /// About which artifact: its name or digest.
    pub artifact: String,
    /// In a line.
    pub subject: String,
    /// In more lines; may be empty.
    pub text: String,
    /// Where to read on; http or https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The event that it is about.
    pub event_id: String,
    /// When that was, in milliseconds since 1970.
    pub at_ms: i64,
}

/// A notification: within bounds, and with lines where lines may be. Everything hidden in its text is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification(Draft);

/// Why a draft is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNotification {
    /// Not a team's name.
    #[error("that is not the name of a team")]
    Team,
    /// Nothing, too much, or more than one line.
    #[error("the artifact is named by one line of 1 to {MAX_ARTIFACT_CHARS} characters, without control characters")]
    Artifact,
    /// Likewise.
    #[error("the subject is one line of 1 to {MAX_SUBJECT_CHARS} characters, without control characters")]
    Subject,
    /// Too much text.
    #[error("the text has at most {MAX_TEXT_CHARS} characters")]
    Text,
    /// Not a link that may be followed.
    #[error(
        "the link is an http or https URL of at most {MAX_LINK_BYTES} printable ASCII characters, without < > | \" and \\"
    )]
    Link,
    /// Not an event's id.
    #[error("the event's id is 1 to 128 of letters, digits, - and _")]
    EventId,
    /// Before 1970.
    #[error("the time is before 1970")]
    Time,
}

impl Notification {
    /// Checks a draft.
    ///
    /// # Errors
    /// [`InvalidNotification`].
    pub fn new(draft: Draft) -> Result<Self, InvalidNotification> {
        use InvalidNotification as E;
        let is_line = |text: &str, limit: usize| {
            !text.trim().is_empty() && text.chars().count() <= limit && !text.contains(is_control)
        };
        for (holds, error) in [
            (is_team(&draft.team), E::Team),
            (is_line(&draft.artifact, MAX_ARTIFACT_CHARS), E::Artifact),
            (is_line(&draft.subject, MAX_SUBJECT_CHARS), E::Subject),
            (draft.text.chars().count() <= MAX_TEXT_CHARS, E::Text),
            (draft.link.as_deref().is_none_or(is_link), E::Link),
            (signature::is_id(&draft.event_id), E::EventId),
            (draft.at_ms >= 0, E::Time),
        ] {
            if !holds {
                return Err(error);
            }
        }
        let shown = |text: &str| visible(text).into_owned();
        let text = shown(&draft.text.replace("\r\n", "\n"));
        Ok(Self(Draft { artifact: shown(&draft.artifact), subject: shown(&draft.subject), text, ..draft }))
    }

    /// Its parts, everything hidden visible.
    pub fn draft(&self) -> &Draft {
        &self.0
    }

    /// The body of our own webhook. Readers pass over members that they do not know; what they know keeps its meaning
    /// within a version.
    pub fn webhook(&self) -> Value {
        let draft = &self.0;
        json!({
            "version": VERSION,
            "type": "trust.notification",
            "id": draft.event_id,
            "timestamp": to_rfc3339(self.seconds()),
            "data": draft,
        })
    }

    /// The body for an incoming webhook of Slack: text for notifications, blocks for the channel.
    pub fn slack(&self) -> Value {
        let draft = &self.0;
        let line = format!("{}: {}", draft.artifact, draft.subject);
        let mut blocks = vec![section(&draft.subject)];
        if !draft.text.trim().is_empty() {
            blocks.push(section(&draft.text));
        }
        let about = escaped(&format!("{} for {}, {}", draft.artifact, draft.team, to_rfc3339(self.seconds())), 1_000);
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": about, "verbatim": true}]}));
        if let Some(link) = &draft.link {
            // The link's ampersands are escaped like any others.
            let text = format!("<{}|Open>", escape(link));
            blocks.push(json!({"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": true}}));
        }
        json!({"text": escaped(&line, SLACK_TEXT_CHARS), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
    }

    fn seconds(&self) -> u64 {
        u64::try_from(self.0.at_ms / 1000).unwrap_or_default()
    }
}

/// Text as it is, not taken for markup: `plain_text` knows no bold, no links and no mentions.
fn section(text: &str) -> Value {
    json!({"type": "section", "text": {"type": "plain_text", "text": escaped(text, SLACK_SECTION_CHARS), "emoji": false}})
}

/// Slack's three characters escaped, and at most `limit` characters, which cut no escape in two.
fn escaped(text: &str, limit: usize) -> String {
    let whole = escape(text);
    if whole.chars().count() <= limit {
        return whole;
    }
    let (mut out, mut used) = (String::new(), 1);
    for c in text.chars() {
        let piece = escape(c.encode_utf8(&mut [0; 4]));
        used += piece.chars().count();
        if used > limit {
            break;
        }
        out.push_str(&piece);
    }
    out + "…"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Line breaks of every kind count.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn is_link(link: &str) -> bool {
    let rest = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"));
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'|' | b'"' | b'\\');
    link.len() <= MAX_LINK_BYTES
        && rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['))
        && link.bytes().all(fits)
}

#[cfg(test)]
mod tests;
