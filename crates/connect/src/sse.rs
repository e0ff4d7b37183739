//! Server-sent events, as much of them as MCP uses: the `data` of each event, the last event's id and the time after which to
//! connect again (WHATWG HTML, 9.2).

use std::time::Duration;

/// Longest id of an event that is kept.
const MAX_ID: usize = 1_024;

/// Takes bytes as they come and gives events, with a bound on what it holds.
#[derive(Debug)]
pub(crate) struct Parser {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    started: bool,
    id: Option<String>,
    retry: Option<Duration>,
}

/// An event or a line is over the bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// At most `limit` bytes for one event.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            started: false,
            id: None,
            retry: None,
        }
    }

    /// The id of the last event that had one.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How long to wait before connecting again, if the server said so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// A new stream that goes on where this one ended.
    pub(crate) fn resumed(self) -> Self {
        Self { id: self.id, retry: self.retry, ..Self::new(self.limit) }
    }

    /// The data of the events that these bytes complete.
    ///
    /// # Errors
    /// [`TooLong`], after which the parser is of no use.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    self.end_line(&mut events);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() + self.data.len() > self.limit {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<Vec<u8>>) {
        let mut line = std::mem::take(&mut self.line);
        if !self.started {
            self.started = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                events.push(std::mem::take(&mut self.data));
            }
        } else if let Some(value) = field(&line, b"data") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        } else if let Some(id) = field(&line, b"id") {
            if id.len() <= MAX_ID && !id.contains(&0) {
                self.id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty()).map(str::to_owned);
            }
        } else if let Some(retry) = field(&line, b"retry") {
            let millis = std::str::from_utf8(retry).ok().and_then(|text| text.parse().ok());
            self.retry = millis.map(Duration::from_millis).or(self.retry);
        }
    }
}

/// The value of a line with this field's name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', rest @ ..] | [b':', rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8], piece: usize) -> Vec<String> {
        let mut parser = Parser::new(1_000);
        let fed = stream.chunks(piece).flat_map(|bytes| parser.feed(bytes).expect("short"));
        fed.map(|event| String::from_utf8(event).expect("UTF-8")).collect()
    }

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let stream = b"\xef\xbb\xbf: hello\r\nevent: message\r\nid: 1\r\ndata: {\"a\":1}\r\n\r\ndata:x\ndata: y\n\n\ndata\n\nretry: 5\n\n\
                       database: no\n\ndata: z\r\rdata: cut off";
        for piece in [1, 2, 3, 7, 1_000] {
            assert_eq!(events(stream, piece), ["{\"a\":1}", "x\ny", "", "z"], "{piece}");
        }
    }

    #[test]
    fn the_last_id_and_the_time_to_wait_are_kept() {
        let mut parser = Parser::new(1_000);
        parser.feed(b"id: 7\nretry: 250\ndata:\n\nid: a\0b\nretry: soon\n\n").expect("short");
        assert_eq!((parser.last_id(), parser.retry()), (Some("7"), Some(Duration::from_millis(250))));
        assert_eq!(parser.resumed().last_id(), Some("7"));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::new(10);
        assert_eq!(parser.feed(b"data: 123\n"), Ok(vec![]));
        assert_eq!(parser.feed(b"data: 45678\n"), Err(TooLong));
        assert_eq!(Parser::new(10).feed(b"aaaaaaaaaaa"), Err(TooLong));
    }
}
