//! The envelope: `{type, id, channel, payload, error, timestamp}` (specification, "Protocol Specification"). In: the
//! text of a message. Out: its members as slices of that text, and back. The payload is checked but never built.

use std::fmt;

use super::json::{self, JsonError, Member, Shape};

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

/// The members of an envelope as the text has them; of duplicates the last, as in `JSON.parse`.
#[derive(Default)]
struct Members<'a> {
    kind: Option<(&'a str, usize)>,
    id: Option<(&'a str, usize)>,
    channel: Option<(&'a str, usize)>,
    payload: Option<&'a str>,
    error: Option<&'a str>,
    timestamp: Option<(&'a str, usize)>,
}

impl<'a> Members<'a> {
    #[inline(always)]
    fn see(&mut self, member: Member<'a>) {
        match member.name {
            "type" => self.kind = Some((member.value, member.at)),
            "id" => self.id = Some((member.value, member.at)),
            "channel" => self.channel = Some((member.value, member.at)),
            "payload" => self.payload = Some(member.value),
            "error" => self.error = Some(member.value),
            "timestamp" => self.timestamp = Some((member.value, member.at)),
            name if name.contains('\\') => self.see_escaped(member),
            _ => {}
        }
    }

    /// `{"\u0069d": …}` is an id too.
    #[cold]
    fn see_escaped(&mut self, member: Member<'a>) {
        let Some(name) = json::unescape(member.name) else { return };
        let known = ["type", "id", "channel", "payload", "error", "timestamp"];
        if let Some(name) = known.into_iter().find(|known| *known == name) {
            self.see(Member { name, ..member });
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
        let mut members = Members::default();
        let end = match json::members(text, |member| members.see(member)) {
            Ok(Shape::Object { end }) => end,
            Ok(Shape::Other { at }) => return Err(bare(EnvelopeErrorKind::NotAnObject { at })),
            Err(error) => return Err(bare(EnvelopeErrorKind::Json(error))),
        };
        let id = members.id.and_then(|(value, _)| name_within(value, MAX_ID_BYTES));
        let channel = members.channel.and_then(|(value, _)| name_within(value, MAX_CHANNEL_BYTES));
        let fault = |found: Option<(&str, usize)>, name, expected| {
            let kind = match found {
                Some((_, at)) => EnvelopeErrorKind::Invalid { name, expected, at },
                None => EnvelopeErrorKind::Missing { name, at: end },
            };
            EnvelopeError { kind, id, channel }
        };

        let kind = match members.kind.and_then(|(value, _)| json::string_content(value)) {
            Some("request") => Kind::Request,
            Some("response") => Kind::Response,
            Some("event") => Kind::Event,
            Some(escaped) if escaped.contains('\\') => match json::unescape(escaped).as_deref() {
                Some("request") => Kind::Request,
                Some("response") => Kind::Response,
                Some("event") => Kind::Event,
                _ => return Err(fault(members.kind, "type", KINDS)),
            },
            _ => return Err(fault(members.kind, "type", KINDS)),
        };
        // An event needs no id, but one that is there must be an id.
        if id.is_none() && (kind != Kind::Event || members.id.is_some()) {
            return Err(fault(members.id, "id", "a non-empty string of at most 128 bytes"));
        }
        let Some(channel) = channel else {
            return Err(fault(members.channel, "channel", "a non-empty string of at most 256 bytes"));
        };
        let timestamp = members.timestamp.map(|(value, _)| value);
        if timestamp.is_some_and(|value| !value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            return Err(fault(members.timestamp, "timestamp", "a number"));
        }
        let kind_at = members.kind.map_or(0, |(_, at)| at);
        Ok(Envelope { kind, kind_at, id, channel, payload: members.payload, error: members.error, timestamp })
    }
}

const KINDS: &str = "\"request\", \"response\" or \"event\"";

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
pub type Pieces<'a> = [&'a str; 9];

/// A response in pieces. `id` and `channel` are JSON text without the quotes.
pub fn response<'a>(id: &'a str, channel: &'a str, body: Body<'a>, timestamp: &'a str) -> Pieces<'a> {
    let (name, value) = member(body);
    [r#"{"type":"response","id":""#, id, r#"","channel":""#, channel, "\"", name, value, TIMESTAMP, timestamp]
}

/// A request in pieces. `id` and `channel` are JSON text without the quotes.
pub fn request<'a>(
    id: &'a str,
    channel: &'a str,
    payload: Option<&'a str>,
    timestamp: &'a str,
) -> Pieces<'a> {
    let (name, value) = member(Body::Payload(payload));
    [r#"{"type":"request","id":""#, id, r#"","channel":""#, channel, "\"", name, value, TIMESTAMP, timestamp]
}

/// An event in pieces. `channel` is JSON text without the quotes.
pub fn event<'a>(channel: &'a str, payload: Option<&'a str>, timestamp: &'a str) -> Pieces<'a> {
    let (name, value) = member(Body::Payload(payload));
    [r#"{"type":"event","channel":""#, channel, "\"", name, value, TIMESTAMP, timestamp, "", ""]
}

const TIMESTAMP: &str = ",\"timestamp\":";

fn member(body: Body<'_>) -> (&'static str, &str) {
    match body {
        Body::Payload(None) => ("", ""),
        Body::Payload(Some(payload)) => (",\"payload\":", payload),
        Body::Error(error) => (",\"error\":", error),
    }
}

/// A Unix time in ms as the last piece of a message: its digits and the closing brace.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    text: [u8; 21],
    start: usize,
}

impl Timestamp {
    /// Writes the digits.
    pub fn new(unix_ms: u64) -> Timestamp {
        let mut text = [b'}'; 21];
        let mut start = 20;
        let mut rest = unix_ms;
        loop {
            start -= 1;
            text[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Timestamp { text, start };
            }
        }
    }

    /// The digits with the brace.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.start..]).expect("digits and a brace are ASCII")
    }
}

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
    fn timestamps_are_written_to_the_last_digit() {
        for (unix_ms, text) in
            [(0, "0}"), (1_704_067_200_000, "1704067200000}"), (u64::MAX, "18446744073709551615}")]
        {
            assert_eq!(Timestamp::new(unix_ms).as_str(), text);
        }
    }

    #[test]
    fn members_stand_in_the_order_of_the_specification() {
        let timestamp = Timestamp::new(5);
        let text = response("i", "c", Body::Error("{}"), timestamp.as_str()).concat();
        assert_eq!(text, r#"{"type":"response","id":"i","channel":"c","error":{},"timestamp":5}"#);
        let text = response("i", "c", Body::Payload(None), timestamp.as_str()).concat();
        assert_eq!(text, r#"{"type":"response","id":"i","channel":"c","timestamp":5}"#);
        let text = request("i", "c", Some("1"), timestamp.as_str()).concat();
        assert_eq!(text, r#"{"type":"request","id":"i","channel":"c","payload":1,"timestamp":5}"#);
        let text = event("c", Some("null"), timestamp.as_str()).concat();
        assert_eq!(text, r#"{"type":"event","channel":"c","payload":null,"timestamp":5}"#);
    }
}
