//! The error of a failed request. Input: a code, a message, details. Output: the `error` member of a response.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::json;
use super::payload::Payload;

/// Longest code of an app's own, in bytes.
const MAX_CODE_BYTES: usize = 64;
const CUSTOM: &str = "custom";

/// An error code on the wire: one of the seven of the specification, or an app's own.
///
/// ```
/// use switchboard::ErrorCode;
///
/// let code = ErrorCode::custom("NOT_FOUND").unwrap();
/// assert_eq!(code, "NOT_FOUND");
/// assert!(matches!(code, ErrorCode::Custom(_)));
/// assert_eq!(ErrorCode::custom("TIMEOUT"), Some(ErrorCode::Timeout));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// A code of the app. What it means and whether to retry is up to the app.
    Custom(CustomCode),
}

/// The name of a code that is not in the specification.
// One word, so that a result of a handler stays small.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CustomCode(Arc<String>);

impl CustomCode {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ErrorCode {
    /// The codes of the specification, in its order.
    pub const ALL: [ErrorCode; 7] = {
        use ErrorCode::{
            ConnectionClosed, HandlerError, InvalidMessage, RateLimited, Timeout, Unauthorized,
            UnknownChannel,
        };
        [UnknownChannel, HandlerError, Timeout, ConnectionClosed, InvalidMessage, RateLimited, Unauthorized]
    };

    /// How many counters all codes need; see [`index`](ErrorCode::index).
    pub const COUNTERS: usize = ErrorCode::ALL.len() + 1;

    /// The labels of the counters, in the order of their indices.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        ErrorCode::ALL.iter().map(ErrorCode::label).chain([CUSTOM])
    }

    /// The place of the code in [`ALL`](ErrorCode::ALL). All codes of apps share the one after it: a counter for each name would be
    /// memory without limit.
    pub fn index(&self) -> usize {
        match self {
            ErrorCode::UnknownChannel => 0,
            ErrorCode::HandlerError => 1,
            ErrorCode::Timeout => 2,
            ErrorCode::ConnectionClosed => 3,
            ErrorCode::InvalidMessage => 4,
            ErrorCode::RateLimited => 5,
            ErrorCode::Unauthorized => 6,
            ErrorCode::Custom(_) => 7,
        }
    }

    /// The code with this name: upper-case letters, digits and underscores of ASCII, at least one and at most 64 bytes. `None` for
    /// any other name.
    pub fn custom(name: &str) -> Option<ErrorCode> {
        let is_code = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
        ((1..=MAX_CODE_BYTES).contains(&name.len()) && name.bytes().all(is_code))
            .then(|| ErrorCode::received(name))
    }

    /// The code with any name: servers can be other programs, which have names of their own.
    pub(super) fn received(name: &str) -> ErrorCode {
        ErrorCode::from_wire(name).unwrap_or_else(|| ErrorCode::Custom(CustomCode(Arc::new(name.to_owned()))))
    }

    /// The name on the wire, such as `"UNKNOWN_CHANNEL"`.
    pub fn as_str(&self) -> &str {
        match self {
            ErrorCode::Custom(code) => code.as_str(),
            code => code.label(),
        }
    }

    /// The name in counters: that on the wire, and `custom` for all codes of apps.
    pub fn label(&self) -> &'static str {
        match self {
            ErrorCode::UnknownChannel => "UNKNOWN_CHANNEL",
            ErrorCode::HandlerError => "HANDLER_ERROR",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::ConnectionClosed => "CONNECTION_CLOSED",
            ErrorCode::InvalidMessage => "INVALID_MESSAGE",
            ErrorCode::RateLimited => "RATE_LIMITED",
            ErrorCode::Unauthorized => "UNAUTHORIZED",
            ErrorCode::Custom(_) => CUSTOM,
        }
    }

    /// The code of the specification with a name on the wire; `None` for any other name.
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

impl PartialEq<&str> for ErrorCode {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
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

    /// An error with a code of the app's own: upper-case letters, digits and underscores of ASCII, at most 64 bytes.
    ///
    /// A code of any other form is a mistake in the app. The error is then a `HANDLER_ERROR` with the same message, so that a
    /// code made of a client's text can neither panic nor reach a log or a page.
    ///
    /// ```
    /// use switchboard::HandlerError;
    ///
    /// let error = HandlerError::custom("NOT_FOUND", "no such room");
    /// assert_eq!(error.code, "NOT_FOUND");
    /// assert_eq!(HandlerError::custom("not found", "no such room").code, "HANDLER_ERROR");
    /// ```
    pub fn custom(code: &str, message: impl Into<Cow<'static, str>>) -> WireError {
        WireError::with_code(ErrorCode::custom(code).unwrap_or(ErrorCode::HandlerError), message)
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
        let mut text = String::from("{\"code\":");
        match &self.code {
            // One that was received can be any text.
            ErrorCode::Custom(code) => json::write_string(&mut text, code.as_str()),
            code => text.extend(["\"", code.as_str(), "\""]),
        }
        text.push_str(",\"message\":");
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

    #[test]
    fn a_code_of_an_app_has_one_form_and_any_other_is_a_handler_error() {
        let longest = "A".repeat(MAX_CODE_BYTES);
        for code in ["NOT_FOUND", "A", "_", "7", "E_404", longest.as_str()] {
            let error = WireError::custom(code, "why");
            assert!(matches!(&error.code, ErrorCode::Custom(custom) if custom.as_str() == code));
            assert_eq!(error.to_json(), format!(r#"{{"code":"{code}","message":"why"}}"#));
            assert_eq!((error.code.index(), ErrorCode::from_wire(code)), (ErrorCode::COUNTERS - 1, None));
        }
        let too_long = "A".repeat(MAX_CODE_BYTES + 1);
        for code in ["", "not_found", "NOT FOUND", "NOT-FOUND", "É", "A\"", "A\n", too_long.as_str()] {
            let error = WireError::custom(code, "why");
            assert_eq!((error.code, error.message.as_ref()), (ErrorCode::HandlerError, "why"), "{code}");
        }
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(WireError::custom(code.as_str(), "why").code, code);
            assert_eq!(code.index(), index);
        }
    }

    #[test]
    fn a_received_code_is_any_text_and_is_written_as_json() {
        let error = WireError::with_code(ErrorCode::received("no \"luck\"\n"), "why");
        assert_eq!(error.to_json(), r#"{"code":"no \"luck\"\n","message":"why"}"#);
        assert!(size_of::<WireError>() <= 80);
    }
}
