#![doc = include_str!("README.md")]
//! # How it works
//!
//! Sessions of a coding agent, read from the transcripts that it leaves on disk (specification, "Code Channels"). They can be
//! searched, and the files that the agent backed up can be restored.
//!
//! ```text
//! *.jsonl ─► scan ─► transcript ─► index (SQLite, FTS5) ◄─ follow ◄─ request
//!    └────────────────── a page's lines ──────────────────────────────┘
//! ```
//!
//! The transcripts belong to another program and are never written to. The index stores positions; the lines of a page are read
//! from the files for each request. A file that has grown is read from the last position, an unchanged one not at all, not even
//! after a restart.

mod channels;
mod config;
mod entries;
mod follow;
mod index;
mod points;
mod restore;
mod scan;
mod search;
mod sessions;
pub mod transcript;

pub use channels::{CHANNELS, TYPES, register};
pub(crate) use channels::{INDEXES, TABLES};
pub use config::{CodeConfig, CodeLimits};
pub use follow::{Code, CodeStats};
