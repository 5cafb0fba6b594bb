//! Search in messages.

use rusqlite::params;

use crate::backend::shared::db::View;
use crate::backend::shared::encode::Object;
use crate::backend::shared::search::{best_hits, mark_truncated, match_expression, page_of_hits};
use crate::backend::shared::snippet::{Snippets, short_snippet};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::chats::chat_seq;

const MAX_QUERY_BYTES: usize = 1 << 10;
/// Messages of one chat or of all. Those of deleted chats stay in the index until they are removed.
const FILTER: &str = "(?2 IS NULL OR rowid IN (SELECT seq FROM messages WHERE chat = ?2))
             AND (NOT EXISTS (SELECT 1 FROM chats WHERE deleted = 1) OR NOT EXISTS (
                 SELECT 1 FROM messages JOIN chats ON chats.seq = chat
                 WHERE messages.seq = message_index.rowid AND deleted = 1))";

pub(super) fn search(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let typed = fields.required_text("query", 0..=MAX_QUERY_BYTES)?;
    let query = match_expression(&typed);
    let limit = fields.integer("limit", 1..=100)?.unwrap_or(20);
    let chat = match fields.id("chatId")? {
        None => None,
        Some(id) => Some(chat_seq(view.connection, &id)?),
    };
    if query.is_empty() {
        return Ok(Payload::trusted("[]".to_owned()));
    }
    let best = best_hits("message_index", FILTER);
    let snippet = short_snippet("message_index", "messages.text");
    let sql = format!(
        "{best} SELECT chats.id, chats.title, messages.id, role,
             {snippet}, score, messages.created_at, truncated, best.seq
         FROM best CROSS JOIN message_index ON message_index.rowid = best.seq AND message_index MATCH ?1
             JOIN messages ON messages.seq = best.seq JOIN chats ON chats.seq = chat
         ORDER BY score, best.seq DESC"
    );
    let snippets = Snippets::new(view, &typed, "SELECT text FROM messages WHERE seq = ?");
    page_of_hits(view, &sql, params![query, chat, limit, view.limits.ranked_rows()], |row| {
        let hit = Object::new()
            .text("chatId", row.get_ref(0)?.as_str()?)
            .text("chatTitle", row.get_ref(1)?.as_str()?)
            .text("messageId", row.get_ref(2)?.as_str()?)
            .text("role", row.get_ref(3)?.as_str()?)
            .text("snippet", &snippets.html(row.get_ref(4)?.as_str_or_null()?, row.get(8)?)?)
            // In FTS5 the best match has the smallest rank.
            .number("score", -row.get::<_, f64>(5)?)
            .integer("createdAt", row.get(6)?);
        Ok(mark_truncated(hit, row.get(7)?).finish())
    })
}
