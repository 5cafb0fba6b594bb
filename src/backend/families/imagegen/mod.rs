#![doc = include_str!("README.md")]
//! # How it works
//!
//! Images from a queue (specification, "Image Generation Channels"). Input: descriptions of images. Output: events about the
//! progress, and the images as files over HTTP.
//!
//! ```text
//! payload ─► store (queue) ─► worker ─► pattern                                ─► files ─► store (gallery) ─► events
//!                                └────► upstream (retries) ─► openai │ automatic1111 ─┘      │
//!                                                               GET /files/images/<id> ◄─ files
//! ```
//!
//! One worker makes one batch at a time, in turns for each client that has entries, and the entries of one client in the order of
//! the queue. Each step is stored before its event is emitted. After a crash an interrupted batch is generated again; a complete
//! one is neither repeated nor emitted again. What clients have queued that have left, or that were there before the program
//! started, counts as queued by one client.
//!
//! A provider is a row of `providers.rs`. Its API is a constant in a file of its own, for example `automatic1111.rs`.
//!
//! Uses of other families: keys of `credentials`, base URLs and the default provider of `settings`. Batches are counted by
//! `analytics`.

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
mod turns;
mod upstream;
mod worker;

pub use channels::{CHANNELS, TYPES};
pub(crate) use channels::{CLIENTS, TABLES, register};
pub use config::ImagegenConfig;
