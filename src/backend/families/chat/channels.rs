//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::{Read, Search, Write};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::Db;
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::chats::{create, delete, get, list, update};
use super::messages::{add_message, get_messages};
use super::removal::{merge_index, remove_message};
use super::search::search;

const EXAMPLE_ID: &str = r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#;

/// The channels of the family with their handlers.
const ROWS: &[Row<()>] = &[
    Row {
        name: "chat:list",
        payload: "{ limit?: number, before?: string }",
        response: "Chat[]",
        description: "List chats, last updated first: 1..=500 of them, 50 by default, those after the chat `before`",
        example: r#"{"limit":20}"#,
        handler: Read(list),
    },
    Row {
        name: "chat:create",
        payload: "{ title?: string, systemPrompt?: string | null }",
        response: "Chat",
        description: "Create a chat; the default title is \"New Chat\"",
        example: r#"{"title":"Groceries"}"#,
        handler: Write(create),
    },
    Row {
        name: "chat:get",
        payload: "{ id: string }",
        response: "Chat | null",
        description: "Get a chat",
        example: EXAMPLE_ID,
        handler: Read(get),
    },
    Row {
        name: "chat:update",
        payload: "{ id: string, title?: string, systemPrompt?: string | null }",
        response: "Chat",
        description: "Change the given fields of a chat",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000","title":"Dinner"}"#,
        handler: Write(update),
    },
    Row {
        name: "chat:delete",
        payload: "{ id: string }",
        response: "boolean",
        description: "Delete a chat with its messages and return whether it existed",
        example: EXAMPLE_ID,
        handler: Write(delete),
    },
    Row {
        name: "chat:get-messages",
        payload: "{ chatId: string, limit?: number, before?: string }",
        response: "MessagePage",
        description: "Get the last messages, or those just before the message `before`, oldest first: 1..=500 of them, 50 by default",
        example: r#"{"chatId":"550e8400-e29b-41d4-a716-446655440000","limit":50}"#,
        handler: Read(get_messages),
    },
    Row {
        name: "chat:add-message",
        payload: "CreateMessageInput",
        response: "Message",
        description: "Add a message, which moves its chat to the top of the list",
        example: r#"{"chatId":"550e8400-e29b-41d4-a716-446655440000","role":"user","content":"Hello"}"#,
        handler: Write(add_message),
    },
    Row {
        name: "chat:search",
        payload: "{ query: string, limit?: number, chatId?: string }",
        response: "SearchResult[]",
        description: "Search the text of messages, best match first: 1..=100 results, 20 by default",
        example: r#"{"query":"hello"}"#,
        handler: Search(search),
    },
    Row::event("chat:created", "Chat", "A chat was created"),
    Row::event("chat:updated", "Chat", "A chat's title or system prompt has changed"),
    Row::event("chat:deleted", "{ id: string }", "A chat was deleted"),
    Row::event("chat:message-added", "Message", "A message was added to a chat"),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// The column that hides deleted chats.
pub(crate) const DELETED: &str = include_str!("deleted.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    channel::register(server, Some(db), &(), ROWS);
    db.work_in_steps(remove_message);
    db.work_in_steps(merge_index);
}
