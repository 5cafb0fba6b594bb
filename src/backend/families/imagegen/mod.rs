#![doc = include_str!("README.md")]
//! # How it works
//!
//! Images from a queue (specification, "Image Generation Channels"). In: what is to be made. Out: events of the work, images
//! as files over HTTP.
//!
//! ```text
//! payload ─► store (queue) ─► worker ─► pattern                      ─► files ─► store (gallery) ─► events
//!                                └────► upstream (retries) ─► http ──┘              │
//!                                                     GET /files/images/<id> ◄─ files
//! ```
//!
//! One worker makes one batch after the other, in the order of the entries. Each step is on the disk before it is told:
//! what a crash cuts off is done again, what is done is neither done nor told again.
//!
//! Used of other families: keys of `credentials`, base URLs and the default provider of `settings`; batches are counted by `analytics`.

mod automatic1111;
mod channels;
mod config;
mod dialect;
mod files;
mod handlers;
mod job;
mod openai;
mod pattern;
mod picture;
mod providers;
mod store;
mod upstream;
mod worker;

pub use channels::{CHANNELS, TYPES};
pub(crate) use channels::{TABLES, register};
pub use config::ImagegenConfig;
