//! The envelope, by serde's derive. In: the JSON of a message. Out: its members, and back.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// How a server holds payloads.
pub trait Payload: Serialize + DeserializeOwned + Send + 'static {
    /// `{"sent": n}`.
    fn sent(n: usize) -> Self;

    /// What a handler answers.
    fn of(value: &impl Serialize) -> Self;

    /// What a handler expects.
    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T>;
}

/// As a tree, which a handler can walk.
impl Payload for Value {
    fn sent(n: usize) -> Value {
        json!({ "sent": n })
    }

    fn of(value: &impl Serialize) -> Value {
        serde_json::to_value(value).expect("it has names for members")
    }

    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(self)
    }
}

/// As its text, which is checked and copied, never built.
impl Payload for Box<RawValue> {
    fn sent(n: usize) -> Box<RawValue> {
        RawValue::from_string(format!("{{\"sent\":{n}}}")).expect("it is JSON")
    }

    fn of(value: &impl Serialize) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("it has names for members")
    }

    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.get())
    }
}

/// The one type that a client sends.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RequestType {
    Request,
}

/// What a client sends.
#[derive(Deserialize)]
#[serde(bound = "P: Payload")]
pub struct Request<'a, P> {
    #[serde(rename = "type")]
    _type: RequestType,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub channel: Cow<'a, str>,
    #[serde(default, deserialize_with = "present")]
    pub payload: Option<P>,
}

/// A payload of `null` is one, other than none at all.
fn present<'de, D: Deserializer<'de>, P: Payload>(deserializer: D) -> Result<Option<P>, D::Error> {
    P::deserialize(deserializer).map(Some)
}

/// The errors of the specification that can happen here.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    UnknownChannel,
    HandlerError,
    InvalidMessage,
    RateLimited,
}

/// A request's error.
#[derive(Debug, Serialize)]
pub struct WireError {
    pub code: ErrorCode,
    pub message: String,
}

#[derive(Serialize)]
struct Response<'a, P> {
    r#type: &'static str,
    id: &'a str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a WireError>,
    timestamp: u64,
}

#[derive(Serialize)]
struct Event<'a, P> {
    r#type: &'static str,
    channel: &'a str,
    payload: &'a P,
    timestamp: u64,
}

/// The text of a response.
pub fn response<P: Payload>(id: &str, channel: &str, result: Result<Option<P>, WireError>) -> String {
    let (payload, error) = match &result {
        Ok(payload) => (payload.as_ref(), None),
        Err(error) => (None, Some(error)),
    };
    text(&Response { r#type: "response", id, channel, payload, error, timestamp: unix_ms() })
}

/// The text of an event.
pub fn event<P: Serialize>(channel: &str, payload: &P) -> String {
    text(&Event { r#type: "event", channel, payload, timestamp: unix_ms() })
}

fn text(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("strings, numbers and payloads that were read as JSON")
}

/// The time, in Unix ms.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
