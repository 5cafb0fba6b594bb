//! Switchboard
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(feature = "backend")]
pub mod backend;
pub mod protocol;
pub mod server;

pub use protocol::error::{ErrorCode, WireError as HandlerError};
pub use protocol::limits::Limits;
pub use protocol::payload::Payload;
pub use server::{Callback, ClientId, ClientInfo, Config, RequestContext, Server, ServerError, Stats};
