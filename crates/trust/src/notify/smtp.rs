//! SMTP as a client speaks it (RFC 5321): replies are read strictly and within bounds, commands and mails are written.
//! Nothing is sent or received here.
//!
//! Of a reply, only its code and its enhanced code (RFC 3463) are ever shown. Its words are the server's: they may repeat
//! what was sent, and would be read by agents.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Longest line of a reply, with its end. RFC 5321, section 4.5.3.1.5, has 512; some servers are wordier.
pub const MAX_LINE: usize = 2048;
/// Most lines of a reply.
pub const MAX_LINES: usize = 64;
/// Longest command, with its end (RFC 5321, section 4.5.3.1.4).
pub const MAX_COMMAND: usize = 512;

/// Why bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No end of a line in sight.
    #[error("a line of its reply has more than {MAX_LINE} bytes")]
    Line,
    /// No end of the reply in sight.
    #[error("its reply has more than {MAX_LINES} lines")]
    Lines,
    /// Not three digits, or not followed as they have to be.
    #[error("its reply does not begin with a code")]
    Code,
    /// Lines of one reply that do not agree.
    #[error("the lines of its reply have different codes")]
    Codes,
    /// A line that another reader would end elsewhere.
    #[error("a line of its reply does not end in CR LF alone")]
    Ending,
}

/// A reply of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// What follows the code, in each line.
    lines: Vec<Vec<u8>>,
}

/// Reads replies from bytes as they come.
#[derive(Debug, Default)]
pub struct Replies {
    /// What came and belongs to no whole line yet.
    rest: Vec<u8>,
    /// The lines of a reply that goes on.
    begun: Option<Reply>,
}

impl Replies {
    /// Takes what came. At most one reading's bytes are kept beside an unfinished line, if [`Replies::take`] is asked after
    /// each.
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole reply, if it is there.
    ///
    /// # Errors
    /// [`ReplyError`]; nothing that comes after means anything.
    pub fn take(&mut self) -> Result<Option<Reply>, ReplyError> {
        while let Some(line) = self.line()? {
            let (code, more, text) = read(&line)?;
            let mut reply = self.begun.take().unwrap_or(Reply { code, lines: Vec::new() });
            if reply.code != code {
                return Err(ReplyError::Codes);
            }
            if reply.lines.len() == MAX_LINES {
                return Err(ReplyError::Lines);
            }
            reply.lines.push(text.to_vec());
            if !more {
                return Ok(Some(reply));
            }
            self.begun = Some(reply);
        }
        Ok(None)
    }

    /// Whether nothing came beyond the replies that were given out.
    pub fn is_quiet(&self) -> bool {
        self.rest.is_empty() && self.begun.is_none()
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Option<Vec<u8>>, ReplyError> {
        let end = self.rest.iter().position(|b| *b == b'\n');
        if end.unwrap_or(self.rest.len()) >= MAX_LINE {
            return Err(ReplyError::Line);
        }
        let Some(end) = end else { return Ok(None) };
        let mut line: Vec<u8> = self.rest.drain(..=end).collect();
        line.pop();
        if line.pop() != Some(b'\r') || line.contains(&b'\r') || line.contains(&0) {
            return Err(ReplyError::Ending);
        }
        Ok(Some(line))
    }
}

/// Code, whether the reply goes on, and text (RFC 5321, section 4.2).
fn read(line: &[u8]) -> Result<(u16, bool, &[u8]), ReplyError> {
    let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
    let [a @ b'2'..=b'5', b @ b'0'..=b'5', c @ b'0'..=b'9'] = digits else { return Err(ReplyError::Code) };
    let code = [a, b, c].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
    match rest.split_first() {
        None => Ok((code, false, rest)),
        Some((b' ', text)) => Ok((code, false, text)),
        Some((b'-', text)) => Ok((code, true, text)),
        Some(_) => Err(ReplyError::Code),
    }
}

impl Reply {
    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether what was asked for was done.
    pub fn is_done(&self) -> bool {
        self.code / 100 == 2
    }

    /// What may be shown of it.
    pub fn refusal(&self) -> Refusal {
        let text = self.lines.first().map_or(&[][..], Vec::as_slice);
        let word = text.split(|b| *b == b' ').next().unwrap_or_default();
        let enhanced = std::str::from_utf8(word).ok().filter(|word| is_enhanced(word, self.code));
        Refusal { code: self.code, enhanced: enhanced.map(str::to_owned) }
    }

    /// What a server can do, of its reply to EHLO.
    pub fn offers(&self) -> Offers {
        let mut offers = Offers::default();
        // The first line greets.
        for line in self.lines.iter().skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("STARTTLS") => offers.starttls = true,
                Some("SIZE") => {
                    let most = words.next().and_then(|most| most.parse().ok());
                    offers.most_bytes = most.filter(|most| *most > 0);
                }
                Some("AUTH") => {
                    for mechanism in words {
                        offers.plain |= mechanism == "PLAIN";
                        offers.login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        offers
    }
}

/// `class.subject.detail`, of the class that the code has (RFC 2034, section 4).
fn is_enhanced(word: &str, code: u16) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let number = |part: &&str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    parts.len() == 3 && parts.iter().all(number) && parts[0] == (code / 100).to_string()
}

/// By which codes something was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The three digits.
    pub code: u16,
    /// The enhanced code, such as `5.1.1`.
    pub enhanced: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.enhanced {
            Some(enhanced) => write!(f, "{} {enhanced}", self.code),
            None => write!(f, "{}", self.code),
        }
    }
}

/// What a server said that it can do. What it said before TLS is worth nothing afterwards (RFC 3207, section 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// TLS on this connection (RFC 3207).
    pub starttls: bool,
    /// AUTH PLAIN (RFC 4616).
    pub plain: bool,
    /// AUTH LOGIN, which is older and nowhere specified.
    pub login: bool,
    /// The longest mail that it takes, if it says so (RFC 1870).
    pub most_bytes: Option<u64>,
}

/// The message of PLAIN, in base64 (RFC 4616, section 2).
pub fn plain(username: &str, password: &str) -> Zeroizing<String> {
    let message = Zeroizing::new(format!("\0{username}\0{password}"));
    Zeroizing::new(STANDARD.encode(message.as_bytes()))
}

/// One answer of LOGIN.
pub fn login(text: &str) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(text))
}

/// A mail as it is sent after DATA, but for the dot that ends it: dots that begin a line are doubled (RFC 5321, section
/// 4.5.2). `None` if a line does not end in CR LF: servers differ about where such a mail ends.
pub fn stuffed(mail: &str) -> Option<String> {
    let lines = mail.strip_suffix("\r\n")?.split("\r\n");
    let mut out = String::with_capacity(mail.len() + 16);
    for line in lines {
        if line.contains(['\r', '\n']) {
            return None;
        }
        if line.starts_with('.') {
            out.push('.');
        }
        out.push_str(line);
        out.push_str("\r\n");
    }
    Some(out)
}

#[cfg(test)]
mod tests;
