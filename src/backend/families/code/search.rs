//! Search in entries.

use rusqlite::params;

use crate::backend::shared::db::View;
use crate::backend::shared::encode::Object;
use crate::backend::shared::search::{best_hits, mark_truncated, match_expression, page_of_hits};
use crate::backend::shared::snippet::{Snippets, short_snippet};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::config::CodeConfig;
use super::sessions::session_seq;

const MAX_QUERY_BYTES: usize = 1 << 10;

pub(super) fn search_transcript(
    view: &View<'_>,
    fields: &Fields<'_>,
    _: &CodeConfig,
) -> Result<Payload, WireError> {
    let typed = fields.required_text("query", 0..=MAX_QUERY_BYTES)?;
    let query = match_expression(&typed);
    let limit = fields.integer("limit", 1..=100)?.unwrap_or(20);
    let session = match fields.id("sessionId")? {
        None => None,
        Some(id) => Some(session_seq(view.connection, fields, &id)?),
    };
    if query.is_empty() {
        return Ok(Payload::trusted("[]".to_owned()));
    }
    let best = best_hits(
        "code_entry_index",
        "(?2 IS NULL OR rowid IN (SELECT seq FROM code_entries WHERE session = ?2))",
    );
    let snippet = short_snippet("code_entry_index", "e.text");
    let sql = format!(
        "{best} SELECT s.id, e.id, e.role, {snippet},
             score, e.created_at, truncated, best.seq
         FROM best CROSS JOIN code_entry_index
                 ON code_entry_index.rowid = best.seq AND code_entry_index MATCH ?1
             JOIN code_entries e ON e.seq = best.seq JOIN code_sessions s ON s.seq = e.session
         ORDER BY score, best.seq DESC"
    );
    let snippets = Snippets::new(view, &typed, "SELECT text FROM code_entries WHERE seq = ?");
    page_of_hits(view, &sql, params![query, session, limit, view.limits.ranked_rows()], |row| {
        let hit = Object::new()
            .text("sessionId", row.get_ref(0)?.as_str()?)
            .text("entryId", row.get_ref(1)?.as_str()?)
            .text("role", row.get_ref(2)?.as_str()?)
            .text("snippet", &snippets.html(row.get_ref(3)?.as_str_or_null()?, row.get(7)?)?)
            // In FTS5 the best match has the smallest rank.
            .number("score", -row.get::<_, f64>(4)?)
            .integer("createdAt", row.get(5)?);
        Ok(mark_truncated(hit, row.get(6)?).finish())
    })
}
