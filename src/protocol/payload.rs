//! The `payload` member of a message. Input: JSON text, or a `serde_json::Value`. Output: the text, or a `Value` on
//! request. It is never parsed unless asked, so an echo only copies bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::json::{self, JsonError};
use super::shared_str::SharedStr;

/// Immutable JSON text, or nothing (JavaScript's `undefined`, which is not `null`). Clones share the text.
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
    /// Not an `Arc<str>`: that would copy the text once.
    Owned(Arc<String>),
    /// A part of a received message.
    Part(SharedStr),
}

impl Payload {
    /// No payload: the member is left out of the message.
    ///
    /// ```
    /// use switchboard::Payload;
    ///
    /// assert_eq!(Payload::none().as_str(), None);
    /// ```
    pub const fn none() -> Payload {
        Payload(Text::None)
    }

    /// Checks JSON text and keeps it unchanged.
    ///
    /// ```
    /// use switchboard::Payload;
    ///
    /// assert_eq!(Payload::from_json("[1,2]").unwrap().as_str(), Some("[1,2]"));
    /// assert!(Payload::from_json("[1,2").is_err());
    /// ```
    ///
    /// # Errors
    /// When the text is not one JSON value, with the first wrong byte.
    pub fn from_json(text: impl Into<String>) -> Result<Payload, JsonError> {
        let text = text.into();
        json::validate(&text)?;
        Ok(Payload::trusted(text))
    }

    /// JSON that this program wrote itself. It is not checked.
    pub(crate) fn trusted(text: String) -> Payload {
        Payload(Text::Owned(Arc::new(text)))
    }

    /// A member's value in a decoded message; an empty range is no payload.
    pub(super) fn part(message: &Arc<str>, range: &Range<usize>) -> Payload {
        match range.is_empty() {
            true => Payload::none(),
            false => Payload(Text::Part(SharedStr::new(message.clone(), range.clone()))),
        }
    }

    /// The JSON text; `None` for no payload.
    ///
    /// ```
    /// use switchboard::Payload;
    ///
    /// assert_eq!(Payload::from(serde_json::json!({ "a": 1 })).as_str(), Some(r#"{"a":1}"#));
    /// ```
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Text::None => None,
            Text::Static(text) => Some(text),
            Text::Owned(text) => Some(text),
            Text::Part(part) => Some(part.as_str()),
        }
    }

    /// Whether there is no payload. `null` is a payload.
    ///
    /// ```
    /// use switchboard::Payload;
    ///
    /// assert!(Payload::none().is_none());
    /// assert!(!Payload::from(serde_json::Value::Null).is_none());
    /// ```
    pub fn is_none(&self) -> bool {
        matches!(self.0, Text::None)
    }

    /// The payload as a value; `Null` for no payload.
    ///
    /// ```
    /// use switchboard::Payload;
    ///
    /// let payload = Payload::from_json(r#"{"limit": 5}"#).unwrap();
    /// assert_eq!(payload.parse().unwrap()["limit"].as_u64(), Some(5));
    /// ```
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

/// The error of [`Payload::parse`]. In a handler, `?` turns it into the request's error.
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
            value => Payload::trusted(value.to_string()),
        }
    }
}

impl From<()> for Payload {
    fn from((): ()) -> Payload {
        Payload::none()
    }
}

impl fmt::Debug for Payload {
    /// Prints only the size: a payload can contain secrets that must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            None => f.write_str("Payload(none)"),
            Some(text) => write!(f, "Payload({} bytes)", text.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_allocates_nothing_and_shares_the_text() {
        let text = format!("\"{}\"", "x".repeat(1 << 12));
        let message: Arc<str> = format!("[{text}]").into();
        for payload in [
            Payload::from_json(text.clone()).unwrap(),
            Payload::from(Value::from("x".repeat(1 << 12))),
            Payload::part(&message, &(1..message.len() - 1)),
            Payload::from(Value::Null),
            Payload::none(),
        ] {
            let mut clone = None;
            let allocations = allocation_counter::measure(|| clone = Some(payload.clone()));
            assert_eq!(allocations.count_total, 0, "{payload:?}");
            let clone = clone.unwrap();
            assert_eq!(clone.as_str(), payload.as_str());
            assert_eq!(clone.as_str().map(str::as_ptr), payload.as_str().map(str::as_ptr));
        }
    }
}
