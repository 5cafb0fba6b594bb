//! The envelope, with serde's derive. Input: the JSON of a message. Output: its members, and the reverse.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// How a server represents payloads.
pub trait Payload: Serialize + DeserializeOwned + Send + 'static {
    /// `{"sent": n}`.
    fn sent(n: usize) -> Self;

    /// Converts the result of a handler.
    fn of(value: &impl Serialize) -> Self;

    /// Converts to the type that a handler expects.
    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T>;
}

/// A tree that a handler can walk.
impl Payload for Value {
    fn sent(n: usize) -> Value {
        json!({ "sent": n })
    }

    fn of(value: &impl Serialize) -> Value {
        serde_json::to_value(value).expect("all keys are strings")
    }

    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(self)
    }
}

/// The text, which is validated and copied, but not parsed into values.
impl Payload for Box<RawValue> {
    fn sent(n: usize) -> Box<RawValue> {
        RawValue::from_string(format!("{{\"sent\":{n}}}")).expect("valid JSON")
    }

    fn of(value: &impl Serialize) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("all keys are strings")
    }

    fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.get())
    }
}

/// The only type that a client sends.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RequestType {
    Request,
}

/// A message of a client.
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

/// A payload of `null` differs from no payload.
fn present<'de, D: Deserializer<'de>, P: Payload>(deserializer: D) -> Result<Option<P>, D::Error> {
    P::deserialize(deserializer).map(Some)
}

/// The errors of the specification that can occur here.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    UnknownChannel,
    HandlerError,
    InvalidMessage,
    RateLimited,
}

/// The error of a request.
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
    serde_json::to_string(message).expect("strings, numbers and valid payloads can be serialized")
}

/// The time in Unix milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
