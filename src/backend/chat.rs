//! Chats and their messages (specification, "Chat Channels"). Messages are searched with SQLite's FTS5.
//!
//! `Chat {id, title, systemPrompt: string|null, messageCount, createdAt, updatedAt}`
//! `Message {id, chatId, role, content, provider?, model?, usage?, metadata?, createdAt}`
//!
//! What one client changes the others see: `chat:created`, `chat:updated`, `chat:deleted`, `chat:message-added`.
//!
//! What other families may use: `store` with `NewMessage` and `Content`, `has_chat`, and `content`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;
use crate::server::Server;

use super::db::{Change, Db, View};
use super::encode::{Object, array};
use super::registry::{Channel, Direction};
use super::search::{MARK_END, MARK_START, best_hits, marked_html, match_expression};
use super::validate::{Fields, kind_of, wrong};

const MAX_TITLE_BYTES: usize = 1 << 10;
const MAX_SYSTEM_PROMPT_BYTES: usize = 64 << 10;
const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Most blocks of one message.
const MAX_CONTENT_BLOCKS: usize = 10_000;
const MAX_METADATA_BYTES: usize = 64 << 10;
const MAX_NAME_BYTES: usize = 256;
const MAX_QUERY_BYTES: usize = 1 << 10;
const MAX_TOKENS: i64 = 1 << 53;
const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];

/// The tables.
pub(super) const TABLES: &str = include_str!("chat.sql");

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
pub const TYPES: &str = r#"
export interface Chat {
  id: string;
  title: string;
  systemPrompt: string | null;
  messageCount: number;
  createdAt: number;
  updatedAt: number;
}

export type Role = "user" | "assistant" | "system" | "tool";

/** Kept as it came. */
export interface ContentBlock {
  type: string;
  [member: string]: unknown;
}

export interface CreateMessageInput {
  chatId: string;
  role: Role;
  content: string | ContentBlock[];
  provider?: string;
  model?: string;
  usage?: { inputTokens: number, outputTokens: number };
  metadata?: Record<string, unknown>;
}

export interface Message extends CreateMessageInput {
  id: string;
  createdAt: number;
}

/** Oldest first; `nextBefore` is the `before` of the page that comes before this one. */
export interface MessagePage {
  messages: Message[];
  hasMore: boolean;
  nextBefore: string | null;
}

/** `snippet` is HTML: hits in `<mark>`, everything else escaped. */
export interface SearchResult {
  chatId: string;
  chatTitle: string;
  messageId: string;
  role: Role;
  snippet: string;
  score: number;
  createdAt: number;
}
"#;

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

const CHAT_COLUMNS: &str = "id, title, system_prompt, message_count, created_at, updated_at";

fn list(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let before = match fields.id("before")? {
        None => i64::MAX,
        Some(id) => view
            .connection
            .prepare_cached("SELECT moved FROM chats WHERE id = ?")?
            .query_row([&id], |row| row.get(0))
            .optional()?
            .ok_or_else(|| fields.wrong("before", "id of a chat", "an unknown id"))?,
    };
    let sql = format!("SELECT {CHAT_COLUMNS} FROM chats WHERE moved < ? ORDER BY moved DESC LIMIT ?");
    let mut statement = view.connection.prepare_cached(&sql)?;
    let chats = statement.query_map([before, limit], chat_json)?.collect::<Result<Vec<_>, _>>()?;
    Ok(Payload::trusted(array(&chats)))
}

fn create(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let title = fields.text("title", 1..=MAX_TITLE_BYTES)?.unwrap_or_else(|| "New Chat".to_owned());
    let system_prompt = system_prompt(fields)?.flatten();
    let id = Uuid::v4().to_string();
    change
        .connection
        .prepare_cached(
            "INSERT INTO chats (id, title, system_prompt, moved, created_at, updated_at)
             VALUES (?1, ?2, ?3, (SELECT coalesce(max(moved), 0) + 1 FROM chats), ?4, ?4)",
        )?
        .execute(params![id, title, system_prompt, change.unix_ms])?;
    let chat = require_chat(change.connection, fields, "id", &id)?;
    change.emit("chat:created", chat.clone());
    Ok(chat)
}

fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let chat = find_chat(view.connection, &fields.required_id("id")?)?;
    Ok(Payload::trusted(chat.unwrap_or_else(|| "null".to_owned())))
}

fn update(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let title = fields.text("title", 1..=MAX_TITLE_BYTES)?;
    let system_prompt = system_prompt(fields)?;
    let changed = change
        .connection
        .prepare_cached(
            "UPDATE chats SET title = coalesce(?2, title), system_prompt = iif(?3, ?4, system_prompt),
                 moved = (SELECT max(moved) + 1 FROM chats), updated_at = max(?5, created_at)
             WHERE id = ?1 AND (title IS NOT coalesce(?2, title) OR ?3 AND system_prompt IS NOT ?4)",
        )?
        .execute(params![id, title, system_prompt.is_some(), system_prompt.flatten(), change.unix_ms])?;
    let chat = require_chat(change.connection, fields, "id", &id)?;
    if changed > 0 {
        change.emit("chat:updated", chat.clone());
    }
    Ok(chat)
}

fn delete(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let deleted = change.connection.prepare_cached("DELETE FROM chats WHERE id = ?")?.execute([&id])?;
    if deleted > 0 {
        change.emit("chat:deleted", Payload::trusted(Object::new().text("id", &id).finish()));
    }
    Ok(Payload::from(serde_json::Value::Bool(deleted > 0)))
}

const MESSAGE_COLUMNS: &str = "messages.seq, messages.id, chats.id, role, text, blocks, provider, model, input_tokens, output_tokens, \
     metadata, messages.created_at";

/// A page is the `limit` messages just before `before`; fewer if they would be too long to send.
fn get_messages(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let chat_id = fields.required_id("chatId")?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let chat = chat_seq(view.connection, &chat_id)?;
    let before = match fields.id("before")? {
        None => i64::MAX,
        Some(id) => view
            .connection
            .prepare_cached("SELECT seq FROM messages WHERE id = ? AND chat = ?")?
            .query_row(params![id, chat], |row| row.get(0))
            .optional()?
            .ok_or_else(|| fields.wrong("before", "id of a message in the chat", "an unknown id"))?,
    };
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages JOIN chats ON chats.seq = chat
         WHERE chat = ? AND messages.seq < ? ORDER BY messages.seq DESC LIMIT ?"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let mut rows = statement.query([chat, before, limit + 1])?;
    let mut messages = Vec::new();
    let mut bytes = 0;
    let mut has_more = false;
    let mut oldest_id = None;
    while let Some(row) = rows.next()? {
        let message = message_json(row)?;
        bytes += message.len();
        let is_full = messages.len() as i64 == limit || bytes > view.limits.max_page_bytes;
        if is_full && !messages.is_empty() {
            has_more = true;
            break;
        }
        oldest_id = Some(row.get::<_, String>(1)?);
        messages.push(message);
    }
    messages.reverse();
    let page = Object::new()
        .raw("messages", &array(&messages))
        .boolean("hasMore", has_more)
        .text_or_null("nextBefore", oldest_id.filter(|_| has_more).as_deref());
    Ok(Payload::trusted(page.finish()))
}

/// A message that is to be stored.
#[derive(Debug)]
pub(super) struct NewMessage {
    pub(super) role: &'static str,
    pub(super) content: Content,
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
    /// Tokens of input and output.
    pub(super) usage: Option<(i64, i64)>,
    pub(super) metadata: Option<String>,
}

impl NewMessage {
    /// A message without more.
    pub(super) fn new(role: &'static str, content: Content) -> NewMessage {
        NewMessage { role, content, provider: None, model: None, usage: None, metadata: None }
    }
}

/// What a message says: its text for searching, and, unless it is a string, the blocks as they came.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) text: String,
    pub(super) blocks: Option<String>,
}

/// Adds messages to a chat, which moves it to the top of the list, and tells everyone of each. The caller answers for their
/// sizes.
///
/// # Errors
/// When there is no such chat.
pub(super) fn store(
    change: &mut Change<'_>,
    chat_id: &str,
    messages: &[NewMessage],
) -> Result<Payload, WireError> {
    let chat = chat_seq(change.connection, chat_id)?;
    for message in messages {
        insert(change, chat, message)?;
    }
    Ok(Payload::none())
}

/// Whether there is such a chat.
///
/// # Errors
/// When there is not.
pub(super) fn has_chat(view: &View<'_>, chat_id: &str) -> Result<(), WireError> {
    chat_seq(view.connection, chat_id).map(drop)
}

fn add_message(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let chat_id = fields.required_id("chatId")?;
    let role = fields.required_one_of("role", &ROLES)?;
    let mut message = NewMessage::new(role, content(fields)?);
    message.provider = fields.text("provider", 1..=MAX_NAME_BYTES)?;
    message.model = fields.text("model", 1..=MAX_NAME_BYTES)?;
    message.metadata = fields.object_json("metadata", MAX_METADATA_BYTES)?.map(str::to_owned);
    if let Some(usage) = fields.object("usage")? {
        let required = |name| {
            let count = usage.integer(name, 0..=MAX_TOKENS)?;
            count.ok_or_else(|| usage.wrong(name, "integer", "nothing"))
        };
        message.usage = Some((required("inputTokens")?, required("outputTokens")?));
    }
    let chat = chat_seq(change.connection, &chat_id)?;
    insert(change, chat, &message)
}

fn insert(change: &mut Change<'_>, chat: i64, message: &NewMessage) -> Result<Payload, WireError> {
    change
        .connection
        .prepare_cached(
            "INSERT INTO messages
                 (id, chat, role, text, blocks, provider, model, input_tokens, output_tokens, metadata, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            Uuid::v4().to_string(),
            chat,
            message.role,
            message.content.text,
            message.content.blocks,
            message.provider,
            message.model,
            message.usage.map(|usage| usage.0),
            message.usage.map(|usage| usage.1),
            message.metadata,
            change.unix_ms,
        ])?;
    let seq = change.connection.last_insert_rowid();
    change
        .connection
        .prepare_cached(
            "UPDATE chats SET message_count = message_count + 1, moved = (SELECT max(moved) + 1 FROM chats),
                 updated_at = max(?2, created_at)
             WHERE seq = ?1",
        )?
        .execute(params![chat, change.unix_ms])?;
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages JOIN chats ON chats.seq = chat WHERE messages.seq = ?"
    );
    let message = change.connection.prepare_cached(&sql)?.query_row([seq], message_json)?;
    let message = Payload::trusted(message);
    change.emit("chat:message-added", message.clone());
    Ok(message)
}

fn search(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let query = match_expression(&fields.required_text("query", 0..=MAX_QUERY_BYTES)?);
    let limit = fields.integer("limit", 1..=100)?.unwrap_or(20);
    let chat = match fields.id("chatId")? {
        None => None,
        Some(id) => Some(chat_seq(view.connection, &id)?),
    };
    if query.is_empty() {
        return Ok(Payload::trusted("[]".to_owned()));
    }
    let best = best_hits("message_index", "SELECT seq FROM messages WHERE chat = ?2");
    let sql = format!(
        "{best} SELECT chats.id, chats.title, messages.id, role,
             snippet(message_index, 0, '{MARK_START}', '{MARK_END}', '…', 24), score, messages.created_at
         FROM best CROSS JOIN message_index ON message_index.rowid = best.seq AND message_index MATCH ?1
             JOIN messages ON messages.seq = best.seq JOIN chats ON chats.seq = chat
         ORDER BY score, best.seq DESC"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![query, chat, limit])?;
    let mut results = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let result = Object::new()
            .text("chatId", row.get_ref(0)?.as_str()?)
            .text("chatTitle", row.get_ref(1)?.as_str()?)
            .text("messageId", row.get_ref(2)?.as_str()?)
            .text("role", row.get_ref(3)?.as_str()?)
            .text("snippet", &marked_html(row.get_ref(4)?.as_str()?))
            // FTS5 counts downwards: the best match has the smallest rank.
            .number("score", -row.get::<_, f64>(5)?)
            .integer("createdAt", row.get(6)?)
            .finish();
        // A snippet has so many words, but each may be as long as a message.
        bytes += result.len();
        if bytes > view.limits.max_page_bytes && !results.is_empty() {
            break;
        }
        results.push(result);
    }
    Ok(Payload::trusted(array(&results)))
}

/// `systemPrompt`: not given, or a text, or null for none.
fn system_prompt(fields: &Fields<'_>) -> Result<Option<Option<String>>, WireError> {
    if fields.has("systemPrompt") && fields.required_json("systemPrompt")? == "null" {
        return Ok(Some(None));
    }
    Ok(fields.text("systemPrompt", 0..=MAX_SYSTEM_PROMPT_BYTES)?.map(Some))
}

/// The member `content` of a message.
///
/// # Errors
/// When it is neither a string nor a list of blocks with a type, or too long.
pub(super) fn content(fields: &Fields<'_>) -> Result<Content, WireError> {
    let value = fields.required_json("content")?;
    if kind_of(value) == "string" {
        return Ok(Content { text: fields.required_text("content", 0..=MAX_CONTENT_BYTES)?, blocks: None });
    }
    let expected = format!("string or ContentBlock[] of at most {MAX_CONTENT_BYTES} bytes");
    if kind_of(value) != "array" {
        return Err(fields.wrong("content", &expected, kind_of(value)));
    }
    if value.len() > MAX_CONTENT_BYTES {
        return Err(fields.wrong("content", &expected, &format!("{} bytes", value.len())));
    }
    let mut text = String::new();
    for block in fields.required_objects("content", 0..=MAX_CONTENT_BLOCKS)? {
        block.required_text("type", 0..=MAX_CONTENT_BYTES)?;
        if block.has("text") && kind_of(block.required_json("text")?) == "string" {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&block.required_text("text", 0..=MAX_CONTENT_BYTES)?);
        }
    }
    Ok(Content { text, blocks: Some(value.to_owned()) })
}

fn find_chat(connection: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    let sql = format!("SELECT {CHAT_COLUMNS} FROM chats WHERE id = ?");
    connection.prepare_cached(&sql)?.query_row([id], chat_json).optional()
}

fn require_chat(
    connection: &Connection,
    fields: &Fields<'_>,
    path: &str,
    id: &str,
) -> Result<Payload, WireError> {
    let chat = find_chat(connection, id)?;
    chat.map(Payload::trusted).ok_or_else(|| fields.wrong(path, "id of a chat", "an unknown id"))
}

fn chat_seq(connection: &Connection, id: &str) -> Result<i64, WireError> {
    let seq = connection
        .prepare_cached("SELECT seq FROM chats WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    seq.ok_or_else(|| wrong("chatId", "id of a chat", "an unknown id"))
}

fn chat_json(row: &Row<'_>) -> rusqlite::Result<String> {
    let chat = Object::new()
        .text("id", row.get_ref(0)?.as_str()?)
        .text("title", row.get_ref(1)?.as_str()?)
        .text_or_null("systemPrompt", row.get_ref(2)?.as_str_or_null()?)
        .integer("messageCount", row.get(3)?)
        .integer("createdAt", row.get(4)?)
        .integer("updatedAt", row.get(5)?);
    Ok(chat.finish())
}

fn message_json(row: &Row<'_>) -> rusqlite::Result<String> {
    let mut message = Object::new()
        .text("id", row.get_ref(1)?.as_str()?)
        .text("chatId", row.get_ref(2)?.as_str()?)
        .text("role", row.get_ref(3)?.as_str()?);
    message = match row.get_ref(5)?.as_str_or_null()? {
        Some(blocks) => message.raw("content", blocks),
        None => message.text("content", row.get_ref(4)?.as_str()?),
    };
    for (name, column) in [("provider", 6), ("model", 7)] {
        if let Some(text) = row.get_ref(column)?.as_str_or_null()? {
            message = message.text(name, text);
        }
    }
    if let (Some(input), Some(output)) = (row.get(8)?, row.get(9)?) {
        let usage = Object::new().integer("inputTokens", input).integer("outputTokens", output);
        message = message.raw("usage", &usage.finish());
    }
    if let Some(metadata) = row.get_ref(10)?.as_str_or_null()? {
        message = message.raw("metadata", metadata);
    }
    Ok(message.integer("createdAt", row.get(11)?).finish())
}
