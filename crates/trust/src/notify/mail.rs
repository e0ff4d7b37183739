//! A notification as a mail: RFC 5322 with MIME (RFC 2045), its subject encoded by RFC 2047 where it has to be.
//!
//! Addresses are bare and ASCII: names that are shown, comments and groups are not made, and internationalised
//! addresses are refused. Lines end in CR LF and are short; a transport still doubles leading dots (RFC 5321, section
//! 4.5.2), of which there are none. The mail says that no person wrote it (RFC 3834), so that nobody's absence answers
//! it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::DateTime;

use super::Notification;

/// Most recipients of one mail.
pub const MAX_RECIPIENTS: usize = 50;

/// Longest line of a body, without its end (RFC 2045, section 6.7).
const MAX_LINE: usize = 76;
/// Most bytes of text in one encoded word: a line of 76 characters, less `Subject: ` and 12 of frame, in base64 (RFC
/// 2047, section 2).
const WORD_BYTES: usize = 39;

/// From whom to whom.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Who sends.
    pub from: &'a str,
    /// Who receives, in plain view of one another.
    pub to: &'a [&'a str],
    /// When it is sent, in seconds since 1970.
    pub seconds: u64,
}

/// Why there is no mail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Not an address as it may stand in a header.
    #[error("{0:?} is not a plain mail address, such as ops@example.com")]
    Address(String),
    /// Nobody, or too many.
    #[error("a mail goes to 1 to {MAX_RECIPIENTS} recipients")]
    Recipients,
    /// A time beyond the year 9999.
    #[error("the time is beyond the year 9999")]
    Time,
}

/// Writes the mail.
///
/// # Errors
/// [`MailError`].
pub fn mail(notification: &Notification, envelope: &Envelope<'_>) -> Result<String, MailError> {
    if !(1..=MAX_RECIPIENTS).contains(&envelope.to.len()) {
        return Err(MailError::Recipients);
    }
    for address in envelope.to.iter().chain([&envelope.from]) {
        if !is_address(address) {
            return Err(MailError::Address(address.chars().take(64).collect()));
        }
    }
    let draft = notification.draft();
    let domain = envelope.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let date = date(envelope.seconds).ok_or(MailError::Time)?;
    let mut out = String::with_capacity(1024);
    for (name, value) in [
        ("Date", date.as_str()),
        ("From", envelope.from),
        // One address a line, since a line has at most 998 characters.
        ("To", &envelope.to.join(",\r\n ")),
        ("Subject", &subject(&format!("{}: {}", draft.artifact, draft.subject))),
        // Each team gets a mail of its own.
        ("Message-ID", &format!("<{}.{}@{domain}>", draft.event_id, draft.team.replace('.', "-"))),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Transfer-Encoding", "quoted-printable"),
    ] {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    out.push_str(&quoted_printable(&body(notification)));
    Ok(out)
}

fn body(notification: &Notification) -> String {
    let draft = notification.draft();
    let mut body = format!("{}\n\n", draft.subject);
    if !draft.text.trim().is_empty() {
        body.push_str(&format!("{}\n\n", draft.text.trim_end()));
    }
    body.push_str(&format!("Artifact: {}\nTeam: {}\nEvent: {}\n", draft.artifact, draft.team, draft.event_id));
    if let Some(link) = &draft.link {
        body.push_str(&format!("Link: {link}\n"));
    }
    body
}

/// Whether it is an `addr-spec` of dot-atoms (RFC 5322, section 3.4.1) within the bounds of RFC 5321, section 4.5.3.1. Such an
/// address can stand in a header and in a command.
pub fn is_address(address: &str) -> bool {
    let atext = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-')
    };
    let Some((local, domain)) = address.split_once('@') else { return false };
    address.len() <= 254
        && local.len() <= 64
        && local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(atext))
        && domain.split('.').all(label)
}

/// RFC 5322, section 3.3.
fn date(seconds: u64) -> Option<String> {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = DateTime::from_unix_duration(std::time::Duration::from_secs(seconds)).ok()?;
    // 1970-01-01 was a Thursday.
    let weekday = DAYS.get(usize::try_from(seconds / 86_400 % 7).ok()?)?;
    let month = MONTHS.get(usize::from(time.month()).checked_sub(1)?)?;
    let (day, year) = (time.day(), time.year());
    let (hour, minute, second) = (time.hour(), time.minutes(), time.seconds());
    Some(format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000"))
}

/// A subject as it is, where it is short, plain and cannot be taken for an encoded one; else in encoded words, one a
/// line.
fn subject(text: &str) -> String {
    let plain = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if plain && text.len() <= 66 && !text.contains("=?") && text.trim() == text && !text.is_empty() {
        return text.to_owned();
    }
    let mut words = vec![String::new()];
    for c in text.chars() {
        // A character is never cut in two (RFC 2047, section 5).
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= WORD_BYTES => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    let encoded: Vec<_> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    encoded.join("\r\n ")
}

/// RFC 2045, section 6.7. Lines of the text stay lines.
fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.trim_end_matches('\n').split('\n') {
        let mut used = 0;
        for (i, byte) in line.bytes().enumerate() {
            let last = i + 1 == line.len();
            let literal = match byte {
                b' ' | b'\t' => !last,
                b'=' => false,
                // A dot at the start would have to be doubled on the way.
                b'.' => used != 0,
                _ => byte.is_ascii_graphic(),
            };
            let width = if literal { 1 } else { 3 };
            // Room for the `=` of a soft break, unless the line ends here.
            if used + width > MAX_LINE - usize::from(!last) {
                out.push_str("=\r\n");
                used = 0;
                // The dot that now begins a line.
                if byte == b'.' {
                    out.push_str("=2E");
                    used = 3;
                    continue;
                }
            }
            match literal {
                true => out.push(char::from(byte)),
                false => out.push_str(&format!("={byte:02X}")),
            }
            used += width;
        }
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests;
