//! Chats in an SQLite database, as applications usually store them: one connection in a lock, prepared statements, a
//! transaction for each write, on a blocking thread of tokio. Tables and durability are those of Switchboard. Input:
//! requests on `chat:create`, `chat:list` and `chat:add-message`. Output: their responses, and `chat:message-added` to all
//! clients.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backend::Backend;
use crate::wire::{self, Payload, unix_ms};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Chat {
    id: String,
    title: String,
    system_prompt: Option<String>,
    message_count: i64,
    created_at: i64,
    updated_at: i64,
}

#[derive(Deserialize)]
struct NewChat {
    title: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewMessage {
    chat_id: String,
    role: String,
    content: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    id: String,
    chat_id: String,
    role: String,
    content: String,
    created_at: i64,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default = "usual_limit")]
    limit: i64,
}

fn usual_limit() -> i64 {
    50
}

/// Adds the channels, with a new database in a folder.
pub fn register<P: Payload, M>(backend: &mut Backend<P, M>, folder: &Path)
where
    M: Clone + From<String> + Send + 'static,
{
    let connection = open(folder).expect("CHATS is a writable folder");
    let connection = Arc::new(Mutex::new(connection));
    let db = connection.clone();
    backend.on_request("chat:create", move |payload, _| answer(db.clone(), payload, create, |_| ()));
    let db = connection.clone();
    backend.on_request("chat:list", move |payload, _| answer(db.clone(), payload, list, |_| ()));
    backend.on_request("chat:add-message", move |payload, hub| {
        answer(connection.clone(), payload, add_message, move |message| {
            hub.broadcast(wire::event("chat:message-added", message));
        })
    });
}

fn open(folder: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(folder.join("chats.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.execute_batch(include_str!("../../../../src/backend/families/chat/tables.sql"))?;
    Ok(connection)
}

/// Does the work of a request on a blocking thread, then calls `tell` with the result.
async fn answer<P: Payload, In, Out>(
    db: Arc<Mutex<Connection>>,
    payload: Option<P>,
    work: fn(&mut Connection, In) -> rusqlite::Result<Out>,
    tell: impl FnOnce(&Out),
) -> Result<Option<P>, String>
where
    In: for<'de> Deserialize<'de> + Send + 'static,
    Out: Serialize + Send + 'static,
{
    let payload = payload.ok_or("no payload")?.read().map_err(|error| error.to_string())?;
    let done = tokio::task::spawn_blocking(move || {
        work(&mut db.lock().unwrap_or_else(PoisonError::into_inner), payload)
    });
    let out = done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    tell(&out);
    Ok(Some(P::of(&out)))
}

fn create(db: &mut Connection, new: NewChat) -> rusqlite::Result<Chat> {
    let (id, now) = (Uuid::new_v4().to_string(), unix_ms() as i64);
    db.prepare_cached(
        "INSERT INTO chats (id, title, moved, created_at, updated_at)
         VALUES (?1, ?2, (SELECT coalesce(max(moved), 0) + 1 FROM chats), ?3, ?3)",
    )?
    .execute(params![id, new.title, now])?;
    Ok(Chat { id, title: new.title, system_prompt: None, message_count: 0, created_at: now, updated_at: now })
}

fn list(db: &mut Connection, page: Page) -> rusqlite::Result<Vec<Chat>> {
    let mut statement = db.prepare_cached(
        "SELECT id, title, system_prompt, message_count, created_at, updated_at FROM chats
         ORDER BY moved DESC LIMIT ?",
    )?;
    statement.query_map([page.limit], chat)?.collect()
}

fn chat(row: &Row<'_>) -> rusqlite::Result<Chat> {
    Ok(Chat {
        id: row.get(0)?,
        title: row.get(1)?,
        system_prompt: row.get(2)?,
        message_count: row.get(3)?,
        created_at: row.get(4)?,
        updated_at: row.get(5)?,
    })
}

fn add_message(db: &mut Connection, new: NewMessage) -> rusqlite::Result<Message> {
    let (id, now) = (Uuid::new_v4().to_string(), unix_ms() as i64);
    let transaction = db.transaction()?;
    let chat: Option<i64> = transaction
        .prepare_cached("SELECT seq FROM chats WHERE id = ?")?
        .query_row([&new.chat_id], |row| row.get(0))
        .optional()?;
    let chat = chat.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    transaction
        .prepare_cached("INSERT INTO messages (id, chat, role, text, created_at) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![id, chat, new.role, new.content, now])?;
    transaction
        .prepare_cached(
            "UPDATE chats SET message_count = message_count + 1,
                 moved = (SELECT max(moved) + 1 FROM chats), updated_at = ?2 WHERE seq = ?1",
        )?
        .execute([chat, now])?;
    transaction.commit()?;
    Ok(Message { id, chat_id: new.chat_id, role: new.role, content: new.content, created_at: now })
}
