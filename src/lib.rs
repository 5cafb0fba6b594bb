//! Switchboard
#![forbid(unsafe_code)]
pub mod protocol;
pub use protocol::error::{ErrorCode, WireError as HandlerError};
pub use protocol::payload::Payload;
