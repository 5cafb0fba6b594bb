//! The envelope: `{type, id, channel, payload, error, timestamp}` (specification, "Protocol Specification"). In: the
//! text of a message. Out: its members as slices of that text, and back. The payload is checked but never built.

use std::fmt;
use std::ops::Range;

use super::json::{self, JsonError, Shape};

/// Longest `id`, in bytes of its JSON text between the quotes. A UUID takes 36.
pub const MAX_ID_BYTES: usize = 128;

/// Longest `channel`, in bytes of its JSON text between the quotes.
pub const MAX_CHANNEL_BYTES: usize = 256;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the client; a response with the same id answers it.
    Request,
    /// From the server, to the request with the same id.
    Response,
    /// From the server, unasked.
    Event,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
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
/// `id` and `channel` are what stands between the quotes, escapes untouched: echoed like that, they come back as the
/// client wrote them. [`json::unescape`] says what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the message is.
    pub kind: Kind,
    /// Where the value of `type` begins, in bytes.
    pub kind_at: usize,
    /// The id; always there in a request and a response.
    pub id: Option<&'a str>,
    /// The channel.
    pub channel: &'a str,
    /// The payload's text, if there is one.
    pub payload: Option<&'a str>,
    /// The error's text, if there is one.
    pub error: Option<&'a str>,
    /// The sender's clock in Unix ms, if it said.
    pub timestamp: Option<&'a str>,
}

/// Why a message cannot be read, with as much of it as can be used to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeError<'a> {
    /// What is wrong.
    pub kind: EnvelopeErrorKind,
    /// The message's id, if it has a usable one.
    pub id: Option<&'a str>,
    /// The message's channel, if it has a usable one.
    pub channel: Option<&'a str>,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvelopeErrorKind {
    /// It is not JSON.
    Json(JsonError),
    /// It is JSON, but not an object.
    NotAnObject {
        /// Where the value begins.
        at: usize,
    },
    /// A member is missing.
    Missing {
        /// The member's name.
        name: &'static str,
        /// Where the object ends.
        at: usize,
    },
    /// A member is not of its type or over its limit.
    Invalid {
        /// The member's name.
        name: &'static str,
        /// What was expected.
        expected: &'static str,
        /// Where its value begins.
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

/// Where a text has the values of an envelope's members, `0..0` for those it has not; of duplicates the last, as in
/// `JSON.parse`.
#[derive(Default)]
struct Members {
    kind: Range<usize>,
    id: Range<usize>,
    channel: Range<usize>,
    payload: Range<usize>,
    error: Range<usize>,
    timestamp: Range<usize>,
}

impl Members {
    #[inline(always)]
    fn see(&mut self, name: &[u8], value: Range<usize>) {
        // Compared whole: the patterns of a `match` would be compared byte by byte.
        let place = match name.len() {
            2 if name == b"id" => &mut self.id,
            4 if name == b"type" => &mut self.kind,
            5 if name == b"error" => &mut self.error,
            7 if name == b"channel" => &mut self.channel,
            7 if name == b"payload" => &mut self.payload,
            9 if name == b"timestamp" => &mut self.timestamp,
            _ => return self.see_other(name, value),
        };
        *place = value;
    }

    /// `{"\u0069d": …}` is an id too.
    #[cold]
    fn see_other(&mut self, name: &[u8], value: Range<usize>) {
        if !name.contains(&b'\\') {
            return;
        }
        let name = std::str::from_utf8(name).ok().and_then(json::unescape);
        let known = ["type", "id", "channel", "payload", "error", "timestamp"];
        if let Some(name) = known.into_iter().find(|known| Some(*known) == name.as_deref()) {
            self.see(name.as_bytes(), value);
        }
    }
}

impl<'a> Envelope<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is not JSON, or not an envelope. A missing `timestamp` and unknown members are no error.
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
        match Envelope::decode_usual(text) {
            Some(envelope) => Ok(envelope),
            None => Envelope::decode_any(text),
        }
    }

    /// Reads a request as this crate's clients and the specification's write it: its members in this order, with nothing
    /// between them. `None` says nothing about the text.
    fn decode_usual(text: &'a str) -> Option<Envelope<'a>> {
        let bytes = text.as_bytes();
        let id = json::plain_run(bytes, behind(bytes, 0, br#"{"type":"request","id":""#)?);
        let channel = json::plain_run(bytes, behind(bytes, id.end, br#"","channel":""#)?);
        let mut at = behind(bytes, channel.end, b"\"")?;
        let (mut payload, mut timestamp) = (None, None);
        if let Some(start) = behind(bytes, at, br#","payload":"#) {
            let value = json::member_value(bytes, start).ok()?;
            at = value.end;
            payload = text.get(value);
        }
        if let Some(start) = behind(bytes, at, br#","timestamp":"#) {
            at = json::digits_end(bytes, start);
            let value = text.get(start..at)?;
            // What `Date.now()` is until the year 2286. All other numbers are for the general way.
            if value.len() != 13 || value.starts_with('0') {
                return None;
            }
            timestamp = Some(value);
        }
        let names_fit =
            (1..=MAX_ID_BYTES).contains(&id.len()) && (1..=MAX_CHANNEL_BYTES).contains(&channel.len());
        if behind(bytes, at, b"}") != Some(bytes.len()) || !names_fit {
            return None;
        }
        let (id, channel) = (text.get(id), text.get(channel)?);
        // What `{"type":` takes is 8 bytes.
        Some(Envelope { kind: Kind::Request, kind_at: 8, id, channel, payload, error: None, timestamp })
    }

    fn decode_any(text: &'a str) -> Result<Envelope<'a>, EnvelopeError<'a>> {
        let bytes = text.as_bytes();
        let mut members = Members::default();
        let see = |name, value| members.see(bytes.get::<Range<usize>>(name).unwrap_or_default(), value);
        let end = match json::member_ranges(bytes, see) {
            Ok(Shape::Object { end }) => end,
            Ok(Shape::Other { at }) => return Err(bare(EnvelopeErrorKind::NotAnObject { at })),
            Err(error) => return Err(bare(EnvelopeErrorKind::Json(error))),
        };
        // No value is empty.
        let value = |place: &Range<usize>| text.get(place.clone()).filter(|value| !value.is_empty());
        let id = value(&members.id).and_then(|value| name_within(value, MAX_ID_BYTES));
        let channel = value(&members.channel).and_then(|value| name_within(value, MAX_CHANNEL_BYTES));
        let fault = |place: &Range<usize>, name, expected| {
            let kind = match place.is_empty() {
                false => EnvelopeErrorKind::Invalid { name, expected, at: place.start },
                true => EnvelopeErrorKind::Missing { name, at: end },
            };
            EnvelopeError { kind, id, channel }
        };

        let kind = value(&members.kind).and_then(json::string_content);
        let kind = kind.and_then(|name| Kind::of(name).or_else(|| Kind::of(&json::unescape(name)?)));
        let Some(kind) = kind else {
            return Err(fault(&members.kind, "type", "\"request\", \"response\" or \"event\""));
        };
        // An event needs no id, but one that is there must be an id.
        if id.is_none() && (kind != Kind::Event || !members.id.is_empty()) {
            return Err(fault(&members.id, "id", "a non-empty string of at most 128 bytes"));
        }
        let Some(channel) = channel else {
            return Err(fault(&members.channel, "channel", "a non-empty string of at most 256 bytes"));
        };
        let timestamp = value(&members.timestamp);
        if timestamp.is_some_and(|value| !value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            return Err(fault(&members.timestamp, "timestamp", "a number"));
        }
        let kind_at = members.kind.start;
        let (payload, error) = (value(&members.payload), value(&members.error));
        Ok(Envelope { kind, kind_at, id, channel, payload, error, timestamp })
    }
}

/// Where some text ends, if it stands at this place.
#[inline(always)]
fn behind<const N: usize>(bytes: &[u8], at: usize, text: &[u8; N]) -> Option<usize> {
    (bytes.get(at..)?.first_chunk() == Some(text)).then_some(at + N)
}

fn bare<'a>(kind: EnvelopeErrorKind) -> EnvelopeError<'a> {
    EnvelopeError { kind, id: None, channel: None }
}

/// The content of a string value that is not empty and not longer than `limit`.
fn name_within(value: &str, limit: usize) -> Option<&str> {
    json::string_content(value).filter(|content| !content.is_empty() && content.len() <= limit)
}

/// What a response carries besides its id and channel: a payload (or none), or an error's JSON text.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// The response's payload; `None` leaves the member out.
    Payload(Option<&'a str>),
    /// The text of `{code, message, details?}`.
    Error(&'a str),
}

/// The pieces of an encoded message, in order. Their sum is known before the first byte is copied, so a frame's
/// header can be written ahead of them.
pub type Pieces<'a> = [&'a [u8]; 7];

/// A response in pieces. `id` and `channel` are JSON text without the quotes.
pub fn response<'a>(id: &'a str, channel: &'a str, body: Body<'a>, timestamp: &'a Timestamp) -> Pieces<'a> {
    let (id, channel, (name, value)) = (id.as_bytes(), channel.as_bytes(), member(body));
    [br#"{"type":"response","id":""#, id, br#"","channel":""#, channel, name, value, timestamp.as_bytes()]
}

/// A request in pieces. `id` and `channel` are JSON text without the quotes.
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

/// What stands between the channel and the value, the channel's closing quote included; and the value.
fn member(body: Body<'_>) -> (&'static [u8], &[u8]) {
    match body {
        Body::Payload(None) => (b"\"", b""),
        Body::Payload(Some(payload)) => (b"\",\"payload\":", payload.as_bytes()),
        Body::Error(error) => (b"\",\"error\":", error.as_bytes()),
    }
}

/// How each message ends: `,"timestamp":` with a Unix time in ms, and the closing brace.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    /// The text stands at the end.
    text: [u8; 40],
    start: usize,
}

impl Timestamp {
    /// Writes the digits, two at a time.
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

    /// The text of the end.
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
    fn the_last_of_two_members_wins_and_escaped_names_count() {
        let text = r#"{"type":"event","type":"re\u0071uest","id":"1","\u0069d":"2","channel":"c","payload":1,"payload":null}"#;
        let envelope = Envelope::decode(text).unwrap();
        assert_eq!((envelope.id, envelope.payload), (Some("2"), Some("null")));
    }

    #[test]
    fn both_ways_of_reading_agree() {
        let texts = [
            r#"{"type":"request","id":"i-1","channel":"a:b","payload":{"a":[1,"}"]},"timestamp":1767225600000}"#,
            r#"{"type":"request","id":"1","channel":"c","payload":"x","timestamp":1767225600000}"#,
            r#"{"type":"request","id":"1","channel":"c","timestamp":9999999999999}"#,
            r#"{"type":"request","id":"1","channel":"c","payload":null}"#,
        ];
        for text in texts {
            assert!(Envelope::decode_usual(text).is_some(), "{text}");
        }
        let long = [("1".repeat(128), 256, true), ("1".repeat(129), 1, false), ("1".into(), 257, false)];
        for (id, channel, fits) in long {
            let channel = "c".repeat(channel);
            let text = format!(r#"{{"type":"request","id":"{id}","channel":"{channel}"}}"#);
            assert_eq!(Envelope::decode_usual(&text).is_some(), fits, "{text}");
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
            if let Some(envelope) = Envelope::decode_usual(&text) {
                assert_eq!(Envelope::decode_any(&text), Ok(envelope), "{text}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_the_usable_id() {
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
            ("{", "not JSON: the text ends too early, at byte 1", None, None),
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
    fn members_stand_in_the_order_of_the_specification() {
        let timestamp = Timestamp::new(5);
        let text = |pieces: Pieces<'_>| String::from_utf8(pieces.concat()).unwrap();
        let written = text(response("i", "c", Body::Error("{}"), &timestamp));
        assert_eq!(written, r#"{"type":"response","id":"i","channel":"c","error":{},"timestamp":5}"#);
        let written = text(response("i", "c", Body::Payload(None), &timestamp));
        assert_eq!(written, r#"{"type":"response","id":"i","channel":"c","timestamp":5}"#);
        let written = text(request("i", "c", Some("1"), &timestamp));
        assert_eq!(written, r#"{"type":"request","id":"i","channel":"c","payload":1,"timestamp":5}"#);
        let written = text(event("c", Some("null"), &timestamp));
        assert_eq!(written, r#"{"type":"event","channel":"c","payload":null,"timestamp":5}"#);
    }
}
