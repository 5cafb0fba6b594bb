//! The protocol without I/O: bytes and time in, messages and bytes out. Nothing here uses a socket or a clock.

pub mod admission;
mod assembly;
mod authentication;
#[cfg(feature = "client")]
pub mod backoff;
#[cfg(feature = "client")]
pub mod caller;
pub mod connection;
mod credential;
mod decode;
mod ending;
pub mod envelope;
pub mod error;
mod escape;
pub mod fair;
pub mod frame;
pub mod groups;
pub mod handshake;
pub mod idle;
pub mod json;
pub mod limits;
pub mod outbox;
mod overload;
mod parking;
pub mod payload;
pub mod quota;
#[cfg(feature = "client")]
pub mod race;
pub mod rate;
mod request;
pub mod session;
mod shared_str;
mod shutdown;
pub mod socket_table;
mod step;
pub mod time;
mod typed;
pub mod uuid;
