#![doc = include_str!("README.md")]
//! # How it works
//!
//! Information about the server: `system:ping`, `system:channels`, `system:stats`, and `server:heartbeat`.

mod channels;
mod handlers;

pub use channels::{CHANNELS, TYPES, register};
pub(crate) use handlers::beat;
