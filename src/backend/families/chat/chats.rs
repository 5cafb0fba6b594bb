//! Chats: listing, creating, changing and deleting them.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, View};
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

const MAX_TITLE_BYTES: usize = 1 << 10;
const MAX_SYSTEM_PROMPT_BYTES: usize = 64 << 10;
const CHAT_COLUMNS: &str = "id, title, system_prompt, message_count, created_at, updated_at";

pub(super) fn list(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let before = match fields.id("before")? {
        None => i64::MAX,
        Some(id) => view
            .connection
            .prepare_cached("SELECT moved FROM chats WHERE id = ? AND deleted = 0")?
            .query_row([&id], |row| row.get(0))
            .optional()?
            .ok_or_else(|| fields.wrong("before", "id of a chat", "an unknown id"))?,
    };
    let sql = format!(
        "SELECT {CHAT_COLUMNS} FROM chats WHERE moved < ? AND deleted = 0 ORDER BY moved DESC LIMIT ?"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let chats = statement.query_map([before, limit], chat_json)?.collect::<Result<Vec<_>, _>>()?;
    Ok(Payload::trusted(array(&chats)))
}

pub(super) fn create(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
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

pub(super) fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let chat = find_chat(view.connection, &fields.required_id("id")?)?;
    Ok(Payload::trusted(chat.unwrap_or_else(|| "null".to_owned())))
}

pub(super) fn update(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let title = fields.text("title", 1..=MAX_TITLE_BYTES)?;
    let system_prompt = system_prompt(fields)?;
    let changed = change
        .connection
        .prepare_cached(
            "UPDATE chats SET title = coalesce(?2, title), system_prompt = iif(?3, ?4, system_prompt),
                 moved = (SELECT max(moved) + 1 FROM chats), updated_at = max(?5, created_at)
             WHERE id = ?1 AND deleted = 0 AND (title IS NOT coalesce(?2, title) OR ?3 AND system_prompt IS NOT ?4)",
        )?
        .execute(params![id, title, system_prompt.is_some(), system_prompt.flatten(), change.unix_ms])?;
    let chat = require_chat(change.connection, fields, "id", &id)?;
    if changed > 0 {
        change.emit("chat:updated", chat.clone());
    }
    Ok(chat)
}

pub(super) fn delete(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let deleted = change
        .connection
        .prepare_cached("UPDATE chats SET deleted = 1 WHERE id = ? AND deleted = 0")?
        .execute([&id])?;
    if deleted > 0 {
        change.leave_work();
        change.emit("chat:deleted", Payload::trusted(Object::new().text("id", &id).finish()));
    }
    Ok(Payload::from(serde_json::Value::Bool(deleted > 0)))
}

/// Checks that a chat exists.
///
/// # Errors
/// When it does not.
pub(crate) fn has_chat(view: &View<'_>, chat_id: &str) -> Result<(), WireError> {
    chat_seq(view.connection, chat_id).map(drop)
}

/// Reads `systemPrompt`: `None` if it is missing, `Some(None)` if it is null.
fn system_prompt(fields: &Fields<'_>) -> Result<Option<Option<String>>, WireError> {
    if fields.is_null("systemPrompt") {
        return Ok(Some(None));
    }
    Ok(fields.text("systemPrompt", 0..=MAX_SYSTEM_PROMPT_BYTES)?.map(Some))
}

fn find_chat(connection: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    let sql = format!("SELECT {CHAT_COLUMNS} FROM chats WHERE id = ? AND deleted = 0");
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

pub(super) fn chat_seq(connection: &Connection, id: &str) -> Result<i64, WireError> {
    let seq = connection
        .prepare_cached("SELECT seq FROM chats WHERE id = ? AND deleted = 0")?
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
