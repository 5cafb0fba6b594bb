//! Removing the messages of deleted chats, in steps on the writing thread. In: the database. Out: the same without these messages.
//!
//! FTS5 merges the parts of its index while it writes, tens of milliseconds at a time. While messages are removed this is off, and
//! the parts are merged in steps, too.

use rusqlite::{Connection, OptionalExtension};

use crate::backend::shared::db::Progress;
use crate::protocol::error::WireError;

/// FTS5's default for the number of parts that it merges by itself.
const DEFAULT_AUTOMERGE: i64 = 4;
/// Pages of the index that are merged at a time, about a tenth of a millisecond each.
const PAGES_AT_ONCE: i64 = 16;

/// Removes one message of a deleted chat; if it has none, its row.
pub(super) fn remove_message(connection: &Connection) -> Result<Progress, WireError> {
    let Some(chat) = deleted_chat(connection)? else {
        set_automerge(connection, DEFAULT_AUTOMERGE)?;
        return Ok(Progress::Done);
    };
    set_automerge(connection, 0)?;
    let removed = connection
        .prepare_cached(
            "DELETE FROM messages WHERE seq = (SELECT seq FROM messages WHERE chat = ? ORDER BY seq LIMIT 1)",
        )?
        .execute([chat])?;
    if removed == 0 {
        connection.prepare_cached("DELETE FROM chats WHERE seq = ?")?.execute([chat])?;
    }
    Ok(Progress::More)
}

/// Merges some pages of the index while messages are removed.
pub(super) fn merge_index(connection: &Connection) -> Result<Progress, WireError> {
    if deleted_chat(connection)?.is_none() {
        return Ok(Progress::Done);
    }
    let before = connection.total_changes();
    connection
        .prepare_cached("INSERT INTO message_index (message_index, rank) VALUES ('merge', ?)")?
        .execute([PAGES_AT_ONCE])?;
    // As FTS5 documents it: with fewer changes there was nothing to merge.
    let has_merged = connection.total_changes() - before >= 2;
    Ok(if has_merged { Progress::More } else { Progress::Later })
}

fn deleted_chat(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT seq FROM chats WHERE deleted = 1 ORDER BY seq LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

fn set_automerge(connection: &Connection, parts: i64) -> rusqlite::Result<()> {
    let current: Option<i64> = connection
        .prepare_cached("SELECT v FROM message_index_config WHERE k = 'automerge'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if current.unwrap_or(DEFAULT_AUTOMERGE) != parts {
        connection
            .prepare_cached("INSERT INTO message_index (message_index, rank) VALUES ('automerge', ?)")?
            .execute([parts])?;
    }
    Ok(())
}
