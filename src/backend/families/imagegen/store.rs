//! The queue and the gallery in the database. Input: a transaction, and what to read or change. Output: the JSON that clients
//! get. Each step of an entry is one transaction that first checks the entry's status. So if the worker and a client that
//! cancels race, the second one changes nothing.
//!
//! ```text
//! queued ─► running ─► completed │ failed │ cancelled
//!    │ ▲       │
//!    │ └───────┘ the server was restarted
//!    └─► cancelled
//! ```

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, View};
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::search::{mark_truncated, match_expression};
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

use super::job::Batch;
use super::picture::Format;

/// The path of an image is this and its id.
pub(super) const URL_PREFIX: &str = "/files/images/";

const STATUSES: [&str; 5] = ["queued", "running", "completed", "failed", "cancelled"];

/// Lists all groups, oldest first.
pub(super) fn list_groups(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    let mut statement =
        view.connection.prepare_cached("SELECT seq, id, name, created_at FROM image_groups ORDER BY seq")?;
    let mut rows = statement.query([])?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next()? {
        groups.push(group_json(view.connection, row)?);
    }
    Ok(Payload::trusted(array(&groups)))
}

/// Creates a group.
///
/// # Errors
/// When there are `max_groups` already, or the client has made its share of them.
pub(super) fn create_group(
    change: &mut Change<'_>,
    name: &str,
    client: &str,
    max_groups: i64,
) -> Result<Payload, WireError> {
    check_room(change.connection, "image_groups", "groups", client, max_groups)?;
    change
        .connection
        .prepare_cached("INSERT INTO image_groups (id, name, client, created_at) VALUES (?, ?, ?, ?)")?
        .execute(params![Uuid::v4().to_string(), name, client, change.unix_ms])?;
    let group = change
        .connection
        .prepare_cached("SELECT seq, id, name, created_at FROM image_groups ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| group_json(change.connection, row))?;
    Ok(Payload::trusted(group))
}

fn group_json(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<String> {
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM image_entries WHERE of_group = ? AND status = ?")?;
    let mut counts = Object::new();
    for status in STATUSES {
        let count = statement.query_row(params![row.get::<_, i64>(0)?, status], |row| row.get(0))?;
        counts = counts.integer(status, count);
    }
    let group = Object::new()
        .text("id", row.get_ref(1)?.as_str()?)
        .text("name", row.get_ref(2)?.as_str()?)
        .integer("createdAt", row.get(3)?)
        .raw("counts", &counts.finish());
    Ok(group.finish())
}

/// Returns the row of a group.
///
/// # Errors
/// When the id is unknown. The error names the member `groupId`.
pub(super) fn group_seq(connection: &Connection, fields: &Fields<'_>, id: &str) -> Result<i64, WireError> {
    find(connection, "SELECT seq FROM image_groups WHERE id = ?", id)?
        .ok_or_else(|| fields.wrong("groupId", "id of a group", "an unknown id"))
}

fn find(connection: &Connection, sql: &str, id: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()
}

fn count(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

const ENTRY_COLUMNS: &str = "image_entries.id, image_groups.id, job_id, status, prompt, negative_prompt, provider, model, width, height, \
     batch_size, batch_count, steps, cfg_scale, seed, params, batches_done, error, image_entries.created_at, \
     started_at, finished_at, image_entries.seq";

fn entry_json(row: &Row<'_>) -> rusqlite::Result<String> {
    let number = |row: &Row<'_>, column: usize| -> rusqlite::Result<String> {
        Ok(row.get::<_, Option<i64>>(column)?.map_or("null".to_owned(), |number| number.to_string()))
    };
    let mut entry = Object::new();
    for (name, column) in [("id", 0), ("groupId", 1), ("jobId", 2), ("status", 3), ("prompt", 4)] {
        entry = entry.text_or_null(name, row.get_ref(column)?.as_str_or_null()?);
    }
    for (name, column) in [("negativePrompt", 5), ("provider", 6), ("model", 7)] {
        entry = entry.text_or_null(name, row.get_ref(column)?.as_str_or_null()?);
    }
    for (name, column) in [("width", 8), ("height", 9), ("batchSize", 10), ("batchCount", 11), ("steps", 12)]
    {
        entry = entry.raw(name, &number(row, column)?);
    }
    entry = entry
        .number("cfgScale", row.get::<_, Option<f64>>(13)?)
        .raw("seed", &number(row, 14)?)
        .raw("params", row.get_ref(15)?.as_str()?)
        .integer("batchesDone", row.get(16)?)
        .text_or_null("error", row.get_ref(17)?.as_str_or_null()?);
    for (name, column) in [("createdAt", 18), ("startedAt", 19), ("finishedAt", 20)] {
        entry = entry.raw(name, &number(row, column)?);
    }
    Ok(entry.finish())
}

fn entry_of(connection: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM image_entries JOIN image_groups ON image_groups.seq = of_group
         WHERE image_entries.id = ?"
    );
    connection.prepare_cached(&sql)?.query_row([id], entry_json).optional()
}

/// Lists the entries of a group, newest first. Returns fewer than `limit` if the response would be too long.
pub(super) fn list_entries(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let group = group_seq(view.connection, fields, &fields.required_id("groupId")?)?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(500);
    let before = match fields.id("before")? {
        None => i64::MAX,
        Some(id) => find(view.connection, "SELECT seq FROM image_entries WHERE id = ?", &id)?
            .ok_or_else(|| fields.wrong("before", "id of an entry", "an unknown id"))?,
    };
    let sql = format!(
        "SELECT {ENTRY_COLUMNS} FROM image_entries JOIN image_groups ON image_groups.seq = of_group
         WHERE of_group = ? AND image_entries.seq < ? ORDER BY image_entries.seq DESC LIMIT ?"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let mut rows = statement.query([group, before, limit])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let entry = entry_json(row)?;
        bytes += entry.len();
        if bytes > view.limits.max_page_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(Payload::trusted(array(&entries)))
}

/// A new entry of a group.
pub(super) struct NewEntry {
    pub(super) client: String,
    pub(super) group: i64,
    pub(super) provider: &'static str,
    pub(super) batch: Batch,
    pub(super) batch_count: i64,
}

/// Adds an entry to the end of the queue.
///
/// # Errors
/// When `max_queued` entries are waiting already, or the client's share of them.
pub(super) fn create_entry(
    change: &mut Change<'_>,
    entry: &NewEntry,
    max_queued: i64,
) -> Result<Payload, WireError> {
    let waiting = "image_entries WHERE status = 'queued'";
    check_room(change.connection, waiting, "queued entries", &entry.client, max_queued)?;
    let id = Uuid::v4().to_string();
    let batch = &entry.batch;
    change
        .connection
        .prepare_cached(
            "INSERT INTO image_entries (id, of_group, prompt, negative_prompt, provider, model, width, height,
                 batch_size, batch_count, steps, cfg_scale, seed, params, client, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            id,
            entry.group,
            batch.prompt,
            batch.negative_prompt,
            entry.provider,
            batch.model,
            batch.width,
            batch.height,
            batch.size,
            entry.batch_count,
            batch.steps,
            batch.cfg_scale,
            batch.seed,
            batch.params,
            entry.client,
            change.unix_ms,
        ])?;
    entry_of(change.connection, &id)?.map(Payload::trusted).ok_or_else(lost)
}

/// Cancels an entry that is queued or running, and returns it. One that has already ended is returned unchanged: it can have
/// ended while the request was under way.
///
/// # Errors
/// When the id is unknown.
pub(super) fn cancel_entry(
    change: &mut Change<'_>,
    fields: &Fields<'_>,
    id: &str,
) -> Result<Payload, WireError> {
    end(change, id, &["queued", "running"], "cancelled", None)?;
    entry_of(change.connection, id)?
        .map(Payload::trusted)
        .ok_or_else(|| fields.wrong("id", "id of an entry", "an unknown id"))
}

/// Ends an entry that has one of these statuses, and emits `imagegen:job-completed` if it has a job. Returns `false` if it
/// has another status.
pub(super) fn end(
    change: &mut Change<'_>,
    id: &str,
    from: &[&str],
    status: &str,
    error: Option<&str>,
) -> Result<bool, WireError> {
    let current: Option<String> = change
        .connection
        .prepare_cached("SELECT status FROM image_entries WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if !current.is_some_and(|current| from.contains(&&*current)) {
        return Ok(false);
    }
    change
        .connection
        .prepare_cached("UPDATE image_entries SET status = ?2, error = ?3, finished_at = ?4 WHERE id = ?1")?
        .execute(params![id, status, error, change.unix_ms])?;
    emit_job(change, "imagegen:job-completed", id)?;
    Ok(true)
}

/// Emits an entry's job to all clients, if it has one.
fn emit_job(change: &mut Change<'_>, channel: &'static str, id: &str) -> Result<(), WireError> {
    let job = change
        .connection
        .prepare_cached(
            "SELECT job_id, id, status, started_at, finished_at, error FROM image_entries WHERE id = ? AND job_id NOT NULL",
        )?
        .query_row([id], |row| {
            let job_id: String = row.get(0)?;
            let time = |at: Option<i64>| at.map_or("null".to_owned(), |at| at.to_string());
            let job = Object::new()
                .text("id", &job_id)
                .text("entryId", row.get_ref(1)?.as_str()?)
                .text("status", row.get_ref(2)?.as_str()?)
                .raw("startedAt", &time(row.get(3)?))
                .raw("finishedAt", &time(row.get(4)?))
                .text_or_null("error", row.get_ref(5)?.as_str_or_null()?);
            Ok(Object::new().text("jobId", &job_id).raw("job", &job.finish()).finish())
        })
        .optional()?;
    if let Some(job) = job {
        change.emit(channel, Payload::trusted(job));
    }
    Ok(())
}

/// An entry of which the worker makes a batch.
pub(super) struct Task {
    pub(super) id: String,
    /// Whether the entry has been started.
    pub(super) is_running: bool,
    /// The name of its provider.
    pub(super) provider: String,
    pub(super) batch: Batch,
    pub(super) batches_done: i64,
    pub(super) batch_count: i64,
}

/// Queues the entries again that were running when the server ended, and forgets the clients of that time.
pub(super) fn requeue(change: &mut Change<'_>) -> Result<(), WireError> {
    for sql in [
        "UPDATE image_entries SET status = 'queued', client = NULL WHERE status IN ('queued', 'running')",
        "UPDATE image_groups SET client = NULL WHERE client NOT NULL",
    ] {
        change.connection.execute(sql, [])?;
    }
    Ok(())
}

/// A client with the entry whose turn it is among its entries. Those of earlier runs of the program have no client.
pub(super) type Waiting = (Option<String>, String);

/// Returns each client that has entries to make, with the oldest of them.
pub(super) fn waiting(view: &View<'_>) -> Result<Vec<Waiting>, WireError> {
    // SQLite takes `id` from the row that has the minimum.
    let sql = "SELECT client, id, min(seq) FROM image_entries WHERE status IN ('queued', 'running')
         GROUP BY client ORDER BY 3";
    let mut statement = view.connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns an entry to make a batch of; `None` if it has ended.
pub(super) fn task(view: &View<'_>, id: &str) -> Result<Option<Task>, WireError> {
    let sql = "SELECT id, provider, prompt, negative_prompt, model, width, height, batch_size, steps, cfg_scale, seed, params,
             batches_done, batch_count, status = 'running'
         FROM image_entries WHERE id = ? AND status IN ('queued', 'running')";
    let mut statement = view.connection.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let batch = Batch {
        prompt: row.get(2)?,
        negative_prompt: row.get(3)?,
        model: row.get(4)?,
        width: row.get(5)?,
        height: row.get(6)?,
        size: row.get(7)?,
        steps: row.get(8)?,
        cfg_scale: row.get(9)?,
        seed: row.get(10)?,
        params: row.get(11)?,
    };
    Ok(Some(Task {
        id: row.get(0)?,
        provider: row.get(1)?,
        batch,
        batches_done: row.get(12)?,
        batch_count: row.get(13)?,
        is_running: row.get(14)?,
    }))
}

/// Starts the job of an entry, or continues the one that a restart interrupted. Returns `false` if the entry is no longer
/// queued.
pub(super) fn start_job(change: &mut Change<'_>, id: &str) -> Result<bool, WireError> {
    let started = change
        .connection
        .prepare_cached(
            "UPDATE image_entries SET status = 'running', job_id = coalesce(job_id, ?2), started_at = coalesce(started_at, ?3)
             WHERE id = ?1 AND status = 'queued'",
        )?
        .execute(params![id, Uuid::v4().to_string(), change.unix_ms])?;
    if started > 0 {
        emit_job(change, "imagegen:job-created", id)?;
    }
    Ok(started > 0)
}

/// Returns the row and the job of an entry if it is running.
fn running(connection: &Connection, id: &str) -> rusqlite::Result<Option<(i64, String)>> {
    connection
        .prepare_cached("SELECT seq, job_id FROM image_entries WHERE id = ? AND status = 'running'")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Emits `imagegen:batch-started`. Returns `false` if the entry is no longer running.
pub(super) fn start_batch(change: &mut Change<'_>, id: &str, index: i64) -> Result<bool, WireError> {
    let running = running(change.connection, id)?;
    if let Some((_, job)) = &running {
        let event = Object::new().text("jobId", job).integer("batchIndex", index).finish();
        change.emit("imagegen:batch-started", Payload::trusted(event));
    }
    Ok(running.is_some())
}

/// An image whose file is written.
#[derive(Debug, Clone)]
pub(super) struct StoredImage {
    pub(super) id: String,
    pub(super) format: Format,
    pub(super) bytes: i64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) seed: Option<i64>,
}

/// Adds the images of a batch. Returns `false`, and adds nothing, if the entry is no longer running.
pub(super) fn finish_batch(
    change: &mut Change<'_>,
    id: &str,
    index: i64,
    images: &[StoredImage],
) -> Result<bool, WireError> {
    let Some((entry, job)) = running(change.connection, id)? else {
        return Ok(false);
    };
    for (position, image) in (0_i64..).zip(images) {
        change
            .connection
            .prepare_cached(
                "INSERT INTO images (id, entry, batch_index, position, mime_type, bytes, width, height, seed, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                image.id,
                entry,
                index,
                position,
                image.format.mime_type(),
                image.bytes,
                image.width,
                image.height,
                image.seed,
                change.unix_ms,
            ])?;
    }
    change
        .connection
        .prepare_cached("UPDATE image_entries SET batches_done = ?2 WHERE seq = ?1")?
        .execute([entry, index + 1])?;
    let sql = format!("{SELECT_IMAGES} WHERE entry = ? AND batch_index = ? ORDER BY position");
    let images = change
        .connection
        .prepare_cached(&sql)?
        .query_map([entry, index], image_json)?
        .collect::<Result<Vec<_>, _>>()?;
    let event = Object::new()
        .text("jobId", &job)
        .integer("batchIndex", index)
        .raw("images", &array(&images))
        .finish();
    change.emit("imagegen:batch-completed", Payload::trusted(event));
    Ok(true)
}

const SELECT_IMAGES: &str = "
    SELECT images.id, image_entries.id, job_id, image_groups.id, batch_index, mime_type, images.width, images.height,
        images.seed, prompt, model, images.created_at, images.seq
    FROM images JOIN image_entries ON image_entries.seq = entry JOIN image_groups ON image_groups.seq = of_group";

fn image_json(row: &Row<'_>) -> rusqlite::Result<String> {
    image_object(row).map(Object::finish)
}

fn image_object(row: &Row<'_>) -> rusqlite::Result<Object> {
    let id = row.get_ref(0)?.as_str()?;
    let seed: Option<i64> = row.get(8)?;
    let image = Object::new()
        .text("id", id)
        .text("entryId", row.get_ref(1)?.as_str()?)
        .text_or_null("jobId", row.get_ref(2)?.as_str_or_null()?)
        .text("groupId", row.get_ref(3)?.as_str()?)
        .integer("batchIndex", row.get(4)?)
        .text("url", &format!("{URL_PREFIX}{id}"))
        .text("mimeType", row.get_ref(5)?.as_str()?)
        .integer("width", row.get(6)?)
        .integer("height", row.get(7)?)
        .raw("seed", &seed.map_or("null".to_owned(), |seed| seed.to_string()))
        .text("prompt", row.get_ref(9)?.as_str()?)
        .text_or_null("model", row.get_ref(10)?.as_str_or_null()?)
        .integer("createdAt", row.get(11)?);
    Ok(image)
}

/// Returns whether more prompts match than a search looks at: the newest `max` up to an entry.
fn is_truncated(connection: &Connection, query: &str, last_entry: i64, max: i64) -> rusqlite::Result<bool> {
    let matches: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM image_prompt_index WHERE prompt MATCH ?1 AND rowid <= ?2
                 ORDER BY rowid DESC LIMIT ?3 + 1)",
        )?
        .query_row(params![query, last_entry, max], |row| row.get(0))?;
    Ok(matches > max)
}

/// Returns a page of the gallery, newest first. It has fewer images than `limit` if the response would be too long.
pub(super) fn list_images(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    const MAX_QUERY_BYTES: usize = 1 << 10;
    const MAX_MS: i64 = 1 << 53;
    let connection = view.connection;
    let group = fields.id("groupId")?.map(|id| group_seq(connection, fields, &id)).transpose()?;
    let row = |name: &str, sql: &str, what: &str| match fields.id(name)? {
        None => Ok(None),
        Some(id) => match find(connection, sql, &id)? {
            None => Err(fields.wrong(name, what, "an unknown id")),
            seq => Ok::<_, WireError>(seq),
        },
    };
    let entry = row("entryId", "SELECT seq FROM image_entries WHERE id = ?", "id of an entry")?;
    let before = row("before", "SELECT seq FROM images WHERE id = ?", "id of an image")?;
    // The entries of a queue are processed in order, so older images are those of this entry and of older ones.
    let last_entry = match before {
        None => i64::MAX,
        Some(image) => connection
            .prepare_cached("SELECT entry FROM images WHERE seq = ?")?
            .query_row([image], |row| row.get(0))?,
    };
    let query = fields.text("query", 0..=MAX_QUERY_BYTES)?.map(|query| match_expression(&query));
    let from = fields.integer("from", 0..=MAX_MS)?;
    let to = fields.integer("to", 0..=MAX_MS)?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let sql = format!(
        "{SELECT_IMAGES} WHERE images.seq < ?1 AND (?2 IS NULL OR of_group = ?2) AND (?3 IS NULL OR entry = ?3)
             AND (?4 IS NULL OR images.created_at >= ?4) AND (?5 IS NULL OR images.created_at <= ?5)
             AND (?6 = '' OR entry IN (SELECT rowid FROM image_prompt_index
                 WHERE prompt MATCH ?6 AND rowid <= ?8 ORDER BY rowid DESC LIMIT ?9))
         ORDER BY images.seq DESC LIMIT ?7"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let (query, max) = (query.unwrap_or_default(), view.limits.ranked_rows());
    let truncated = !query.is_empty() && is_truncated(connection, &query, last_entry, max)?;
    let before = before.unwrap_or(i64::MAX);
    let mut rows =
        statement.query(params![before, group, entry, from, to, query, limit + 1, last_entry, max])?;
    let (mut images, mut bytes, mut has_more, mut last) = (Vec::new(), 0, false, None);
    while let Some(row) = rows.next()? {
        let image = mark_truncated(image_object(row)?, truncated).finish();
        bytes += image.len();
        let is_full = images.len() as i64 == limit || bytes > view.limits.max_page_bytes;
        if is_full && !images.is_empty() {
            has_more = true;
            break;
        }
        last = Some(row.get::<_, String>(0)?);
        images.push(image);
    }
    let page = Object::new()
        .raw("images", &array(&images))
        .boolean("hasMore", has_more)
        .text_or_null("nextBefore", last.filter(|_| has_more).as_deref());
    Ok(Payload::trusted(page.finish()))
}

/// Returns the MIME type of an image; `None` if the id is unknown.
pub(super) fn mime_type(view: &View<'_>, id: &str) -> Result<Option<String>, WireError> {
    let mut statement = view.connection.prepare_cached("SELECT mime_type FROM images WHERE id = ?")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?)
}

/// Returns those of these ids that belong to no image.
pub(super) fn unknown(view: &View<'_>, ids: Vec<String>) -> Result<Vec<String>, WireError> {
    let mut statement = view.connection.prepare_cached("SELECT 1 FROM images WHERE id = ?")?;
    let mut unknown = Vec::new();
    for id in ids {
        if !statement.exists([&id])? {
            unknown.push(id);
        }
    }
    Ok(unknown)
}

/// Returns the size of all image files, in bytes.
pub(super) fn total_bytes(view: &View<'_>) -> Result<i64, WireError> {
    Ok(count(view.connection, "SELECT coalesce(sum(bytes), 0) FROM images")?)
}

/// The error for a row that is missing although the same transaction wrote it.
fn lost() -> WireError {
    WireError::new("Internal error")
}

/// Checks that a client can add one more of `what`, of which there can be `max`. One client can have nine tenths of them, so that
/// the others find room; and all but one, if they are few.
///
/// # Errors
/// When there are too many.
fn check_room(
    connection: &Connection,
    rows: &str,
    what: &str,
    client: &str,
    max: i64,
) -> Result<(), WireError> {
    let sql = format!("SELECT count(*), count(*) FILTER (WHERE client = ?) FROM {rows}");
    let (all, own): (i64, i64) =
        connection.prepare_cached(&sql)?.query_row([client], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if all >= max {
        return Err(too_many(what, max));
    }
    let share = (max - (max / 10).max(1)).max(1);
    if own >= share {
        return Err(too_many(&format!("{what} of one client"), share));
    }
    Ok(())
}

/// The error for exceeding a limit of the number of groups or entries.
fn too_many(what: &str, max: i64) -> WireError {
    let error = wrong("payload", &format!("at most {max} {what}"), "one more");
    WireError { message: format!("{what}: limit of {max} reached").into(), ..error }
}
