//! The entries of a session, as pages of results.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::shared::db::View;
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::config::CodeConfig;
use super::scan;
use super::sessions::session_seq;
use super::transcript::{self, Kind};

const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];
/// Upper bound for the JSON around the content of an entry, and around the files of a restore point, in bytes.
pub(super) const FRAME_BYTES: usize = 512;

/// Which entries to return.
struct Selection {
    session: i64,
    /// For example `,user,tool,`; `None` for all roles.
    roles: Option<String>,
    cursor: Option<(i64, i64)>,
    forward: bool,
}

pub(super) fn get_transcript(
    view: &View<'_>,
    fields: &Fields<'_>,
    config: &CodeConfig,
) -> Result<Payload, WireError> {
    let session_id = fields.required_id("sessionId")?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(100);
    let (before, after) = (fields.id("before")?, fields.id("after")?);
    let roles = fields.words("roles", &ROLES)?.map(|roles| format!(",{},", roles.join(",")));
    let session = session_seq(view.connection, fields, &session_id)?;
    if before.is_some() && after.is_some() {
        return Err(fields.wrong("after", "nothing beside \"before\"", "both"));
    }
    let forward = after.is_some();
    let cursor = match after.or(before) {
        None => None,
        Some(id) => Some(position_of(view.connection, session, &id)?.ok_or_else(|| {
            let name = if forward { "after" } else { "before" };
            fields.wrong(name, "id of an entry in the session", "an unknown id")
        })?),
    };
    let selection = Selection { session, roles, cursor, forward };
    let page = read_page(view, &selection, &session_id, limit, config)?;
    let total: i64 = view
        .connection
        .prepare_cached(
            "SELECT count(*) FROM code_entries
             WHERE session = ?1 AND role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || role || ',') > 0)",
        )?
        .query_row(params![session, selection.roles], |row| row.get(0))?;
    let older = page.first.as_ref().filter(|first| first.has_more).map(|first| first.id.as_str());
    let newer = page.last.as_ref().filter(|last| last.has_more).map(|last| last.id.as_str());
    let has_more = if forward { newer.is_some() } else { older.is_some() };
    let json = Object::new().raw("entries", &array(&page.entries)).integer("total", total);
    let json = json.boolean("hasMore", has_more);
    Ok(Payload::trusted(json.text_or_null("nextBefore", older).text_or_null("nextAfter", newer).finish()))
}

/// The first or last entry of a page.
struct Edge {
    id: String,
    place: (i64, i64),
    /// Whether there are further entries on this side.
    has_more: bool,
}

#[derive(Default)]
struct Page {
    entries: Vec<String>,
    first: Option<Edge>,
    last: Option<Edge>,
}

/// Reads the entries of a page, oldest first; fewer than requested if they would be too large to send.
fn read_page(
    view: &View<'_>,
    selection: &Selection,
    session_id: &str,
    limit: i64,
    config: &CodeConfig,
) -> Result<Page, WireError> {
    let (than, order) = if selection.forward { (">", "ASC") } else { ("<", "DESC") };
    let sql = format!(
        "SELECT e.id, e.position, e.seq, e.line_at, e.line_bytes, f.path, p.id, e.role, e.created_at
         FROM code_entries e JOIN code_files f ON f.seq = e.file LEFT JOIN code_entries p ON p.seq = e.parent
         WHERE e.session = ?1 AND e.role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || e.role || ',') > 0)
             AND (?3 IS NULL OR (e.position, e.seq) {than} (?3, ?4))
         ORDER BY e.position {order}, e.seq {order} LIMIT ?5"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let (position, seq) = selection.cursor.unzip();
    let mut rows = statement.query(params![selection.session, selection.roles, position, seq, limit])?;
    let mut page = Page::default();
    let mut files = HashMap::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let entry = entry_json(row, session_id, config, view.limits.max_page_bytes, &mut files)?;
        bytes += entry.len();
        if bytes > view.limits.max_page_bytes && !page.entries.is_empty() {
            break;
        }
        page.entries.push(entry);
        let end = || {
            Ok::<_, WireError>(Edge { id: row.get(0)?, place: (row.get(1)?, row.get(2)?), has_more: false })
        };
        if page.first.is_none() {
            page.first = Some(end()?);
        }
        page.last = Some(end()?);
    }
    if !selection.forward {
        page.entries.reverse();
        std::mem::swap(&mut page.first, &mut page.last);
    }
    for (end, than) in [(&mut page.first, "<"), (&mut page.last, ">")] {
        if let Some(end) = end {
            end.has_more = has_beyond(view.connection, selection, end.place, than)?;
        }
    }
    Ok(page)
}

fn has_beyond(
    connection: &Connection,
    selection: &Selection,
    (position, seq): (i64, i64),
    than: &str,
) -> Result<bool, WireError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM code_entries
             WHERE session = ?1 AND role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || role || ',') > 0)
                 AND (position, seq) {than} (?3, ?4))"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row(params![selection.session, selection.roles, position, seq], |row| row.get(0))?)
}

/// Returns an entry, with its content as in the transcript.
fn entry_json(
    row: &Row<'_>,
    session_id: &str,
    config: &CodeConfig,
    max_bytes: usize,
    files: &mut HashMap<String, File>,
) -> Result<String, WireError> {
    let id: String = row.get(0)?;
    let path: String = row.get(5)?;
    let (at, length): (i64, i64) = (row.get(3)?, row.get(4)?);
    let object = Object::new().text("id", &id).text("sessionId", session_id);
    let object = object
        .text_or_null("parentId", row.get_ref(6)?.as_str_or_null()?)
        .text("role", row.get_ref(7)?.as_str()?);
    let created_at = row.get(8)?;
    let length = usize::try_from(length).unwrap_or(0);
    if length > config.limits.max_line_bytes || length + FRAME_BYTES > max_bytes {
        let content = format!(r#"[{{"type":"too_long","bytes":{length}}}]"#);
        return Ok(object.raw("content", &content).integer("createdAt", created_at).finish());
    }
    let line = read_line(config, path, at.cast_unsigned(), length, files);
    let line = line.map_err(|error| WireError::new(format!("the transcript cannot be read: {error}")))?;
    let changed = || WireError::new("the transcript has changed during the request: try again");
    let line = transcript::decode(&line).map_err(|_| changed())?;
    let Kind::Entry(entry) = &line.kind else { return Err(changed()) };
    if line.id.as_ref() != Some(&id) {
        return Err(changed());
    }
    let mut object = object.raw("content", &entry.content_json());
    if let Some(model) = &entry.model {
        object = object.text("model", model);
    }
    if let Some((input, output)) = entry.usage {
        let usage = Object::new().integer("inputTokens", input).integer("outputTokens", output);
        object = object.raw("usage", &usage.finish());
    }
    if line.sidechain {
        object = object.boolean("sidechain", true);
    }
    Ok(object.integer("createdAt", created_at).finish())
}

fn read_line(
    config: &CodeConfig,
    path: String,
    at: u64,
    length: usize,
    files: &mut HashMap<String, File>,
) -> io::Result<Vec<u8>> {
    use std::collections::hash_map::Entry;
    let file = match files.entry(path) {
        Entry::Occupied(file) => file.into_mut(),
        Entry::Vacant(place) => {
            let folder = config.code_dir.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let file = File::open(folder.join(place.key()))?;
            place.insert(file)
        }
    };
    scan::read_at(file, at, length)
}

/// Returns the position of an entry in its session.
fn position_of(connection: &Connection, session: i64, id: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, seq FROM code_entries WHERE id = ? AND session = ? AND role IS NOT NULL",
    )?;
    statement.query_row(params![id, session], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}
