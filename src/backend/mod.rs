//! The channel registry on an embedded SQLite database (feature `backend`).
//!
//! ```text
//! request ─► validate ─► family (chat, ai, code, imagegen, settings, credentials, artifact, analytics, system) ─► db ─► disk
//!                              │                            │
//!                           registry                  events, after the commit
//! ```
//!
//! A family is a folder with its tables, its channels as data, and its handlers: plain functions from the members of a payload
//! and a transaction to a result. Each request that writes is one transaction; one that fails changes nothing.
//!
//! | folder or file | what is in it |
//! |---|---|
//! | `families/` | the families, one folder each |
//! | `table.rs` | the table of families: channels, types, tables, registration |
//! | `shared/` | what the families share: database, HTTP client, validation, encoding |
//! | `command/` | the `switchboard` command |
//! | `config.rs`, `state.rs`, `open.rs` | `BackendConfig`, `Backend`, and how one is opened |
//!
//! ```no_run
//! use switchboard::backend::{Backend, BackendConfig, register_all};
//! use switchboard::{Config, Server};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Backend::open(BackendConfig::new("./data"))?;
//! let server = Server::new(Config::default());
//! register_all(&server, &backend);
//! server.start().await?;
//! # Ok(()) }
//! ```

mod command;
mod config;
mod families;
mod open;
mod shared;
mod state;
mod table;

pub use command::cli;
pub use config::BackendConfig;
pub use families::{ai, analytics, artifact, chat, code, credentials, imagegen, settings, system};
pub use shared::{db, registry};
pub use state::Backend;
pub use table::{channels, markdown, register_all, typescript};
