//! The index of the transcripts. In: the files found on disk, and the contents of their lines. Out: tables with sessions, the tree
//! of their entries, the searchable texts and the restore points. The lines stay in their files: an entry has the position of
//! its line.
//!
//! A batch of lines and the read position after it are written in one transaction, so a scan that ends early is continued. The
//! parent of an entry always precedes it and is always visible, so the tree has no cycles, whatever the lines contain.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::protocol::error::WireError;

use super::scan::{Batch, Found, Item, ItemKind, Progress, Stamp};
use super::transcript::Backups;
use crate::backend::shared::db::{Change, View};

/// How long one transaction deletes rows, and how many of a table it deletes between two looks at the clock.
const DELETE_TIME: Duration = Duration::from_millis(2);
const ROWS_AT_ONCE: i64 = 8;
/// Most files that a restore point tracks.
const MAX_TRACKED_FILES: usize = 10_000;
/// The model name of answers that the program itself wrote.
const NO_MODEL: &str = "<synthetic>";

/// Returns the stamp that each file had when it was read, by path.
pub(super) fn stamps(view: &View<'_>) -> Result<HashMap<String, Stamp>, WireError> {
    let mut statement =
        view.connection.prepare_cached("SELECT path, size, modified_ns, inode FROM code_files")?;
    let stamps = statement.query_map([], |row| Ok((row.get(0)?, stamp(row, 1)?)))?;
    Ok(stamps.collect::<Result<_, _>>()?)
}

/// Returns how far a file was read.
pub(super) fn progress(view: &View<'_>, path: &str) -> Result<Option<Progress>, WireError> {
    let mut statement = view.connection.prepare_cached(
        "SELECT size, modified_ns, inode, read_to, inside_long_line, head, tail FROM code_files WHERE path = ?",
    )?;
    let progress = statement.query_row([path], |row| {
        Ok(Progress {
            stamp: stamp(row, 0)?,
            offset: row.get::<_, i64>(3)?.cast_unsigned(),
            inside_long_line: row.get(4)?,
            head: row.get(5)?,
            tail: row.get(6)?,
        })
    });
    Ok(progress.optional()?)
}

/// Returns the other files of a file's session. Lines that several of them contain belong to the file that was read first.
pub(super) fn files_of_same_session(view: &View<'_>, path: &str) -> Result<Vec<String>, WireError> {
    let mut statement = view.connection.prepare_cached(
        "SELECT other.path FROM code_files file JOIN code_files other ON other.session = file.session
         WHERE file.path = ?1 AND other.path <> ?1",
    )?;
    let paths = statement.query_map([path], |row| row.get(0))?;
    Ok(paths.collect::<Result<_, _>>()?)
}

/// Reads a stamp from three columns.
fn stamp(row: &Row<'_>, first: usize) -> rusqlite::Result<Stamp> {
    Ok(Stamp {
        size: row.get::<_, i64>(first)?.cast_unsigned(),
        modified_ns: row.get(first + 1)?,
        inode: row.get::<_, i64>(first + 2)?.cast_unsigned(),
    })
}

/// Deletes a part of the rows of a file: what takes a few milliseconds. When none is left, it deletes the file, and its session if
/// it has no other file. The result says whether there is more to delete.
pub(super) fn delete_part(change: &mut Change<'_>, path: &str) -> Result<bool, WireError> {
    let connection = change.connection;
    let file: Option<(i64, Option<i64>, bool)> = connection
        .prepare_cached("SELECT seq, session, is_main FROM code_files WHERE path = ?")?
        .query_row([path], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((file, session, is_main)) = file else { return Ok(false) };
    if is_main {
        connection
            .prepare_cached(
                "UPDATE code_sessions SET cwd = NULL, custom_title = NULL, ai_title = NULL, summary = NULL,
                     prompt = NULL, model = NULL WHERE seq = ?",
            )?
            .execute([session])?;
    }
    let started = Instant::now();
    while delete_rows(connection, file, session)? {
        if started.elapsed() >= DELETE_TIME {
            return Ok(true);
        }
    }
    // Two lookups at the ends of an index.
    connection
        .prepare_cached(
            "UPDATE code_sessions SET
                 started_at = (SELECT min(created_at) FROM code_entries WHERE session = ?1 AND role IS NOT NULL),
                 updated_at = (SELECT max(created_at) FROM code_entries WHERE session = ?1 AND role IS NOT NULL),
                 skipped_lines = skipped_lines - (SELECT skipped_lines FROM code_files WHERE seq = ?2)
             WHERE seq = ?1",
        )?
        .execute(params![session, file])?;
    connection.prepare_cached("DELETE FROM code_files WHERE seq = ?")?.execute([file])?;
    connection
        .prepare_cached(
            "DELETE FROM code_sessions
             WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM code_files WHERE session = ?1)",
        )?
        .execute([session])?;
    Ok(false)
}

/// Deletes a few rows that belong to a file, and those of its session that no other file has. Returns whether there were any.
fn delete_rows(connection: &Connection, file: i64, session: Option<i64>) -> Result<bool, WireError> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM code_entries WHERE seq IN (SELECT seq FROM code_entries WHERE file = ? LIMIT ?)
         RETURNING role IS NOT NULL",
    )?;
    let entries = statement.query_map([file, ROWS_AT_ONCE], |row| row.get(0))?;
    let entries = entries.collect::<Result<Vec<bool>, _>>()?;
    let delete = |table: &str, condition: &str| {
        let rows = format!("SELECT rowid FROM {table} WHERE {condition} LIMIT {ROWS_AT_ONCE}");
        let sql = format!("DELETE FROM {table} WHERE rowid IN ({rows})");
        connection.prepare_cached(&sql)?.execute([file])
    };
    let points = delete("code_restore_points", "file = ?1")?;
    let summaries = delete("code_summaries", "file = ?1")?;
    let backups = delete(
        "code_backups",
        "session = (SELECT session FROM code_files file WHERE seq = ?1 AND NOT EXISTS (
             SELECT 1 FROM code_files other WHERE other.session = file.session AND other.seq <> ?1))",
    )?;
    let messages = entries.iter().filter(|is_message| **is_message).count();
    connection
        .prepare_cached(
            "UPDATE code_sessions SET message_count = message_count - ?2,
                 restore_point_count = restore_point_count - ?3 WHERE seq = ?1",
        )?
        .execute(params![session, messages as i64, points as i64])?;
    Ok(entries.len() + points + summaries + backups > 0)
}

/// The changes that a batch makes to its session.
#[derive(Default)]
struct Totals {
    messages: i64,
    restore_points: i64,
    skipped: i64,
    first_at: Option<i64>,
    last_at: Option<i64>,
    cwd: Option<String>,
    custom_title: Option<String>,
    ai_title: Option<String>,
    prompt: Option<String>,
    model: Option<String>,
}

/// Adds the contents of a batch of lines.
pub(super) fn add(change: &mut Change<'_>, found: &Found, batch: &Batch) -> Result<(), WireError> {
    let connection = change.connection;
    let mut place = place(connection, found, batch)?;
    let mut totals = Totals { skipped: batch.skipped, ..Totals::default() };
    for item in &batch.items {
        let Some(session) = place.session else {
            totals.skipped += 1;
            continue;
        };
        place.position = item.unix_ms.map_or(place.position, |at| at.max(place.position));
        add_item(connection, session, &place, item, &mut totals)?;
    }
    connection
        .prepare_cached(
            "UPDATE code_files SET position = ?2, skipped_lines = skipped_lines + ?3 WHERE seq = ?1",
        )?
        .execute(params![place.file, place.position, totals.skipped])?;
    if let Some(session) = place.session {
        connection
            .prepare_cached(
                "UPDATE code_sessions SET
                     message_count = message_count + ?2, restore_point_count = restore_point_count + ?3,
                     skipped_lines = skipped_lines + ?4,
                     started_at = coalesce(min(started_at, ?5), started_at, ?5),
                     updated_at = coalesce(max(updated_at, ?6), updated_at, ?6),
                     cwd = coalesce(cwd, ?7), custom_title = coalesce(?8, custom_title),
                     ai_title = coalesce(?9, ai_title), prompt = coalesce(prompt, ?10), model = coalesce(?11, model)
                 WHERE seq = ?1",
            )?
            .execute(params![
                session,
                totals.messages,
                totals.restore_points,
                totals.skipped,
                totals.first_at,
                totals.last_at,
                totals.cwd,
                totals.custom_title,
                totals.ai_title,
                totals.prompt,
                totals.model,
            ])?;
    }
    Ok(())
}

/// The file and session of a batch.
struct Place {
    file: i64,
    session: Option<i64>,
    position: i64,
    found_at: i64,
}

impl Place {
    /// When a line was written: its own time, else that of a preceding line, else that of the file.
    fn time_of(&self, item: &Item) -> i64 {
        let before = (self.position > 0).then_some(self.position);
        item.unix_ms.or(before).unwrap_or(self.found_at)
    }
}

/// Stores how far the file was read, and finds the session; creates both if they are new.
fn place(connection: &Connection, found: &Found, batch: &Batch) -> Result<Place, WireError> {
    let Progress { stamp, offset, inside_long_line, head, tail } = &batch.progress;
    let found_at = stamp.modified_ns / 1_000_000;
    let row = connection
        .prepare_cached("SELECT seq, session, position FROM code_files WHERE path = ?")?
        .query_row([&found.path], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (seq, session, position): (Option<i64>, Option<i64>, i64) = match row {
        Some((seq, session, position)) => (Some(seq), session, position),
        None => (None, None, 0),
    };
    let named =
        || found.session_id.as_ref().or_else(|| batch.items.iter().find_map(|item| item.session_id.as_ref()));
    let session = match (session, named()) {
        (Some(session), _) => Some(session),
        (None, Some(id)) => Some(session_of(connection, id, &found.project, found_at)?),
        (None, None) => None,
    };
    let file = connection
        .prepare_cached(
            "INSERT INTO code_files (seq, path, session, is_main, size, modified_ns, inode, read_to, inside_long_line,
                 head, tail, position)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (path) DO UPDATE SET session = ?3, size = ?5, modified_ns = ?6, inode = ?7, read_to = ?8,
                 inside_long_line = ?9, head = ?10, tail = ?11
             RETURNING seq",
        )?
        .query_row(
            params![
                seq,
                found.path,
                session,
                found.is_main,
                stamp.size.cast_signed(),
                stamp.modified_ns,
                stamp.inode.cast_signed(),
                offset.cast_signed(),
                inside_long_line,
                head,
                tail,
                position,
            ],
            |row| row.get(0),
        )?;
    Ok(Place { file, session, position, found_at })
}

fn session_of(connection: &Connection, id: &str, project: &str, found_at: i64) -> Result<i64, WireError> {
    connection
        .prepare_cached(
            "INSERT INTO code_sessions (id, project, found_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id, project, found_at])?;
    let mut statement = connection.prepare_cached("SELECT seq FROM code_sessions WHERE id = ?")?;
    Ok(statement.query_row([id], |row| row.get(0))?)
}

fn add_item(
    connection: &Connection,
    session: i64,
    place: &Place,
    item: &Item,
    totals: &mut Totals,
) -> Result<(), WireError> {
    if totals.cwd.is_none() {
        totals.cwd.clone_from(&item.cwd);
    }
    let (role, text) = match &item.kind {
        ItemKind::Entry { role, text, .. } => (Some(*role), text.as_str()),
        _ => (None, ""),
    };
    let is_new = match &item.id {
        Some(id) => add_node(connection, session, place, item, id, (role, text))?,
        None => false,
    };
    match &item.kind {
        ItemKind::Entry { model, prompt, .. } if is_new => {
            totals.messages += 1;
            let at = place.time_of(item);
            totals.first_at = Some(totals.first_at.map_or(at, |first| first.min(at)));
            totals.last_at = totals.last_at.max(Some(at));
            if let Some(model) = model.as_ref().filter(|model| *model != NO_MODEL) {
                totals.model = Some(model.clone());
            }
            if totals.prompt.is_none() {
                totals.prompt.clone_from(prompt);
            }
        }
        // A repetition of a line in this file or in another one of the session.
        ItemKind::Entry { .. } | ItemKind::Bookkeeping => {}
        ItemKind::Summary { leaf_id, title } => add_summary(connection, place.file, leaf_id, title)?,
        ItemKind::CustomTitle(title) => totals.custom_title = Some(title.clone()),
        ItemKind::AiTitle(title) => totals.ai_title = Some(title.clone()),
        ItemKind::Backups(backups) => {
            totals.restore_points += add_backups(connection, session, place, item, backups)?;
        }
        ItemKind::Unknown => totals.skipped += 1,
    }
    Ok(())
}

/// Adds a node to the tree and returns whether it is new.
fn add_node(
    connection: &Connection,
    session: i64,
    place: &Place,
    item: &Item,
    id: &str,
    (role, text): (Option<&str>, &str),
) -> Result<bool, WireError> {
    let parent: Option<i64> = match &item.parent_id {
        None => None,
        Some(parent_id) => connection
            .prepare_cached(
                "SELECT iif(role IS NULL, parent, seq) FROM code_entries WHERE id = ? AND session = ?",
            )?
            .query_row(params![parent_id, session], |row| row.get(0))
            .optional()?
            .flatten(),
    };
    let added = connection
        .prepare_cached(
            "INSERT INTO code_entries
                 (id, session, file, parent, role, position, created_at, line_at, line_bytes, text)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, session) DO NOTHING",
        )?
        .execute(params![
            id,
            session,
            place.file,
            parent,
            role,
            place.position,
            place.time_of(item),
            item.at.cast_signed(),
            item.length.cast_signed(),
            text,
        ])?;
    if added > 0 && role.is_some() {
        // Files of later sessions contain summaries too, so a summary can be read before the session it is about.
        connection
            .prepare_cached(
                "UPDATE code_sessions SET summary = coalesce(
                     (SELECT title FROM code_summaries WHERE leaf = ?2 ORDER BY file DESC LIMIT 1), summary)
                 WHERE seq = ?1 AND EXISTS (SELECT 1 FROM code_summaries WHERE leaf = ?2)",
            )?
            .execute(params![session, id])?;
    }
    Ok(added > 0)
}

fn add_summary(connection: &Connection, file: i64, leaf_id: &str, title: &str) -> Result<(), WireError> {
    connection
        .prepare_cached(
            "INSERT INTO code_summaries (leaf, file, title) VALUES (?1, ?2, ?3)
             ON CONFLICT (leaf, file) DO UPDATE SET title = ?3",
        )?
        .execute(params![leaf_id, file, title])?;
    connection
        .prepare_cached(
            "UPDATE code_sessions SET summary = ?2 WHERE seq IN (SELECT session FROM code_entries WHERE id = ?1)",
        )?
        .execute(params![leaf_id, title])?;
    Ok(())
}

/// Adds backups to the restore point of their prompt, and returns how many restore points were created.
fn add_backups(
    connection: &Connection,
    session: i64,
    place: &Place,
    item: &Item,
    backups: &Backups,
) -> Result<i64, WireError> {
    let files_of = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<Option<String>, WireError> {
        Ok(connection.prepare_cached(sql)?.query_row(values, |row| row.get(0)).optional()?)
    };
    let own = files_of(
        "SELECT files FROM code_restore_points WHERE session = ? AND message_id = ?",
        &[&session, &backups.message_id],
    )?;
    let before = match (&own, backups.complete) {
        // Another file of a prompt, in addition to those that were tracked before.
        (None, false) => files_of(
            "SELECT files FROM code_restore_points WHERE session = ? ORDER BY seq DESC LIMIT 1",
            &[&session],
        )?,
        _ => own.clone(),
    };
    let mut files: BTreeMap<String, Option<String>> =
        before.and_then(|before| serde_json::from_str(&before).ok()).unwrap_or_default();
    files.extend(backups.files.clone());
    // Before this prompt nothing was changed, so there is nothing to restore.
    if files.is_empty() || files.len() > MAX_TRACKED_FILES {
        return Ok(0);
    }
    connection
        .prepare_cached(
            "INSERT INTO code_restore_points (id, session, file, message_id, created_at, files)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (session, message_id) DO UPDATE SET files = ?6",
        )?
        .execute(params![
            restore_point_id(session_id(connection, session)?.as_str(), &backups.message_id),
            session,
            place.file,
            backups.message_id,
            place.time_of(item),
            serde_json::Value::from_iter(
                files.into_iter().map(|(path, name)| (path, serde_json::json!(name)))
            )
            .to_string(),
        ])?;
    Ok(i64::from(own.is_none()))
}

fn session_id(connection: &Connection, session: i64) -> Result<String, WireError> {
    let mut statement = connection.prepare_cached("SELECT id FROM code_sessions WHERE seq = ?")?;
    Ok(statement.query_row([session], |row| row.get(0))?)
}

/// Returns the id of a restore point: a UUID derived from its session and its prompt, so that it is the same when the index is
/// rebuilt. The id of the prompt is not enough, because a session that continues another one repeats its lines.
fn restore_point_id(session_id: &str, message_id: &str) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[session_id, "\0", message_id].concat().into_bytes());
    let hex: Vec<String> = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    // RFC 9562, 5.5: version 5, and one of the four digits of the variant.
    let version = format!("5{}", part(13, 16));
    let variant = format!("a{}", part(17, 20));
    format!("{}-{}-{version}-{variant}-{}", part(0, 8), part(8, 12), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_restore_point_is_derived_from_its_session_and_prompt() {
        let id = restore_point_id("s", "m");
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!((id.get(14..15), id.get(19..20)), (Some("5"), Some("a")));
        assert_eq!(id, "542056bb-552e-5e0d-a0e2-e992362c616b");
        assert_ne!(id, restore_point_id("sm", ""));
    }
}
