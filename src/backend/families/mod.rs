//! The families of channels: a folder each, with its channels and handlers in `channels.rs`, its tables in `tables.sql` and its
//! types in `types.d.ts`. A family uses only those items of a sibling that the sibling's docs name.

pub mod ai;
pub mod analytics;
pub mod artifact;
pub mod chat;
pub mod code;
pub mod credentials;
pub mod imagegen;
pub mod settings;
pub mod system;
