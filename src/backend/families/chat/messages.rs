//! Messages of chats: adding and listing them.

use rusqlite::{OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, View};
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::{Fields, kind_of};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

use super::chats::chat_seq;

const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Most blocks of one message.
const MAX_CONTENT_BLOCKS: usize = 10_000;
const MAX_METADATA_BYTES: usize = 64 << 10;
const MAX_NAME_BYTES: usize = 256;
const MAX_TOKENS: i64 = 1 << 53;
const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];

const MESSAGE_COLUMNS: &str = "messages.seq, messages.id, chats.id, role, text, blocks, provider, model, input_tokens, output_tokens, \
     metadata, messages.created_at";

/// Returns the `limit` messages just before `before`; fewer if they would be too large to send.
pub(super) fn get_messages(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
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

/// A message to store.
#[derive(Debug)]
pub(crate) struct NewMessage {
    pub(crate) role: &'static str,
    pub(crate) content: Content,
    pub(crate) provider: Option<String>,
    pub(crate) model: Option<String>,
    /// The numbers of input and output tokens.
    pub(crate) usage: Option<(i64, i64)>,
    pub(crate) metadata: Option<String>,
}

impl NewMessage {
    /// Returns a message with nothing but a role and content.
    pub(crate) fn new(role: &'static str, content: Content) -> NewMessage {
        NewMessage { role, content, provider: None, model: None, usage: None, metadata: None }
    }
}

/// The content of a message: its text, which is searched, and its blocks as the client sent them, unless it is a string.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) blocks: Option<String>,
}

/// Adds messages to a chat, which moves it to the top of the list, and emits an event for each. The caller checks their sizes.
///
/// # Errors
/// When the chat does not exist.
pub(crate) fn store(
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

pub(super) fn add_message(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let chat_id = fields.required_id("chatId")?;
    let role = fields.required_one_of("role", &ROLES)?;
    let mut message = NewMessage::new(role, content(fields)?);
    message.provider = fields.text("provider", 1..=MAX_NAME_BYTES)?;
    message.model = fields.text("model", 1..=MAX_NAME_BYTES)?;
    message.metadata = fields.object_json("metadata", MAX_METADATA_BYTES)?.map(str::to_owned);
    if let Some(usage) = fields.object("usage")? {
        let count = |name| usage.required_integer(name, 0..=MAX_TOKENS);
        message.usage = Some((count("inputTokens")?, count("outputTokens")?));
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

/// Reads the member `content` of a message.
///
/// # Errors
/// When it is not a string and not a list of blocks with a type, or is too long.
pub(crate) fn content(fields: &Fields<'_>) -> Result<Content, WireError> {
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
