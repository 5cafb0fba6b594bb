//! The envelope, compared with `serde_json`, and its round trip.

use std::collections::HashMap;

use serde_json::{Map, Value};
use switchboard::protocol::envelope::{
    self, Body, Envelope, EnvelopeError, EnvelopeErrorKind, Kind, MAX_CHANNEL_BYTES, MAX_ID_BYTES,
    PEEK_BYTES, Timestamp,
};
use switchboard::protocol::json::{self, JsonError, JsonErrorKind, Shape};

use super::json::without_lone_surrogates;
use super::offset;

/// We accept what a naive implementation of the rules accepts, and read the members that `serde_json` reads. A refusal
/// names the same fault at the same byte, with the same usable id and channel. A decoded envelope decodes again after it
/// was encoded. The start of a message shows the id and the channel that its complete members have.
pub fn envelope(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let decoded = Envelope::decode(&text);
    decoded_matches_the_text(&text, decoded);
    if let Ok(envelope) = decoded {
        // Any time, including the largest that can be written.
        let unix_ms = data.iter().fold(u64::MAX, |sum, &byte| sum.rotate_left(7) ^ u64::from(byte));
        if let Some(written) = encode(&envelope, unix_ms) {
            text_reads_as(&written, &envelope, unix_ms);
        }
    }
    any_strings_survive(&text);

    peeked_matches_the_start(data, envelope::peek(data));
    // The same with the end of the part that is looked at somewhere in these bytes.
    if let Some(rest) = data.strip_prefix(b"{") {
        let sum = data.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        let pad = (PEEK_BYTES - 10).saturating_sub(sum % (rest.len() + 1));
        for after in [&b""[..], &[b' '; 2 * PEEK_BYTES]] {
            let long = [br#"{"pad":""#, "x".repeat(pad).as_bytes(), b"\",", rest, after].concat();
            peeked_matches_the_start(&long, envelope::peek(&long));
        }
    }
}

/// The start of a message, ended by a brace where it is valid then.
pub fn peeked_matches_the_start(message: &[u8], peeked: (Option<&str>, Option<&str>)) {
    let head = &message[..message.len().min(PEEK_BYTES)];
    let is_cut = head.len() < message.len();
    let head = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) if is_cut && error.valid_up_to() + 4 > head.len() && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).expect("it is valid up to there")
        }
        Err(_) => return assert_eq!(peeked, (None, None), "not UTF-8"),
    };
    let shown = |text: &str| {
        let (id, channel) = match naive(text) {
            Ok(envelope) => (envelope.id, Some(envelope.channel)),
            Err(error) => (error.id, error.channel),
        };
        (id.map(str::to_owned), channel.map(str::to_owned))
    };
    let expected = match json::validate(head) {
        Ok(()) => shown(head),
        Err(error) if is_cut && error.kind == JsonErrorKind::UnexpectedEnd => {
            let mut ended = (0..=head.len()).rev().filter_map(|end| Some(format!("{}}}", head.get(..end)?)));
            ended.find(|text| json::validate(text).is_ok()).map_or((None, None), |text| shown(&text))
        }
        Err(_) => (None, None),
    };
    assert_eq!((peeked.0.map(str::to_owned), peeked.1.map(str::to_owned)), expected, "{head:?}");
}

pub fn decoded_matches_the_text(text: &str, decoded: Result<Envelope<'_>, EnvelopeError<'_>>) {
    assert_eq!(decoded, naive(text), "{text:?}");
    if let Err(EnvelopeError { kind, .. }) = decoded {
        let at = match kind {
            EnvelopeErrorKind::Json(JsonError { at, .. }) | EnvelopeErrorKind::NotAnObject { at } => at,
            EnvelopeErrorKind::Missing { at, .. } | EnvelopeErrorKind::Invalid { at, .. } => at,
        };
        assert!(kind.to_string().contains(&format!("byte {at}")), "{kind} does not name the byte");
    }
    let (Ok(envelope), Ok(members)) =
        (decoded, serde_json::from_str::<Map<String, Value>>(&without_lone_surrogates(text)))
    else {
        return;
    };
    let string = |raw: &str| {
        Value::String(
            json::unescape(&without_lone_surrogates(raw)).expect("no lone surrogate is left").into_owned(),
        )
    };
    let value = |raw: &str| {
        serde_json::from_str::<Value>(&without_lone_surrogates(raw)).expect("a member's value is JSON")
    };
    let kind = match envelope.kind {
        Kind::Request => "request",
        Kind::Response => "response",
        Kind::Event => "event",
    };
    assert_eq!(members.get("type").and_then(Value::as_str), Some(kind), "{text:?}");
    assert_eq!(members.get("id").cloned(), envelope.id.map(string), "{text:?}");
    assert_eq!(members.get("channel").cloned(), Some(string(envelope.channel)), "{text:?}");
    assert_eq!(members.get("payload").cloned(), envelope.payload.map(value), "{text:?}");
    assert_eq!(members.get("error").cloned(), envelope.error.map(value), "{text:?}");
    assert_eq!(members.get("timestamp").cloned(), envelope.timestamp.map(value), "{text:?}");
}

/// The rules of the envelope, one after the other, on values that `serde_json` parsed.
fn naive(text: &str) -> Result<Envelope<'_>, EnvelopeError<'_>> {
    let error_without_id = |kind| EnvelopeError { kind, id: None, channel: None };
    json::validate(text).map_err(|error| error_without_id(EnvelopeErrorKind::Json(error)))?;
    let mut last = HashMap::new();
    let shape = json::members(text, |member| {
        if let Some(name) = json::unescape(member.name) {
            last.insert(name.into_owned(), (member.value, member.at));
        }
    });
    if let Ok(Shape::Other { at }) = shape {
        return Err(error_without_id(EnvelopeErrorKind::NotAnObject { at }));
    }
    let raw = |name: &str| last.get(name).map(|(raw, _)| *raw);
    let value = |name: &str| {
        raw(name).and_then(|raw| serde_json::from_str::<Value>(&without_lone_surrogates(raw)).ok())
    };
    let usable = |name: &str, limit: usize| {
        let raw = raw(name)?;
        let long_enough = value(name)?.as_str().is_some_and(|meaning| !meaning.is_empty());
        // Plus two quotes.
        (long_enough && raw.len() <= limit + 2).then(|| &raw[1..raw.len() - 1])
    };
    let (id, channel) = (usable("id", MAX_ID_BYTES), usable("channel", MAX_CHANNEL_BYTES));
    let refuse = |name: &'static str, expected: &'static str| {
        let kind = match last.get(name) {
            Some(&(_, at)) => EnvelopeErrorKind::Invalid { name, expected, at },
            None => EnvelopeErrorKind::Missing { name, at: text.rfind('}').expect("it is an object") },
        };
        Err(EnvelopeError { kind, id, channel })
    };

    // The original text: replacing surrogates could turn another word into one of the three.
    let kind = raw("type").and_then(|raw| serde_json::from_str::<String>(raw).ok());
    let kind = match kind.as_deref() {
        Some("request") => Kind::Request,
        Some("response") => Kind::Response,
        Some("event") => Kind::Event,
        _ => return refuse("type", "\"request\", \"response\" or \"event\""),
    };
    if id.is_none() && (kind != Kind::Event || last.contains_key("id")) {
        return refuse("id", "a non-empty string of at most 128 bytes");
    }
    let Some(channel) = channel else {
        return refuse("channel", "a non-empty string of at most 256 bytes");
    };
    if value("timestamp").is_some_and(|timestamp| !timestamp.is_number()) {
        return refuse("timestamp", "a number");
    }
    let kind_at = raw("type").map_or(0, |raw| offset(text, raw));
    Ok(Envelope {
        kind,
        kind_at,
        id,
        channel,
        payload: raw("payload"),
        error: raw("error"),
        timestamp: raw("timestamp"),
    })
}

/// `None` for a request without the feature `client`: only clients write one.
fn encode(envelope: &Envelope<'_>, unix_ms: u64) -> Option<String> {
    let timestamp = Timestamp::new(unix_ms);
    let (id, channel, timestamp) = (envelope.id.unwrap_or_default(), envelope.channel, &timestamp);
    let body = envelope.error.map_or(Body::Payload(envelope.payload), Body::Error);
    let pieces = match envelope.kind {
        #[cfg(not(feature = "client"))]
        Kind::Request => return None,
        #[cfg(feature = "client")]
        Kind::Request => envelope::request(id, channel, envelope.payload, timestamp),
        Kind::Response => envelope::response(id, channel, body, timestamp),
        Kind::Event => envelope::event(channel, envelope.payload, timestamp),
    };
    Some(String::from_utf8(pieces.concat()).expect("the pieces are text"))
}

pub fn text_reads_as(written: &str, meant: &Envelope<'_>, unix_ms: u64) {
    let read = Envelope::decode(written).unwrap_or_else(|error| panic!("{}: {written:?}", error.kind));
    let response = meant.kind == Kind::Response;
    let error = meant.error.filter(|_| response);
    assert_eq!((read.kind, read.channel, read.error), (meant.kind, meant.channel, error), "{written:?}");
    assert_eq!(read.id, meant.id.filter(|_| meant.kind != Kind::Event), "{written:?}");
    assert_eq!(read.payload, meant.payload.filter(|_| error.is_none()), "{written:?}");
    assert_eq!(read.timestamp, Some(unix_ms.to_string().as_str()), "{written:?}");

    let mut names = Vec::new();
    json::members(written, |member| names.push(member.name)).expect("it was decoded above");
    let mut order = ["type", "id", "channel", "payload", "error", "timestamp"].into_iter();
    let in_order = names.iter().all(|name| order.any(|next| next == *name));
    assert!(in_order, "{names:?} are not in the order of the specification");
}

/// Names and payloads that no client would choose also survive a round trip.
fn any_strings_survive(text: &str) {
    let quote = |text: &str| {
        let mut out = String::new();
        json::write_string(&mut out, text);
        out
    };
    let payload = quote(text);
    // Escaping one byte takes at most six.
    let head = |bytes: usize| (0..=bytes / 6).rev().find_map(|end| text.get(..end)).unwrap_or_default();
    let (id, channel) = (quote(head(MAX_ID_BYTES)), quote(head(MAX_CHANNEL_BYTES)));
    let content = |quoted: &str| json::string_content(quoted).unwrap_or_default().to_owned();
    let (id, channel) = (content(&id), content(&channel));
    if id.is_empty() || channel.is_empty() {
        return;
    }
    for (kind, id) in [(Kind::Request, Some(&id)), (Kind::Response, Some(&id)), (Kind::Event, None)] {
        let meant = Envelope {
            kind,
            kind_at: 0,
            id: id.map(String::as_str),
            channel: &channel,
            payload: Some(&payload),
            error: None,
            timestamp: None,
        };
        if let Some(written) = encode(&meant, 0) {
            text_reads_as(&written, &meant, 0);
        }
    }
}
