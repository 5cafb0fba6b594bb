//! The `payload` member of a message. In: JSON text, or a `serde_json::Value`. Out: the text, or a `Value` when
//! somebody asks. Never parses on its own: an echo costs no more than the copy.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::json::{self, JsonError};

/// Immutable JSON text, or nothing (JavaScript's `undefined`, which is not `null`).
///
/// ```
/// use switchboard::Payload;
/// use serde_json::json;
///
/// let payload = Payload::from(json!({ "limit": 5 }));
/// assert_eq!(payload.as_str(), Some(r#"{"limit":5}"#));
/// assert_eq!(payload.parse().unwrap()["limit"].as_u64(), Some(5));
/// assert_eq!(Payload::none().as_str(), None);
/// assert!(Payload::from_json("{\"limit\":").is_err());
/// ```
#[derive(Clone, Default)]
pub struct Payload(Text);

#[derive(Clone, Default)]
enum Text {
    #[default]
    None,
    Static(&'static str),
    Owned(String),
    /// A part of a received message, which it keeps alive.
    Part(Arc<str>, Range<usize>),
}

impl Payload {
    /// No payload: the member is left out of the message.
    pub const fn none() -> Payload {
        Payload(Text::None)
    }

    /// JSON text that is taken as it is, after it was checked.
    ///
    /// # Errors
    /// When the text is not one JSON value, with the byte at which it stops being one.
    pub fn from_json(text: impl Into<String>) -> Result<Payload, JsonError> {
        let text = text.into();
        json::validate(&text)?;
        Ok(Payload(Text::Owned(text)))
    }

    /// JSON that the program itself wrote. The caller answers for it: it is not checked.
    pub(crate) fn trusted(text: String) -> Payload {
        Payload(Text::Owned(text))
    }

    /// A part of a message that was checked when it was decoded.
    pub(crate) fn part(message: Arc<str>, range: Range<usize>) -> Payload {
        Payload(Text::Part(message, range))
    }

    /// The JSON text; `None` for no payload.
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Text::None => None,
            Text::Static(text) => Some(text),
            Text::Owned(text) => Some(text),
            Text::Part(message, range) => message.get(range.clone()),
        }
    }

    /// Whether there is no payload at all. `null` is a payload.
    pub fn is_none(&self) -> bool {
        matches!(self.0, Text::None)
    }

    /// The payload as a value; `Null` for no payload.
    ///
    /// # Errors
    /// Only for a string with a lone surrogate escape (`"\ud800"`), which JSON allows and Rust strings do not hold.
    pub fn parse(&self) -> Result<Value, PayloadError> {
        match self.as_str() {
            None => Ok(Value::Null),
            Some(text) => serde_json::from_str(text).map_err(PayloadError),
        }
    }
}

/// A payload that is JSON and yet not a `Value`. In a handler `?` makes it the request's error.
#[derive(Debug)]
pub struct PayloadError(serde_json::Error);

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "payload cannot be read: {}", self.0)
    }
}

impl std::error::Error for PayloadError {}

impl From<Value> for Payload {
    fn from(value: Value) -> Payload {
        match value {
            Value::Null => Payload(Text::Static("null")),
            Value::Bool(true) => Payload(Text::Static("true")),
            Value::Bool(false) => Payload(Text::Static("false")),
            value => Payload(Text::Owned(value.to_string())),
        }
    }
}

impl From<()> for Payload {
    fn from((): ()) -> Payload {
        Payload::none()
    }
}

impl fmt::Debug for Payload {
    /// Shows the size alone: a payload may hold what must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            None => f.write_str("Payload(none)"),
            Some(text) => write!(f, "Payload({} bytes)", text.len()),
        }
    }
}
