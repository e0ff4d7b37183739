//! Server-sent events of the node's answers.

use serde_json::Value;

use super::MAX_ANSWER;

/// Takes server-sent events out of pieces of a stream.
#[derive(Default)]
pub(super) struct Events {
    buffer: Vec<u8>,
    data: Vec<u8>,
    /// Whether the answer has come by.
    pub(super) answered: bool,
}

impl Events {
    /// The events that are whole with this piece.
    ///
    /// # Errors
    /// If they are longer than an answer may be.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() + self.data.len() > MAX_ANSWER {
            return Err("the node's answer is too long".to_owned());
        }
        let mut found = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = line.trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                let event = std::mem::take(&mut self.data);
                // Notifications have a method; what has none is the answer.
                self.answered |=
                    serde_json::from_slice::<Value>(&event).is_ok_and(|value| value.get("method").is_none());
                found.push(event);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_stream_is_cut() {
        let stream = b": waiting\n\nevent: message\ndata: {\"method\":\"x\"}\n\nevent: message\ndata: {\"id\":1,\ndata: \"result\":{}}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<Vec<u8>> =
                stream.chunks(size).flat_map(|chunk| events.push(chunk).expect("short")).collect();
            assert_eq!(found.len(), 2, "cut every {size} bytes");
            assert_eq!(found[1], b"{\"id\":1,\n\"result\":{}}");
            assert!(events.answered);
        }
    }
}
