//! How a connection has ended.

use std::fmt;

use super::connection::{CloseCode, Violation};

/// The code of a connection that was lost without a close frame (RFC 6455, section 7.1.5). It is never sent.
const LOST: u16 = 1006;
/// The code of a close frame without one (section 7.1.5).
const NO_CODE: u16 = 1005;

/// How a connection has ended: the first close frame, or that there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ending {
    /// The close code: 1005 if the client's close frame has none, 1006 if the connection was lost without one.
    pub code: u16,
    /// The reason, for a person. The client's can be any text.
    pub reason: String,
    /// Whether the client sent the first close frame.
    pub by_client: bool,
}

impl Ending {
    /// The connection was lost: neither end sent a close frame.
    pub fn lost() -> Ending {
        Ending { code: LOST, reason: "connection lost".to_owned(), by_client: false }
    }

    /// The server closes.
    pub(super) fn by_server(code: CloseCode, reason: &str) -> Ending {
        Ending { code: code.into(), reason: reason.to_owned(), by_client: false }
    }

    /// The client has closed.
    pub(super) fn by_client(code: Option<u16>, reason: String) -> Ending {
        Ending { code: code.unwrap_or(NO_CODE), reason, by_client: true }
    }

    /// The client has broken the protocol or a limit.
    pub(super) fn by_violation(violation: Violation) -> Ending {
        Ending::by_server(violation.code(), violation.as_str())
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.is_empty() {
            true => write!(f, "{}", self.code),
            false => write!(f, "{} {}", self.code, self.reason),
        }
    }
}
