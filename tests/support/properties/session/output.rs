//! The output of the session, decoded.

use serde_json::Value;
use switchboard::protocol::envelope::{Envelope, Kind};
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::frame::{self, Header, Role};
use switchboard::protocol::json;
use switchboard::protocol::time::Now;

use super::Harness;

/// A frame from the session.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Message(String),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl Harness {
    /// Reads the output of the session: whole frames, and none after a close frame.
    pub(super) fn hear(&mut self, out: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut at = 0;
        while at < out.len() {
            assert!(!self.sent_close, "a frame follows the close frame");
            let header = Header::decode(Role::Client, &out[at..]).expect("allowed").expect("whole");
            let start = at + header.header_bytes;
            at = start + header.length as usize;
            assert!(header.fin);
            let payload = out.get(start..at).expect("a whole frame");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text is UTF-8");
            heard.push(match header.opcode {
                frame::TEXT => Heard::Message(text(payload)),
                frame::PING => Heard::Ping,
                frame::PONG => Heard::Pong(payload.to_vec()),
                frame::CLOSE => {
                    self.sent_close = true;
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    Heard::Close(code, text(payload.get(2..).unwrap_or_default()))
                }
                other => panic!("unexpected frame: {other:?}"),
            });
        }
        let mut last_code = None;
        for message in &heard {
            if let Heard::Message(text) = message
                && let Some(error) = Envelope::decode(text).expect("our messages decode").error
            {
                let code: Value =
                    serde_json::from_str(&member(error, "code").expect("a code")).expect("JSON");
                let code = code.as_str().expect("a code");
                let code = ErrorCode::custom(code).expect("a code of the specification, or of an app");
                self.errors[code.index()] += 1;
                last_code = Some(code);
            }
        }
        let kept = self.session.take_error().map(|error| error.code);
        match self.keeps_errors {
            true => assert!(last_code.is_none() || kept == last_code, "{kept:?} is kept of {heard:?}"),
            false => assert_eq!(kept, None),
        }
        heard
    }
}

/// Checks for exactly one response, and returns the text of its payload or of its error's details.
pub fn response(heard: &[Heard], id: &str, channel: &str, error: Option<ErrorCode>, now: Now) -> String {
    let [Heard::Message(text)] = heard else { panic!("one response expected, not {heard:?}") };
    let read = Envelope::decode(text).expect("our messages decode");
    assert_eq!((read.kind, read.id, read.channel), (Kind::Response, Some(id), channel), "{text}");
    assert_eq!(read.timestamp, Some(now.unix_ms.to_string().as_str()), "{text}");
    let Some(error) = error else {
        assert_eq!(read.error, None, "{text}");
        return read.payload.unwrap_or_default().to_owned();
    };
    assert_eq!(read.payload, None, "{text}");
    let found = read.error.unwrap_or_else(|| panic!("{error} expected, not {text}"));
    assert_eq!(member(found, "code"), Some(format!("\"{error}\"")), "{text}");
    assert!(member(found, "message").is_some_and(|message| message.len() > 2), "{text}");
    member(found, "details").unwrap_or_default()
}

/// The length of an answer that the session replaced because it is too long.
pub(super) fn refused_length(heard: &[Heard]) -> Option<usize> {
    let [Heard::Message(text)] = heard else { return None };
    let error = Envelope::decode(text).ok()?.error?;
    let message = member(error, "message")?;
    message.strip_prefix("\"response of ")?.split_once(" bytes, ")?.0.parse().ok()
}

/// A member of an object's text. Details can contain a lone surrogate, which `serde_json` does not read.
pub(super) fn member(object: &str, name: &str) -> Option<String> {
    let mut found = None;
    json::members(object, |member| {
        if member.name == name {
            found = Some(member.value.to_owned());
        }
    })
    .expect("our messages are JSON");
    found
}

pub(super) fn is_event(heard: &Heard, channel: &str, payload: Option<&Value>, now: Now) {
    let Heard::Message(text) = heard else { panic!("an event expected, not {heard:?}") };
    let read: Value = serde_json::from_str(text).expect("an event is JSON");
    assert_eq!((&read["type"], &read["channel"]), (&"event".into(), &channel.into()));
    assert_eq!(read.get("payload"), payload);
    assert_eq!(read["timestamp"], now.unix_ms);
}
