//! The channels of the family, and their handlers.

use crate::backend::shared::db::Db;
use crate::backend::shared::registry::{Channel, Direction};
use crate::server::Server;

use super::chats::{create, delete, get, list, update};
use super::messages::{add_message, get_messages};
use super::search::search;

const EXAMPLE_ID: &str = r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#;

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "chat:list",
        direction: Direction::Request,
        payload: "{ limit?: number, before?: string }",
        response: "Chat[]",
        description: "List chats, last updated first: 1..=500 of them, 50 by default, those behind the chat `before`",
        example: r#"{"limit":20}"#,
    },
    Channel {
        name: "chat:create",
        direction: Direction::Request,
        payload: "{ title?: string, systemPrompt?: string | null }",
        response: "Chat",
        description: "Create a chat, titled \"New Chat\" unless said otherwise",
        example: r#"{"title":"Groceries"}"#,
    },
    Channel {
        name: "chat:get",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "Chat | null",
        description: "Get a chat",
        example: EXAMPLE_ID,
    },
    Channel {
        name: "chat:update",
        direction: Direction::Request,
        payload: "{ id: string, title?: string, systemPrompt?: string | null }",
        response: "Chat",
        description: "Change what is given of a chat",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000","title":"Dinner"}"#,
    },
    Channel {
        name: "chat:delete",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "boolean",
        description: "Delete a chat with its messages; answers whether it was there",
        example: EXAMPLE_ID,
    },
    Channel {
        name: "chat:get-messages",
        direction: Direction::Request,
        payload: "{ chatId: string, limit?: number, before?: string }",
        response: "MessagePage",
        description: "Get the last messages, or those just before the message `before`: 1..=500, 50 by default, oldest first",
        example: r#"{"chatId":"550e8400-e29b-41d4-a716-446655440000","limit":50}"#,
    },
    Channel {
        name: "chat:add-message",
        direction: Direction::Request,
        payload: "CreateMessageInput",
        response: "Message",
        description: "Add a message, which moves its chat to the top of the list",
        example: r#"{"chatId":"550e8400-e29b-41d4-a716-446655440000","role":"user","content":"Hello"}"#,
    },
    Channel {
        name: "chat:search",
        direction: Direction::Request,
        payload: "{ query: string, limit?: number, chatId?: string }",
        response: "SearchResult[]",
        description: "Search the messages' text, best first: 1..=100 results, 20 by default",
        example: r#"{"query":"hello"}"#,
    },
    Channel::event("chat:created", "Chat", "A chat was created"),
    Channel::event("chat:updated", "Chat", "A chat's title or system prompt has changed"),
    Channel::event("chat:deleted", "{ id: string }", "A chat was deleted"),
    Channel::event("chat:message-added", "Message", "A message was added to a chat"),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    db.on_read(server, "chat:list", list);
    db.on_write(server, "chat:create", create);
    db.on_read(server, "chat:get", get);
    db.on_write(server, "chat:update", update);
    db.on_write(server, "chat:delete", delete);
    db.on_read(server, "chat:get-messages", get_messages);
    db.on_write(server, "chat:add-message", add_message);
    db.on_read(server, "chat:search", search);
}
