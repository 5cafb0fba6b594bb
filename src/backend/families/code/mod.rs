#![doc = include_str!("README.md")]
//! # How it works
//!
//! Sessions of a coding agent, read from the transcripts that it leaves on the disk (specification, "Code Channels"):
//! searchable, and with the files that it had backed up put back where a client wants them.
//!
//! ```text
//! *.jsonl ─► scan ─► transcript ─► index (SQLite, FTS5) ◄─ follow ◄─ request
//!    └────────────────── a page's lines ──────────────────────────────┘
//! ```
//!
//! The transcripts are another program's and are never written to. The index says what is where; the lines of a page are
//! read from the files when they are asked for. A changed file is read from where it was read to, an unchanged one not
//! at all, not even after a restart.

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

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub use config::{CodeConfig, CodeLimits};
pub use follow::{Code, CodeStats};
