//! Server-sent events, as much of them as MCP uses: the `data` of each event (WHATWG HTML, 9.2).

/// Takes bytes as they come and gives events, with a bound on what it holds.
#[derive(Debug)]
pub(crate) struct Parser {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    started: bool,
}

/// An event or a line is over the bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// At most `limit` bytes for one event.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), data: Vec::new(), has_data: false, after_cr: false, started: false }
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
        } else if let Some(value) = line.strip_prefix(b"data") {
            let value = match value {
                [] => Some(value),
                [b':', b' ', rest @ ..] | [b':', rest @ ..] => Some(rest),
                _ => None,
            };
            if let Some(value) = value {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
        }
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
    fn an_endless_event_is_refused() {
        let mut parser = Parser::new(10);
        assert_eq!(parser.feed(b"data: 123\n"), Ok(vec![]));
        assert_eq!(parser.feed(b"data: 45678\n"), Err(TooLong));
        assert_eq!(Parser::new(10).feed(b"aaaaaaaaaaa"), Err(TooLong));
    }
}
