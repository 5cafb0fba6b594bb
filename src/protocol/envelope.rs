//! The envelope: `{type, id, channel, payload, error, timestamp}` (specification, "Protocol Specification"). Input: the
//! text of a message. Output: its members as slices of that text, and back. The payload is checked but never parsed.

use std::fmt;
use std::ops::Range;

use super::json::{self, JsonError, JsonErrorKind, Shape};

/// Longest `id`, in bytes of its JSON text between the quotes. A UUID takes 36.
pub const MAX_ID_BYTES: usize = 128;

/// Longest `channel`, in bytes of its JSON text between the quotes.
pub const MAX_CHANNEL_BYTES: usize = 256;

/// How much of a message [`peek`] looks at, in bytes.
pub const PEEK_BYTES: usize = 1 << 10;

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the client; a response with the same id answers it.
    Request,
    /// From the server, to the request with the same id.
    Response,
    /// From the server, without a request.
    Event,
}

impl Kind {
    fn from_wire(name: &str) -> Option<Kind> {
        match name {
            "request" => Some(Kind::Request),
            "response" => Some(Kind::Response),
            "event" => Some(Kind::Event),
            _ => None,
        }
    }
}

/// A message, as slices of its own text.
///
/// `id` and `channel` are the text between the quotes, escapes not resolved, so that an answer repeats them exactly as
/// the client wrote them. [`json::unescape`] resolves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The type of the message.
    pub kind: Kind,
    /// The index of the first byte of the value of `type`.
    pub kind_at: usize,
    /// The id; always present in a request and a response.
    pub id: Option<&'a str>,
    /// The channel.
    pub channel: &'a str,
    /// The payload's text.
    pub payload: Option<&'a str>,
    /// The error's text.
    pub error: Option<&'a str>,
    /// The sender's clock in Unix ms.
    pub timestamp: Option<&'a str>,
}

/// Why a message cannot be read, and the members that an answer can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeError<'a> {
    /// What is wrong.
    pub kind: EnvelopeErrorKind,
    /// The message's id, if it is valid.
    pub id: Option<&'a str>,
    /// The message's channel, if it is valid.
    pub channel: Option<&'a str>,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeErrorKind {
    /// It is not JSON.
    Json(JsonError),
    /// It is JSON, but not an object.
    NotAnObject {
        /// The index of the value's first byte.
        at: usize,
    },
    /// A member is missing.
    Missing {
        /// The member's name.
        name: &'static str,
        /// The index of the object's closing brace.
        at: usize,
    },
    /// A member has the wrong type or is over its limit.
    Invalid {
        /// The member's name.
        name: &'static str,
        /// What was expected.
        expected: &'static str,
        /// The index of the value's first byte.
        at: usize,
    },
}

impl fmt::Display for EnvelopeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvelopeErrorKind::Json(error) => write!(f, "not JSON: {error}"),
            EnvelopeErrorKind::NotAnObject { at } => write!(f, "expected an object at byte {at}"),
            EnvelopeErrorKind::Missing { name, at } => write!(f, "\"{name}\" is missing, at byte {at}"),
            EnvelopeErrorKind::Invalid { name, expected, at } => {
                write!(f, "\"{name}\" must be {expected}, at byte {at}")
            }
        }
    }
}

/// The ranges of a message's members in its text; empty for an absent member, as no value is empty. The last of duplicate
/// members counts, as in `JSON.parse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub kind: Range<usize>,
    /// Once decoded, without the quotes.
    pub id: Range<usize>,
    /// Once decoded, without the quotes.
    pub channel: Range<usize>,
    pub payload: Range<usize>,
    pub error: Range<usize>,
    timestamp: Range<usize>,
}

impl<'a> Envelope<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// When the text is not JSON, or not an envelope. A missing `timestamp` and unknown members are allowed.
    ///
    /// ```
    /// use switchboard::protocol::envelope::{Envelope, Kind};
    /// let text = r#"{"type":"request","id":"1","channel":"chat:list","payload":{"limit":5}}"#;
    /// let envelope = Envelope::decode(text).unwrap();
    /// assert_eq!(envelope.kind, Kind::Request);
    /// assert_eq!(envelope.payload, Some(r#"{"limit":5}"#));
    /// assert_eq!(Envelope::decode("[]").unwrap_err().kind.to_string(), "expected an object at byte 0");
    /// ```
    pub fn decode(text: &'a str) -> Result<Envelope<'a>, EnvelopeError<'a>> {
        if let Some(members) = Members::decode_fast_path(text.as_bytes()) {
            return Ok(members.envelope(Kind::Request, text));
        }
        let (kind, members) = Members::decode_general(text)?;
        Ok(members.envelope(kind, text))
    }
}

impl Members {
    /// Reads a message. See [`Envelope::decode`].
    #[inline(always)]
    pub(super) fn decode(text: &str) -> Result<(Kind, Members), EnvelopeError<'_>> {
        match Members::decode_fast_path(text.as_bytes()) {
            Some(members) => Ok((Kind::Request, members)),
            None => Members::decode_general(text),
        }
    }

    /// The members as slices of the text that they were decoded from.
    #[inline(always)]
    pub(super) fn envelope<'a>(&self, kind: Kind, text: &'a str) -> Envelope<'a> {
        let part = |range: &Range<usize>| (!range.is_empty()).then(|| json::part(text, range.clone()));
        Envelope {
            kind,
            kind_at: self.kind.start,
            id: part(&self.id),
            channel: json::part(text, self.channel.clone()),
            payload: part(&self.payload),
            error: part(&self.error),
            timestamp: part(&self.timestamp),
        }
    }

    /// Reads a request as the specification's clients and this crate's write it: members in this order, without white
    /// space. `None` for every other text, valid or not.
    #[inline(always)]
    fn decode_fast_path(bytes: &[u8]) -> Option<Members> {
        let id = json::unescaped_run(bytes, skip_literal(bytes, 0, br#"{"type":"request","id":""#)?);
        let channel = json::unescaped_run(bytes, skip_literal(bytes, id.end, br#"","channel":""#)?);
        let mut at = skip_literal(bytes, channel.end, b"\"")?;
        let (mut payload, mut timestamp) = (0..0, 0..0);
        if let Some(start) = skip_literal(bytes, at, br#","payload":"#) {
            payload = json::member_value(bytes, start).ok()?;
            at = payload.end;
        }
        if let Some(start) = skip_literal(bytes, at, br#","timestamp":"#) {
            at = json::digits_end(bytes, start);
            timestamp = start..at;
            // The length of `Date.now()` until the year 2286. `decode_general` reads all other numbers.
            if timestamp.len() != 13 || bytes.get(start) == Some(&b'0') {
                return None;
            }
        }
        let lengths_fit =
            (1..=MAX_ID_BYTES).contains(&id.len()) && (1..=MAX_CHANNEL_BYTES).contains(&channel.len());
        if skip_literal(bytes, at, b"}") != Some(bytes.len()) || !lengths_fit {
            return None;
        }
        // `{"type":` has 8 bytes, `"request"` has 9.
        Some(Members { kind: 8..17, id, channel, payload, error: 0..0, timestamp })
    }

    #[inline(never)]
    fn decode_general(text: &str) -> Result<(Kind, Members), EnvelopeError<'_>> {
        let bytes = text.as_bytes();
        let mut members = Members::default();
        let end = match json::member_ranges(bytes, |name, value| {
            members.record(json::part(text, name), value)
        }) {
            Ok(Shape::Object { end }) => end,
            Ok(Shape::Other { at }) => return Err(error_without_id(EnvelopeErrorKind::NotAnObject { at })),
            Err(error) => return Err(error_without_id(EnvelopeErrorKind::Json(error))),
        };
        let id = name_within(bytes, &members.id, MAX_ID_BYTES);
        let channel = name_within(bytes, &members.channel, MAX_CHANNEL_BYTES);
        let fail = |value: &Range<usize>, name, expected| {
            let kind = match value.is_empty() {
                false => EnvelopeErrorKind::Invalid { name, expected, at: value.start },
                true => EnvelopeErrorKind::Missing { name, at: end },
            };
            let part = |range: &Option<Range<usize>>| range.clone().map(|range| json::part(text, range));
            Err(EnvelopeError { kind, id: part(&id), channel: part(&channel) })
        };

        let kind = json::string_content(json::part(text, members.kind.clone()));
        let kind =
            kind.and_then(|name| Kind::from_wire(name).or_else(|| Kind::from_wire(&json::unescape(name)?)));
        let Some(kind) = kind else {
            return fail(&members.kind, "type", "\"request\", \"response\" or \"event\"");
        };
        // An event needs no id, but if it has one, it must be valid.
        if id.is_none() && (kind != Kind::Event || !members.id.is_empty()) {
            return fail(&members.id, "id", "a non-empty string of at most 128 bytes");
        }
        let Some(channel) = channel.clone() else {
            return fail(&members.channel, "channel", "a non-empty string of at most 256 bytes");
        };
        // Of all JSON values only a number begins with a minus or a digit.
        let first = bytes.get(members.timestamp.start).filter(|_| !members.timestamp.is_empty());
        if first.is_some_and(|first| *first != b'-' && !first.is_ascii_digit()) {
            return fail(&members.timestamp, "timestamp", "a number");
        }
        Ok((kind, Members { id: id.unwrap_or_default(), channel, ..members }))
    }

    #[inline(always)]
    fn record(&mut self, name: &str, value: Range<usize>) {
        match self.member(name.as_bytes()) {
            Some(member) => *member = value,
            None => self.record_escaped_name(name, value),
        }
    }

    #[inline(always)]
    fn member(&mut self, name: &[u8]) -> Option<&mut Range<usize>> {
        // Compared whole: the patterns of a `match` would be compared byte by byte.
        match name.len() {
            2 if name == b"id" => Some(&mut self.id),
            4 if name == b"type" => Some(&mut self.kind),
            5 if name == b"error" => Some(&mut self.error),
            7 if name == b"channel" => Some(&mut self.channel),
            7 if name == b"payload" => Some(&mut self.payload),
            9 if name == b"timestamp" => Some(&mut self.timestamp),
            _ => None,
        }
    }

    /// `{"\u0069d": …}` has an id too. Names can be long and many, so nothing is built from them.
    #[cold]
    fn record_escaped_name(&mut self, name: &str, value: Range<usize>) {
        const NAMES: [&str; 6] = ["type", "id", "channel", "payload", "error", "timestamp"];
        let known = NAMES.into_iter().find(|known| json::content_is(name, known));
        if let Some(member) = known.and_then(|known| self.member(known.as_bytes())) {
            *member = value;
        }
    }
}

/// Returns the id and the channel of a message that is refused without being decoded, as far as its first [`PEEK_BYTES`] show
/// them. In a message that is not longer, they are those of [`Envelope::decode`].
pub fn peek(message: &[u8]) -> (Option<&str>, Option<&str>) {
    let head = message.get(..PEEK_BYTES).unwrap_or(message);
    let is_cut = head.len() < message.len();
    let head = match std::str::from_utf8(head) {
        // The cut can go through a character.
        Err(error) if is_cut && error.error_len().is_none() => head.get(..error.valid_up_to()),
        result => Some(head).filter(|_| result.is_ok()),
    };
    let head = head.and_then(|head| std::str::from_utf8(head).ok()).unwrap_or_default();
    let mut members = Members::default();
    let read = json::member_ranges(head.as_bytes(), |name, value| {
        members.record(json::part(head, name), value);
    });
    match read {
        Ok(Shape::Object { .. }) => {}
        Err(JsonError { kind: JsonErrorKind::UnexpectedEnd, .. }) if is_cut => {}
        _ => return (None, None),
    }
    let name = |value, limit| Some(json::part(head, name_within(head.as_bytes(), value, limit)?));
    (name(&members.id, MAX_ID_BYTES), name(&members.channel, MAX_CHANNEL_BYTES))
}

/// The index after `text`, if `bytes[at..]` starts with it.
#[inline(always)]
fn skip_literal<const N: usize>(bytes: &[u8], at: usize, text: &[u8; N]) -> Option<usize> {
    (bytes.get(at..)?.first_chunk() == Some(text)).then_some(at + N)
}

fn error_without_id<'a>(kind: EnvelopeErrorKind) -> EnvelopeError<'a> {
    EnvelopeError { kind, id: None, channel: None }
}

/// The range between the quotes of a string value with 1 to `limit` bytes of content.
fn name_within(bytes: &[u8], value: &Range<usize>, limit: usize) -> Option<Range<usize>> {
    let is_string = bytes.get(value.start) == Some(&b'"') && !value.is_empty();
    let content = value.start + 1..value.end.saturating_sub(1);
    (is_string && (1..=limit).contains(&content.len())).then_some(content)
}

/// The body of a response.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// The response's payload; `None` leaves the member out.
    Payload(Option<&'a str>),
    /// The text of `{code, message, details?}`.
    Error(&'a str),
}

/// The pieces of an encoded message, in order. Their total length is known before the first byte is copied, so a frame's
/// header can be written before them.
pub type Pieces<'a> = [&'a [u8]; 7];

/// A response in pieces. `id` and `channel` are JSON text without the quotes.
pub fn response<'a>(id: &'a str, channel: &'a str, body: Body<'a>, timestamp: &'a Timestamp) -> Pieces<'a> {
    let (id, channel, (name, value)) = (id.as_bytes(), channel.as_bytes(), member(body));
    [br#"{"type":"response","id":""#, id, br#"","channel":""#, channel, name, value, timestamp.as_bytes()]
}

/// A request in pieces. `id` and `channel` are JSON text without the quotes.
#[cfg(feature = "client")]
pub fn request<'a>(
    id: &'a str,
    channel: &'a str,
    payload: Option<&'a str>,
    timestamp: &'a Timestamp,
) -> Pieces<'a> {
    let (id, channel, (name, value)) = (id.as_bytes(), channel.as_bytes(), member(Body::Payload(payload)));
    [br#"{"type":"request","id":""#, id, br#"","channel":""#, channel, name, value, timestamp.as_bytes()]
}

/// An event in pieces. `channel` is JSON text without the quotes.
pub fn event<'a>(channel: &'a str, payload: Option<&'a str>, timestamp: &'a Timestamp) -> Pieces<'a> {
    let (name, value) = member(Body::Payload(payload));
    [br#"{"type":"event","channel":""#, channel.as_bytes(), name, value, timestamp.as_bytes(), b"", b""]
}

/// The text between the channel and the value, starting with the channel's closing quote; and the value.
fn member(body: Body<'_>) -> (&'static [u8], &[u8]) {
    match body {
        Body::Payload(None) => (b"\"", b""),
        Body::Payload(Some(payload)) => (b"\",\"payload\":", payload.as_bytes()),
        Body::Error(error) => (b"\",\"error\":", error.as_bytes()),
    }
}

/// The end of every message: `,"timestamp":` with a Unix time in ms, and the closing brace.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    /// Right-aligned.
    text: [u8; 40],
    start: usize,
}

impl Timestamp {
    /// Formats a Unix time in ms.
    pub fn new(unix_ms: u64) -> Timestamp {
        const NAME: &[u8; 13] = b",\"timestamp\":";
        let mut text = [b'}'; 40];
        let mut start = text.len() - 1;
        let mut rest = unix_ms;
        while rest >= 10 {
            start -= 2;
            text[start..start + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
            rest /= 100;
        }
        if rest > 0 || unix_ms == 0 {
            start -= 1;
            text[start] = b'0' + rest as u8;
        }
        start -= NAME.len();
        text[start..start + NAME.len()].copy_from_slice(NAME);
        Timestamp { text, start }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + n as u8 / 10, b'0' + n as u8 % 10];
        n += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (String, Option<&str>, Option<&str>) {
        let error = Envelope::decode(text).expect_err(text);
        (error.kind.to_string(), error.id, error.channel)
    }

    #[test]
    fn members_are_slices_of_the_text() {
        let text = r#" {"timestamp":1,"payload": [1, 2] ,"channel":"a\u003ab","id":"\ud800","type":"request","x":{}} "#;
        let envelope = Envelope::decode(text).unwrap();
        assert_eq!(
            envelope,
            Envelope {
                kind: Kind::Request,
                kind_at: 77,
                id: Some("\\ud800"),
                channel: "a\\u003ab",
                payload: Some("[1, 2]"),
                error: None,
                timestamp: Some("1"),
            }
        );
    }

    #[test]
    fn the_last_duplicate_wins_and_escaped_names_count() {
        let text = r#"{"type":"event","type":"re\u0071uest","id":"1","\u0069d":"2","channel":"c","payload":1,"payload":null}"#;
        let envelope = Envelope::decode(text).unwrap();
        assert_eq!((envelope.id, envelope.payload), (Some("2"), Some("null")));
    }

    #[test]
    fn fast_path_and_general_path_agree() {
        let texts = [
            r#"{"type":"request","id":"i-1","channel":"a:b","payload":{"a":[1,"}"]},"timestamp":1767225600000}"#,
            r#"{"type":"request","id":"1","channel":"c","payload":"x","timestamp":1767225600000}"#,
            r#"{"type":"request","id":"1","channel":"c","timestamp":9999999999999}"#,
            r#"{"type":"request","id":"1","channel":"c","payload":null}"#,
        ];
        for text in texts {
            assert!(Members::decode_fast_path(text.as_bytes()).is_some(), "{text}");
        }
        let long = [("1".repeat(128), 256, true), ("1".repeat(129), 1, false), ("1".into(), 257, false)];
        for (id, channel, fits) in long {
            let channel = "c".repeat(channel);
            let text = format!(r#"{{"type":"request","id":"{id}","channel":"{channel}"}}"#);
            assert_eq!(Members::decode_fast_path(text.as_bytes()).is_some(), fits, "{text}");
        }
        // Every text that is one byte off.
        let mut off = Vec::new();
        for (text, at) in texts.iter().flat_map(|text| (0..text.len()).map(move |at| (text, at))) {
            let (before, rest) = text.split_at(at);
            off.push(format!("{before}{}", &rest[1..]));
            for byte in " \"\\,:{}[]0.-ex\u{1}é".chars() {
                off.push(format!("{before}{byte}{rest}"));
                off.push(format!("{before}{byte}{}", &rest[1..]));
            }
        }
        for text in off {
            if let Some(members) = Members::decode_fast_path(text.as_bytes()) {
                assert_eq!(Members::decode_general(&text), Ok((Kind::Request, members)), "{text}");
            }
        }
    }

    #[test]
    fn errors_name_the_byte_and_the_usable_id() {
        let long = |name: &str, length: usize| {
            let (id, channel) = match name {
                "id" => ("x".repeat(length), "c".to_owned()),
                _ => ("1".to_owned(), "x".repeat(length)),
            };
            format!(r#"{{"type":"request","id":"{id}","channel":"{channel}"}}"#)
        };
        assert!(Envelope::decode(&long("id", MAX_ID_BYTES)).is_ok());
        assert!(Envelope::decode(&long("channel", MAX_CHANNEL_BYTES)).is_ok());
        assert_eq!(error(&long("id", MAX_ID_BYTES + 1)).1, None);
        assert_eq!(error(&long("channel", MAX_CHANNEL_BYTES + 1)).1, Some("1"));

        let expected_kind = r#""type" must be "request", "response" or "event", at byte 8"#;
        for (text, message, id, channel) in [
            ("{", "not JSON: unexpected end of text at byte 1", None, None),
            (" 7", "expected an object at byte 1", None, None),
            ("{}", "\"type\" is missing, at byte 1", None, None),
            (r#"{"type":1,"id":"a","channel":"c"}"#, expected_kind, Some("a"), Some("c")),
            (r#"{"type":"request","channel":"c"}"#, "\"id\" is missing, at byte 31", None, Some("c")),
            (
                r#"{"type":"request","id":7,"channel":"c"}"#,
                "\"id\" must be a non-empty string of at most 128 bytes, at byte 23",
                None,
                Some("c"),
            ),
            (r#"{"type":"request","id":"a"}"#, "\"channel\" is missing, at byte 26", Some("a"), None),
            (
                r#"{"type":"request","id":"a","channel":"c","timestamp":"now"}"#,
                "\"timestamp\" must be a number, at byte 53",
                Some("a"),
                Some("c"),
            ),
        ] {
            assert_eq!(error(text), (message.to_owned(), id, channel));
        }
    }

    #[test]
    fn a_timestamp_is_written_to_the_last_digit() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        for unix_ms in powers.flat_map(|n| [n - 1, n, n + 1]).chain([1_704_067_200_000, u64::MAX]) {
            let text = format!(",\"timestamp\":{unix_ms}}}");
            assert_eq!(Timestamp::new(unix_ms).as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn members_are_in_the_order_of_the_specification() {
        let timestamp = Timestamp::new(5);
        let text = |pieces: Pieces<'_>| String::from_utf8(pieces.concat()).unwrap();
        let written = text(response("i", "c", Body::Error("{}"), &timestamp));
        assert_eq!(written, r#"{"type":"response","id":"i","channel":"c","error":{},"timestamp":5}"#);
        let written = text(response("i", "c", Body::Payload(None), &timestamp));
        assert_eq!(written, r#"{"type":"response","id":"i","channel":"c","timestamp":5}"#);
        let written = text(event("c", Some("null"), &timestamp));
        assert_eq!(written, r#"{"type":"event","channel":"c","payload":null,"timestamp":5}"#);
        #[cfg(feature = "client")]
        {
            let written = text(request("i", "c", Some("1"), &timestamp));
            assert_eq!(written, r#"{"type":"request","id":"i","channel":"c","payload":1,"timestamp":5}"#);
        }
    }
}
