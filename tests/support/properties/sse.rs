//! The decoder of server-sent events, compared with a naive implementation of the HTML standard.

use switchboard::backend::ai::sse::{Decoder, Event, SseError, SseLimits};

use super::{Choices, cut};

/// Limits small enough for a fuzzer to reach.
pub const LIMITS: SseLimits = SseLimits { max_line_bytes: 48, max_event_bytes: 64 };

/// The events and the error are those of the naive implementation, wherever the stream is cut, in bounded memory.
///
/// Four bytes are the cuts; the rest is the stream.
pub fn sse(data: &[u8]) {
    let mut choices = Choices::new(data);
    let lengths = choices.word();
    let stream = choices.rest();
    let (events, failure) = naive(stream);
    for lengths in [&[0][..], &[1], &lengths] {
        let mut decoder = Decoder::new(LIMITS);
        let mut seen = Vec::new();
        let mut result = Ok(());
        for piece in cut(stream, lengths) {
            result = decoder.handle(piece);
            seen.extend(std::iter::from_fn(|| decoder.poll_event()));
            memory_is_within(decoder.held_bytes());
        }
        events_are_right(&seen, &events);
        assert_eq!(result.err(), failure, "{}", stream.escape_ascii());
    }
}

pub fn events_are_right(seen: &[Event], expected: &[Event]) {
    assert_eq!(seen, expected);
}

/// A line, an event's name and the last id, each as long as the longest line, whose bytes can each become three, and an
/// event; doubled, as a vector grows.
pub fn memory_is_within(held_bytes: usize) {
    let most = 2 * (7 * LIMITS.max_line_bytes + LIMITS.max_event_bytes) + 64;
    assert!(held_bytes <= most, "{held_bytes} bytes held, {most} allowed");
}

/// The standard, line by line, over the whole stream.
fn naive(stream: &[u8]) -> (Vec<Event>, Option<SseError>) {
    let mut events = Vec::new();
    let (mut name, mut data, mut last_id) = (String::new(), String::new(), String::new());
    for (index, line) in lines(stream).into_iter().enumerate() {
        let (line, is_whole) = line;
        if line.len() > LIMITS.max_line_bytes {
            return (events, Some(SseError::LineTooLong { max: LIMITS.max_line_bytes }));
        }
        if !is_whole {
            break;
        }
        let text = String::from_utf8_lossy(line);
        let text = if index == 0 { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        if text.is_empty() {
            let name = std::mem::take(&mut name);
            if let Some(content) = std::mem::take(&mut data).strip_suffix('\n') {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                events.push(Event { name, data: content.to_owned(), last_id: last_id.clone() });
            }
            continue;
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if data.len() + value.len() > LIMITS.max_event_bytes {
                    return (events, Some(SseError::EventTooLong { max: LIMITS.max_event_bytes }));
                }
                data = format!("{data}{value}\n");
            }
            "event" => name = value.to_owned(),
            "id" if !value.contains('\0') => last_id = value.to_owned(),
            _ => {}
        }
    }
    (events, None)
}

/// The lines, and whether each is complete.
fn lines(stream: &[u8]) -> Vec<(&[u8], bool)> {
    let mut lines = Vec::new();
    let mut rest = stream;
    while let Some(end) = rest.iter().position(|byte| b"\r\n".contains(byte)) {
        lines.push((&rest[..end], true));
        let length = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + length..];
    }
    lines.push((rest, false));
    lines
}
