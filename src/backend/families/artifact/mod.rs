#![doc = include_str!("../../../docs/links.md")]
#![doc = include_str!("README.md")]
//! # How it works
//!
//! Artifacts: programs that are installed from folders and archives, and run with JSON in and JSON out (specification,
//! "Artifact Channels").
//!
//! ```text
//! source ─► plan, manifest (judged) ─► copy ─► ID.UUID, on the disk ─► row ─► events
//!   └─ tar                                        └────────────── invoke ─► process
//! ```
//!
//! Each installed version has a folder of its own, and the row says which one counts: an update is on the disk before the
//! row changes, and a crash at any point leaves a row with its whole folder. Folders that no row names are deleted when the
//! last program in them has ended, or else at the next start.
//!
//! Nothing is run unless [`ArtifactConfig::allow`] says so, and nothing is installed but from [`ArtifactConfig::sources`].
//! A program runs as the server's own user: what this family does keeps accidents small, and is no sandbox.
//!
//! Used of other families: calls are counted by `analytics`.

mod channels;
mod config;
mod copy;
mod install;
mod invoke;
mod manifest;
mod plan;
#[cfg(unix)]
mod process;
mod records;
mod schema;
#[cfg(unix)]
mod source;
mod store;
pub mod tar;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub use config::{ArtifactConfig, ArtifactLimits};
pub use store::Artifacts;
