//! The error of a failed request. Input: a code, a message, details. Output: the `error` member of a response.

use std::borrow::Cow;
use std::fmt;

use super::json;
use super::payload::Payload;

/// The closed set of error codes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No handler is registered for the channel. Do not retry.
    UnknownChannel,
    /// The handler failed; `message` gives the reason.
    HandlerError,
    /// The handler did not finish before its deadline. It was cancelled; its effects until then remain.
    Timeout,
    /// The connection ended, or the server stopped, before the request was answered.
    ConnectionClosed,
    /// The message is not JSON or not a request; `message` gives the reason and the byte.
    InvalidMessage,
    /// The rate window is used up. `details.retryAfterMs` is the time until it opens again.
    RateLimited,
    /// The client has not authenticated, or the token is wrong.
    Unauthorized,
}

impl ErrorCode {
    /// All codes, in the order of the specification. `code as usize` is the index.
    pub const ALL: [ErrorCode; 7] = {
        use ErrorCode::{
            ConnectionClosed, HandlerError, InvalidMessage, RateLimited, Timeout, Unauthorized,
            UnknownChannel,
        };
        [UnknownChannel, HandlerError, Timeout, ConnectionClosed, InvalidMessage, RateLimited, Unauthorized]
    };

    /// The name on the wire, such as `"UNKNOWN_CHANNEL"`.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::UnknownChannel => "UNKNOWN_CHANNEL",
            ErrorCode::HandlerError => "HANDLER_ERROR",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::ConnectionClosed => "CONNECTION_CLOSED",
            ErrorCode::InvalidMessage => "INVALID_MESSAGE",
            ErrorCode::RateLimited => "RATE_LIMITED",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
        }
    }

    /// The code with a name on the wire.
    ///
    /// ```
    /// use switchboard::ErrorCode;
    ///
    /// assert_eq!(ErrorCode::from_wire("TIMEOUT"), Some(ErrorCode::Timeout));
    /// assert_eq!(ErrorCode::Timeout.as_str(), "TIMEOUT");
    /// ```
    pub fn from_wire(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `error` member of a response: `{code, message, details?}` (specification, "Error Structure").
///
/// Handlers return it, under the name `HandlerError`. Any [`std::error::Error`] converts into one with the code
/// `HANDLER_ERROR` and its own text as the message, so `?` works in a handler. Because of that conversion it cannot
/// implement `std::error::Error` itself.
///
/// ```
/// use serde_json::json;
/// use switchboard::{ErrorCode, HandlerError};
///
/// fn parse(text: &str) -> Result<u16, HandlerError> {
///     if text.is_empty() {
///         return Err(HandlerError::new("port: expected a number").details(json!({ "path": "port" })));
///     }
///     Ok(text.parse()?) // any std::error::Error
/// }
///
/// assert_eq!(parse("80").unwrap(), 80);
/// assert_eq!(parse("").unwrap_err().code, ErrorCode::HandlerError);
/// assert_eq!(parse("x").unwrap_err().to_string(), "HANDLER_ERROR: invalid digit found in string");
/// ```
#[derive(Debug, Clone)]
pub struct WireError {
    /// The kind of failure.
    pub code: ErrorCode,
    /// The reason, for a person.
    pub message: Cow<'static, str>,
    /// More, for a program. [`Payload::none`] omits the member.
    pub details: Payload,
}

impl WireError {
    /// An error with any code, without details.
    ///
    /// ```
    /// use switchboard::{ErrorCode, HandlerError};
    ///
    /// let error = HandlerError::with_code(ErrorCode::Unauthorized, "only administrators can do this");
    /// assert_eq!(error.to_string(), "UNAUTHORIZED: only administrators can do this");
    /// ```
    pub fn with_code(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> WireError {
        WireError { code, message: message.into(), details: Payload::none() }
    }

    /// A `HANDLER_ERROR`, without details.
    ///
    /// ```
    /// use switchboard::HandlerError;
    ///
    /// assert_eq!(HandlerError::new("no such file").to_string(), "HANDLER_ERROR: no such file");
    /// ```
    pub fn new(message: impl Into<Cow<'static, str>>) -> WireError {
        WireError::with_code(ErrorCode::HandlerError, message)
    }

    /// The same error with details.
    ///
    /// ```
    /// use switchboard::HandlerError;
    ///
    /// let error = HandlerError::new("too long").details(serde_json::json!({ "max": 100 }));
    /// assert_eq!(error.details.as_str(), Some(r#"{"max":100}"#));
    /// ```
    pub fn details(mut self, details: impl Into<Payload>) -> WireError {
        self.details = details.into();
        self
    }

    /// The text of the member.
    pub(super) fn to_json(&self) -> String {
        let mut text = format!("{{\"code\":\"{}\",\"message\":", self.code);
        json::write_string(&mut text, &self.message);
        if let Some(details) = self.details.as_str() {
            text.push_str(",\"details\":");
            text.push_str(details);
        }
        text.push('}');
        text
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl<E: std::error::Error> From<E> for WireError {
    fn from(error: E) -> WireError {
        WireError::new(error.to_string())
    }
}

/// A [`WireError`] as an [`Error`](std::error::Error). `WireError` cannot implement `Error` itself, because of the blanket
/// `From<E: Error>`.
struct AsError(WireError);

impl fmt::Debug for AsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for AsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for AsError {}

impl From<WireError> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: WireError) -> Self {
        Box::new(AsError(error))
    }
}

impl From<WireError> for Box<dyn std::error::Error> {
    fn from(error: WireError) -> Self {
        Box::new(AsError(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_converts_into_any_boxed_error() {
        fn any() -> Result<(), Box<dyn std::error::Error>> {
            Err(WireError::new("no"))?
        }
        fn any_on_any_thread() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Err(WireError::with_code(ErrorCode::Timeout, "late"))?
        }
        assert_eq!(any().unwrap_err().to_string(), "HANDLER_ERROR: no");
        assert_eq!(any_on_any_thread().unwrap_err().to_string(), "TIMEOUT: late");
    }
}
