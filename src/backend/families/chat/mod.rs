#![doc = include_str!("README.md")]
//! # How it works
//!
//! Chats and their messages (specification, "Chat Channels"). Messages are searched with SQLite's FTS5.
//!
//! What other families may use: `store` with `NewMessage` and `Content`, `has_chat`, and `content`.

mod channels;
mod chats;
mod messages;
mod removal;
mod search;

pub use channels::{CHANNELS, TYPES, register};
pub(crate) use channels::{DELETED, TABLES};
pub(crate) use chats::has_chat;
pub(crate) use messages::{Content, NewMessage, content, store};
