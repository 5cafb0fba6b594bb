//! Sessions: listing them and getting one.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::shared::db::View;
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::config::CodeConfig;

const MAX_PROJECT_BYTES: usize = 255;

/// A session without entries, restore points and skipped lines is not listed: some files have only a summary of another session.
const SESSIONS: &str = "SELECT id, project, cwd, coalesce(custom_title, ai_title, summary, prompt, id), model, message_count,
         restore_point_count, coalesce(started_at, found_at), coalesce(updated_at, found_at) AS updated, skipped_lines
     FROM code_sessions WHERE message_count + restore_point_count + skipped_lines > 0";

pub(super) fn list_sessions(
    view: &View<'_>,
    fields: &Fields<'_>,
    _: &CodeConfig,
) -> Result<Payload, WireError> {
    let project = fields.text("project", 1..=MAX_PROJECT_BYTES)?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let sql = format!("{SESSIONS} AND (?1 IS NULL OR project = ?1) ORDER BY updated DESC, id LIMIT ?2");
    let mut statement = view.connection.prepare_cached(&sql)?;
    let sessions = statement.query_map(params![project, limit], session_json)?;
    Ok(Payload::trusted(array(&sessions.collect::<Result<Vec<_>, _>>()?)))
}

pub(super) fn get_session(
    view: &View<'_>,
    fields: &Fields<'_>,
    _: &CodeConfig,
) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let sql = format!("{SESSIONS} AND id = ?");
    let session = view.connection.prepare_cached(&sql)?.query_row([id], session_json).optional()?;
    Ok(Payload::trusted(session.unwrap_or_else(|| "null".to_owned())))
}

pub(super) fn session_seq(connection: &Connection, fields: &Fields<'_>, id: &str) -> Result<i64, WireError> {
    let seq = connection
        .prepare_cached("SELECT seq FROM code_sessions WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    seq.ok_or_else(|| fields.wrong("sessionId", "id of a session", "an unknown id"))
}

fn session_json(row: &Row<'_>) -> rusqlite::Result<String> {
    let session = Object::new()
        .text("id", row.get_ref(0)?.as_str()?)
        .text("project", row.get_ref(1)?.as_str()?)
        .text_or_null("cwd", row.get_ref(2)?.as_str_or_null()?)
        .text("title", row.get_ref(3)?.as_str()?)
        .text_or_null("model", row.get_ref(4)?.as_str_or_null()?)
        .integer("messageCount", row.get(5)?)
        .integer("restorePointCount", row.get(6)?)
        .integer("startedAt", row.get(7)?)
        .integer("updatedAt", row.get(8)?)
        .integer("skippedLines", row.get(9)?);
    Ok(session.finish())
}
