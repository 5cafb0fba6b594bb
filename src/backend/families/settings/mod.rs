#![doc = include_str!("README.md")]
//! # How it works
//!
//! Settings (specification, "Settings Channels"): one flat object of dotted keys. A known key has a default and a
//! type; any other belongs to the frontend and is stored as it came.
//!
//! Every key whose value really changes is told to everyone with `settings:changed {key, value}`, once it is on the
//! disk; `value` is null for a key that is not set any more.
//!
//! What other families may use: `text`, `integer`.

mod channels;
mod known;
mod store;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub(crate) use store::{integer, text};
