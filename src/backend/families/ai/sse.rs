//! A decoder of server-sent events (HTML standard, "9.2.6 Interpreting an event stream"). Input: bytes, in pieces of any
//! length. Output: events. It never reconnects, so `retry` is ignored.
//!
//! After each [`handle`](Decoder::handle) call [`poll_event`](Decoder::poll_event) until it returns `None`. The end of the
//! stream needs no call: an event without its final empty line is discarded, as the standard requires.

use std::collections::VecDeque;
use std::fmt;

/// The limits of a stream.
#[derive(Debug, Clone, Copy)]
pub struct SseLimits {
    /// Longest line, in bytes, without its line end. A longer one fails as soon as the limit is exceeded.
    ///
    /// Default 4 MiB: enough for a whole web page or file as one JSON string. Lines of models are a thousand times shorter.
    pub max_line_bytes: usize,
    /// Longest data of one event, in bytes, including the line feeds between its lines. A longer one fails.
    ///
    /// Default 4 MiB.
    pub max_event_bytes: usize,
}

impl Default for SseLimits {
    fn default() -> SseLimits {
        SseLimits { max_line_bytes: 4 << 20, max_event_bytes: 4 << 20 }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The value of `event`, or `message` if it is missing or empty.
    pub name: String,
    /// The values of the `data` lines, joined with line feeds.
    pub data: String,
    /// The last `id` of the stream so far.
    pub last_id: String,
}

/// Why a stream cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SseError {
    /// A line is longer than allowed.
    LineTooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// An event's data is longer than allowed.
    EventTooLong {
        /// The limit, in bytes.
        max: usize,
    },
}

impl fmt::Display for SseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SseError::LineTooLong { max } => write!(f, "a line of more than {max} bytes"),
            SseError::EventTooLong { max } => write!(f, "an event of more than {max} bytes"),
        }
    }
}

impl std::error::Error for SseError {}

/// Decodes one stream.
#[derive(Debug)]
pub struct Decoder {
    limits: SseLimits,
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    is_first_line: bool,
    /// The last line ended with CR: if LF follows, it is part of the same line end.
    after_cr: bool,
    name: String,
    /// `None` until the event has a `data` line, which can be empty.
    data: Option<String>,
    last_id: String,
    events: VecDeque<Event>,
    failed: Option<SseError>,
}

impl Decoder {
    /// Creates a decoder at the beginning of a stream.
    pub fn new(limits: SseLimits) -> Decoder {
        Decoder {
            limits,
            line: Vec::new(),
            is_first_line: true,
            after_cr: false,
            name: String::new(),
            data: None,
            last_id: String::new(),
            events: VecDeque::new(),
            failed: None,
        }
    }

    /// Takes the next bytes. Events that were complete before an error can still be polled.
    ///
    /// # Errors
    /// When a line or an event is too long. Every later call returns the same error.
    pub fn handle(&mut self, mut input: &[u8]) -> Result<(), SseError> {
        while self.failed.is_none() && !input.is_empty() {
            if std::mem::take(&mut self.after_cr)
                && let Some(rest) = input.strip_prefix(b"\n")
            {
                input = rest;
                continue;
            }
            let end = input.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = input.split_at(end.unwrap_or(input.len()));
            if part.len() > self.limits.max_line_bytes.saturating_sub(self.line.len()) {
                self.failed = Some(SseError::LineTooLong { max: self.limits.max_line_bytes });
                break;
            }
            self.line.extend_from_slice(part);
            let Some((terminator, rest)) = rest.split_first() else { break };
            self.after_cr = *terminator == b'\r';
            input = rest;
            let mut line = std::mem::take(&mut self.line);
            self.failed = self.handle_line(&line).err();
            line.clear();
            self.line = line;
        }
        if self.failed.is_some() {
            self.free();
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// Returns the next complete event; `None` if more bytes are needed.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Memory held for incomplete events, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.line.capacity()
            + self.name.capacity()
            + self.data.as_ref().map_or(0, String::capacity)
            + self.last_id.capacity()
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<(), SseError> {
        let line = match std::mem::take(&mut self.is_first_line) {
            true => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
            false => line,
        };
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            // A comment: servers send them to keep the connection alive.
            Some(0) => return Ok(()),
            Some(colon) => {
                let (field, value) = line.split_at(colon);
                let value = value.strip_prefix(b":").unwrap_or(value);
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => return self.append(&String::from_utf8_lossy(value)),
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.last_id = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, value: &str) -> Result<(), SseError> {
        let max = self.limits.max_event_bytes;
        let held = self.data.as_ref().map_or(0, |data| data.len() + 1);
        if value.len() > max.saturating_sub(held) || held > max {
            return Err(SseError::EventTooLong { max });
        }
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        Ok(())
    }

    /// Ends an event. One without data is discarded.
    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        if let Some(data) = self.data.take() {
            let name = if name.is_empty() { "message".to_owned() } else { name };
            self.events.push_back(Event { name, data, last_id: self.last_id.clone() });
        }
    }

    fn free(&mut self) {
        self.line = Vec::new();
        self.name = String::new();
        self.data = None;
        self.last_id = String::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the events of a stream that arrives whole, byte by byte, and followed by an incomplete event.
    fn check(stream: &[u8], expected: &[(&str, &str, &str)]) {
        let expected: Vec<Event> = expected
            .iter()
            .map(|(name, data, last_id)| Event {
                name: (*name).to_owned(),
                data: (*data).to_owned(),
                last_id: (*last_id).to_owned(),
            })
            .collect();
        let trailing = [stream, b"data: unfinished\n"].concat();
        for (input, step) in [(stream, stream.len().max(1)), (stream, 1), (&trailing, 1), (&trailing, 3)] {
            let mut decoder = Decoder::new(SseLimits::default());
            let mut events = Vec::new();
            for piece in input.chunks(step) {
                decoder.handle(piece).unwrap();
                events.extend(std::iter::from_fn(|| decoder.poll_event()));
            }
            assert_eq!(events, expected, "{} by {step}", stream.escape_ascii());
        }
    }

    #[test]
    fn the_examples_of_the_standard_decode_as_it_says() {
        check(b"", &[]);
        check(b"data: YHOO\ndata: +2\ndata: 10\n\n", &[("message", "YHOO\n+2\n10", "")]);
        check(
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &[
                ("message", "first event", "1"),
                ("message", "second event", ""),
                ("message", " third event", ""),
            ],
        );
        check(b"data\n\ndata\ndata\n\n", &[("message", "", ""), ("message", "\n", "")]);
        check(b"data:test\n\ndata: test\n\n", &[("message", "test", ""), ("message", "test", "")]);
        check(
            b"event: add\ndata: 1\n\nevent: gone\n\ndata: 2\n\n",
            &[("add", "1", ""), ("message", "2", "")],
        );
    }

    #[test]
    fn a_line_ends_with_cr_lf_or_crlf() {
        for end in ["\n", "\r", "\r\n"] {
            check(
                format!("data: a{end}data: b{end}{end}event: x{end}data: c{end}{end}").as_bytes(),
                &[("message", "a\nb", ""), ("x", "c", "")],
            );
        }
        check(b"data: a\r\rdata: b\n\r\n", &[("message", "a", ""), ("message", "b", "")]);
        check(b"data: a\r\n\n", &[("message", "a", "")]);
    }

    #[test]
    fn one_byte_order_mark_at_the_start_is_ignored() {
        check("\u{feff}data: a\n\n".as_bytes(), &[("message", "a", "")]);
        check("\u{feff}\u{feff}data: a\n\ndata: b\n\n".as_bytes(), &[("message", "b", "")]);
        check("data: \u{feff}\n\n".as_bytes(), &[("message", "\u{feff}", "")]);
    }

    #[test]
    fn unknown_fields_are_ignored_and_invalid_utf8_is_replaced() {
        check(b"retry: 10\nDATA: x\n data: y\n:\ndata : z\n\n", &[]);
        check(b"data: \xff\xfe\ndata: \xc3\n\n", &[("message", "\u{fffd}\u{fffd}\n\u{fffd}", "")]);
        check(b"id: a\0b\nid: c\nid: d\0\ndata: 1\n\n", &[("message", "1", "c")]);
    }

    #[test]
    fn the_longest_line_and_event_are_accepted_and_one_more_byte_fails() {
        let limits = SseLimits { max_line_bytes: 10, max_event_bytes: 6 };
        for (stream, result) in [
            (&b"data: 1234\n\n"[..], Ok(1)),
            (b":234567890\n", Ok(0)),
            (b":2345678901", Err(SseError::LineTooLong { max: 10 })),
            (b"data: 12345", Err(SseError::LineTooLong { max: 10 })),
            (b"data:123\ndata:56\n\n", Ok(1)),
            (b"data:123\ndata:567\n", Err(SseError::EventTooLong { max: 6 })),
            (b"data\ndata\ndata\ndata\ndata\ndata\ndata\n\n", Ok(1)),
            (b"data\ndata\ndata\ndata\ndata\ndata\ndata\ndata\n", Err(SseError::EventTooLong { max: 6 })),
        ] {
            for step in [1, stream.len()] {
                let mut decoder = Decoder::new(limits);
                let handled: Result<Vec<()>, SseError> =
                    stream.chunks(step).map(|piece| decoder.handle(piece)).collect();
                let events = std::iter::from_fn(|| decoder.poll_event()).count();
                assert_eq!(handled.map(|_| events), result, "{}", stream.escape_ascii());
            }
        }
        let mut decoder = Decoder::new(limits);
        assert!(decoder.handle(b"data: 1\n\n01234567890").is_err());
        assert!(decoder.poll_event().is_some(), "an event before the error can be polled");
        assert!(decoder.handle(b"\n\ndata: 2\n\n").is_err() && decoder.poll_event().is_none());
    }
}
