#![doc = include_str!("../../../docs/links.md")]
#![doc = include_str!("README.md")]
//! # How it works
//!
//! Artifacts: programs that are installed from folders or archives, and run with JSON as input and output (specification,
//! "Artifact Channels").
//!
//! ```text
//! source ─► plan, manifest (checks) ─► copy ─► folder ID.UUID ─► row ─► events
//!   └─ tar                                        └──────── invoke ─► process
//! ```
//!
//! Each installed version has its own folder, and the row names the current one. An update writes the new folder before it
//! changes the row, so a crash at any point leaves a row with a complete folder. A folder that no row names is deleted when
//! the last program in it has ended, or at the next start.
//!
//! Programs run only if [`ArtifactConfig::allow`] is set, and sources are read only below [`ArtifactConfig::sources`].
//! A program runs as the user of the server. The limits of this family prevent accidents; they are not a sandbox.
//!
//! Uses of other families: invocations are counted by `analytics`.

mod channels;
mod config;
mod copy;
mod folders;
mod install;
mod invoke;
mod manifest;
mod plan;
#[cfg(unix)]
mod process;
mod program;
#[cfg(unix)]
mod resources;
#[cfg(unix)]
mod run;
mod schema;
#[cfg(unix)]
mod source;
mod store;
pub mod tar;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub use config::{ArtifactConfig, ArtifactLimits};
pub use folders::Artifacts;
