//! Chats and their messages (specification, "Chat Channels"). Messages are searched with SQLite's FTS5.
//!
//! `Chat {id, title, systemPrompt: string|null, messageCount, createdAt, updatedAt}`
//! `Message {id, chatId, role, content, provider?, model?, usage?, metadata?, createdAt}`
//!
//! What one client changes the others see: `chat:created`, `chat:updated`, `chat:deleted`, `chat:message-added`.
//!
//! What other families may use: `store` with `NewMessage` and `Content`, `has_chat`, and `content`.

mod channels;
mod chats;
mod messages;
mod search;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub(crate) use chats::has_chat;
pub(crate) use messages::{Content, NewMessage, content, store};
