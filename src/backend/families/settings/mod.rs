#![doc = include_str!("README.md")]
//! # How it works
//!
//! Settings (specification, "Settings Channels"): one flat object of dotted keys. A known key has a default and a
//! type; any other key belongs to the frontend, and its value is stored unchanged.
//!
//! When a value has changed and is on disk, `settings:changed {key, value}` is sent to every client. `value` is null for a key
//! that is no longer set.
//!
//! What other families may use: `text`, `text_in`, `integer`, `stored`, `base_urls`.

mod channels;
mod known;
mod store;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub(crate) use store::{base_urls, integer, stored, text, text_in};
