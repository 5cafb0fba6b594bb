//! Sessions of a coding agent, read from the transcripts that it leaves on the disk (specification, "Code Channels"):
//! searchable, and with the files that it had backed up put back where a client wants them.
//!
//! `Session {id, project, cwd, title, model, messageCount, restorePointCount, startedAt, updatedAt, skippedLines}`
//! `TranscriptEntry {id, sessionId, parentId, role, content, model?, usage?, sidechain?, createdAt}`
//!
//! ```text
//! *.jsonl ─► scan ─► transcript ─► index (SQLite, FTS5) ◄─ follow ◄─ request
//!    └────────────────── a page's lines ──────────────────────────────┘
//! ```
//!
//! The transcripts are another program's and are never written to. The index says what is where; the lines of a page are
//! read from the files when they are asked for. A changed file is read from where it was read to, an unchanged one not
//! at all, not even after a restart.

mod follow;
mod index;
mod points;
mod restore;
mod scan;
pub mod transcript;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::db::View;
use super::encode::{Object, array};
use super::registry::{Channel, Direction};
use super::search::{MARK_END, MARK_START, best_hits, marked_html, match_expression};
use super::validate::Fields;

pub use follow::Code;

use transcript::Kind;

pub(super) use index::TABLES;

const MAX_PROJECT_BYTES: usize = 255;
const MAX_QUERY_BYTES: usize = 1 << 10;
const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];
/// What stands around the files of a restore point, and around the content of an entry, at most.
const FRAME_BYTES: usize = 512;

/// Where the transcripts are, and where their backups may be put back.
#[derive(Debug, Clone)]
pub struct CodeConfig {
    /// The folder of the transcripts, one folder a project in it. Without one there are no sessions.
    ///
    /// Default none; the command reads `~/.claude/projects`. Backups are read from `file-history` beside it.
    pub code_dir: Option<PathBuf>,
    /// The folder below which `code:restore` writes, and nowhere else. Made when it is needed, for this user alone.
    ///
    /// Default `restored` in the folder of the database.
    pub restore_root: PathBuf,
    /// The limits of reading and of putting back.
    pub limits: CodeLimits,
}

impl CodeConfig {
    /// The defaults, beside a database.
    pub fn new(data_dir: impl Into<PathBuf>) -> CodeConfig {
        let restore_root = data_dir.into().join("restored");
        CodeConfig { code_dir: None, restore_root, limits: CodeLimits::default() }
    }
}

/// How much of the transcripts is read, and how much is put back.
#[derive(Debug, Clone)]
pub struct CodeLimits {
    /// How old the last look at the disk may be when a request is answered. With an older one it looks again first.
    ///
    /// Default 1 s.
    pub scan_interval: Duration,
    /// How long a request waits for a scan. Then it is answered from what is indexed so far, and the scan goes on.
    ///
    /// Default 2 s.
    pub scan_wait: Duration,
    /// Most transcripts that are followed, those of subagents included. The rest is not seen.
    ///
    /// Default 100 000.
    pub max_files: usize,
    /// Longest line of a transcript, in bytes. A longer one is skipped and counted, and never held in memory.
    ///
    /// Default 8 MiB: images stand in lines, and such a line still fits into a message.
    pub max_line_bytes: usize,
    /// How much of an entry's text is indexed, in bytes. Search does not see what is behind.
    ///
    /// Default 64 KiB: the output of tools may be long, and the index holds each text once.
    pub max_indexed_text_bytes: usize,
    /// Largest file that is put back, in bytes. A larger one is skipped, and is not listed in a restore point.
    ///
    /// Default 64 MiB.
    pub max_restore_file_bytes: u64,
    /// Most bytes that one request puts back. What comes behind is skipped.
    ///
    /// Default 1 GiB.
    pub max_restore_bytes: u64,
}

impl Default for CodeLimits {
    fn default() -> CodeLimits {
        CodeLimits {
            scan_interval: Duration::from_secs(1),
            scan_wait: Duration::from_secs(2),
            max_files: 100_000,
            max_line_bytes: 8 << 20,
            max_indexed_text_bytes: 64 << 10,
            max_restore_file_bytes: 64 << 20,
            max_restore_bytes: 1 << 30,
        }
    }
}

/// What was read from the disk for the index since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeStats {
    /// How often the folder was looked through.
    pub scans: u64,
    /// How many files were opened because they had changed.
    pub files_read: u64,
    /// How many bytes were read from them.
    pub bytes_read: u64,
}

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "code:list-sessions",
        direction: Direction::Request,
        payload: "{ project?: string, limit?: number }",
        response: "Session[]",
        description: "List coding sessions, of one project or of all, last updated first: 1..=500 of them, 50 by default",
        example: r#"{"limit":20}"#,
    },
    Channel {
        name: "code:get-session",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "Session | null",
        description: "Get a coding session",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
    },
    Channel {
        name: "code:get-transcript",
        direction: Direction::Request,
        payload: "TranscriptQuery",
        response: "TranscriptPage",
        description: "Get the last entries of a session, or those just before or after an entry: 1..=500, 100 by default, oldest first",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000","limit":50,"roles":["user","assistant"]}"#,
    },
    Channel {
        name: "code:search-transcript",
        direction: Direction::Request,
        payload: "{ query: string, sessionId?: string, limit?: number }",
        response: "TranscriptSearchResult[]",
        description: "Search the entries' text, best first: 1..=100 results, 20 by default",
        example: r#"{"query":"parser"}"#,
    },
    Channel {
        name: "code:list-restore-points",
        direction: Direction::Request,
        payload: "{ sessionId: string }",
        response: "RestorePoint[]",
        description: "List the states of files that a session has backed up, newest first",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000"}"#,
    },
    Channel {
        name: "code:restore",
        direction: Direction::Request,
        payload: "{ restorePointId: string, targetDir: string, overwrite?: boolean }",
        response: "RestoreResult",
        description: "Put the files of a restore point into a folder below the restore root; those that exist are skipped unless told otherwise",
        example: r#"{"restorePointId":"550e8400-e29b-51d4-a716-446655440000","targetDir":"before-the-change"}"#,
    },
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
/** `messageCount` counts the entries of the transcript, `skippedLines` its lines that could not be used. */
export interface Session {
  id: string;
  project: string;
  cwd: string | null;
  title: string;
  model: string | null;
  messageCount: number;
  restorePointCount: number;
  startedAt: number;
  updatedAt: number;
  skippedLines: number;
}

/** Either `before` or `after`, which are ids of entries. */
export interface TranscriptQuery {
  sessionId: string;
  limit?: number;
  before?: string;
  after?: string;
  roles?: Role[];
}

/** `sidechain` marks what a subagent said or was told. An entry that is too long to send has one block `{type: "too_long", bytes}`. */
export interface TranscriptEntry {
  id: string;
  sessionId: string;
  parentId: string | null;
  role: Role;
  content: ContentBlock[];
  model?: string;
  usage?: { inputTokens: number, outputTokens: number };
  sidechain?: true;
  createdAt: number;
}

/**
 * Oldest first. `total` counts the entries of these roles; `hasMore` tells of more in the direction of the query;
 * `nextBefore` and `nextAfter` are the `before` and `after` of the pages around this one, null where there are none.
 */
export interface TranscriptPage {
  entries: TranscriptEntry[];
  total: number;
  hasMore: boolean;
  nextBefore: string | null;
  nextAfter: string | null;
}

/** `snippet` is HTML: hits in `<mark>`, everything else escaped. */
export interface TranscriptSearchResult {
  sessionId: string;
  entryId: string;
  role: Role;
  snippet: string;
  score: number;
  createdAt: number;
}

/** Files as they were before the prompt `entryId`; those whose backup is there. */
export interface RestorePoint {
  id: string;
  sessionId: string;
  entryId: string | null;
  label: string;
  createdAt: number;
  files: { path: string, size: number, sha1: string }[];
}

/** `restored` has paths below `targetDir`, `skipped` paths as the restore point has them. */
export interface RestoreResult {
  restorePointId: string;
  targetDir: string;
  restored: string[];
  skipped: { path: string, reason: string }[];
}
"#;

/// Registers the family's handlers.
pub fn register(server: &Server, code: &Code) {
    on_read(server, code, "code:list-sessions", list_sessions);
    on_read(server, code, "code:get-session", get_session);
    on_read(server, code, "code:get-transcript", get_transcript);
    on_read(server, code, "code:search-transcript", search_transcript);
    let handler = code.clone();
    server.on_request("code:list-restore-points", move |payload: Payload, cx| {
        let code = handler.clone();
        async move { points::list(&code, &cx.server(), payload).await }
    });
    let handler = code.clone();
    server.on_request("code:restore", move |payload: Payload, cx| {
        let code = handler.clone();
        async move { points::restore(&code, &cx.server(), payload).await }
    });
}

type Read = fn(&View<'_>, &Fields<'_>, &CodeConfig) -> Result<Payload, WireError>;

fn on_read(server: &Server, code: &Code, channel: &str, handler: Read) {
    let code = code.clone();
    server.on_request(channel, move |payload: Payload, cx| {
        let code = code.clone();
        async move {
            code.refresh(&cx.server()).await;
            let config = code.config().clone();
            code.read(move |view| handler(view, &Fields::decode(&payload)?, &config)).await
        }
    });
}

/// A session that has nothing, not even a line that was skipped, is not shown: there are files with a summary of another
/// session alone.
const SESSIONS: &str = "SELECT id, project, cwd, coalesce(custom_title, ai_title, summary, prompt, id), model, message_count,
         restore_point_count, coalesce(started_at, found_at), coalesce(updated_at, found_at) AS updated, skipped_lines
     FROM code_sessions WHERE message_count + restore_point_count + skipped_lines > 0";

fn list_sessions(view: &View<'_>, fields: &Fields<'_>, _: &CodeConfig) -> Result<Payload, WireError> {
    let project = fields.text("project", 1..=MAX_PROJECT_BYTES)?;
    let limit = fields.integer("limit", 1..=500)?.unwrap_or(50);
    let sql = format!("{SESSIONS} AND (?1 IS NULL OR project = ?1) ORDER BY updated DESC, id LIMIT ?2");
    let mut statement = view.connection.prepare_cached(&sql)?;
    let sessions = statement.query_map(params![project, limit], session_json)?;
    Ok(Payload::trusted(array(&sessions.collect::<Result<Vec<_>, _>>()?)))
}

fn get_session(view: &View<'_>, fields: &Fields<'_>, _: &CodeConfig) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let sql = format!("{SESSIONS} AND id = ?");
    let session = view.connection.prepare_cached(&sql)?.query_row([id], session_json).optional()?;
    Ok(Payload::trusted(session.unwrap_or_else(|| "null".to_owned())))
}

/// Which entries a page is made of.
struct Range {
    session: i64,
    /// `,user,tool,`, or nothing for all.
    roles: Option<String>,
    cursor: Option<(i64, i64)>,
    forward: bool,
}

fn get_transcript(view: &View<'_>, fields: &Fields<'_>, config: &CodeConfig) -> Result<Payload, WireError> {
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
        Some(id) => Some(place_of(view.connection, session, &id)?.ok_or_else(|| {
            let name = if forward { "after" } else { "before" };
            fields.wrong(name, "id of an entry in the session", "an unknown id")
        })?),
    };
    let range = Range { session, roles, cursor, forward };
    let page = read_page(view, &range, &session_id, limit, config)?;
    let total: i64 = view
        .connection
        .prepare_cached(
            "SELECT count(*) FROM code_entries
             WHERE session = ?1 AND role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || role || ',') > 0)",
        )?
        .query_row(params![session, range.roles], |row| row.get(0))?;
    let older = page.first.as_ref().filter(|first| first.has_more).map(|first| first.id.as_str());
    let newer = page.last.as_ref().filter(|last| last.has_more).map(|last| last.id.as_str());
    let has_more = if forward { newer.is_some() } else { older.is_some() };
    let json = Object::new().raw("entries", &array(&page.entries)).integer("total", total);
    let json = json.boolean("hasMore", has_more);
    Ok(Payload::trusted(json.text_or_null("nextBefore", older).text_or_null("nextAfter", newer).finish()))
}

/// An end of a page.
struct End {
    id: String,
    place: (i64, i64),
    /// Whether there are entries beyond it.
    has_more: bool,
}

#[derive(Default)]
struct Page {
    entries: Vec<String>,
    first: Option<End>,
    last: Option<End>,
}

/// The entries of a page, oldest first; fewer than were asked for if they would be too long to send.
fn read_page(
    view: &View<'_>,
    range: &Range,
    session_id: &str,
    limit: i64,
    config: &CodeConfig,
) -> Result<Page, WireError> {
    let (than, order) = if range.forward { (">", "ASC") } else { ("<", "DESC") };
    let sql = format!(
        "SELECT e.id, e.position, e.seq, e.line_at, e.line_bytes, f.path, p.id, e.role, e.created_at
         FROM code_entries e JOIN code_files f ON f.seq = e.file LEFT JOIN code_entries p ON p.seq = e.parent
         WHERE e.session = ?1 AND e.role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || e.role || ',') > 0)
             AND (?3 IS NULL OR (e.position, e.seq) {than} (?3, ?4))
         ORDER BY e.position {order}, e.seq {order} LIMIT ?5"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let (position, seq) = range.cursor.unzip();
    let mut rows = statement.query(params![range.session, range.roles, position, seq, limit])?;
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
            Ok::<_, WireError>(End { id: row.get(0)?, place: (row.get(1)?, row.get(2)?), has_more: false })
        };
        if page.first.is_none() {
            page.first = Some(end()?);
        }
        page.last = Some(end()?);
    }
    if !range.forward {
        page.entries.reverse();
        std::mem::swap(&mut page.first, &mut page.last);
    }
    for (end, than) in [(&mut page.first, "<"), (&mut page.last, ">")] {
        if let Some(end) = end {
            end.has_more = has_beyond(view.connection, range, end.place, than)?;
        }
    }
    Ok(page)
}

fn has_beyond(
    connection: &Connection,
    range: &Range,
    (position, seq): (i64, i64),
    than: &str,
) -> Result<bool, WireError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM code_entries
             WHERE session = ?1 AND role IS NOT NULL AND (?2 IS NULL OR instr(?2, ',' || role || ',') > 0)
                 AND (position, seq) {than} (?3, ?4))"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row(params![range.session, range.roles, position, seq], |row| row.get(0))?)
}

/// An entry, with its content as it stands in the transcript.
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
    let changed = || WireError::new("the transcript has changed meanwhile: ask again");
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

fn search_transcript(view: &View<'_>, fields: &Fields<'_>, _: &CodeConfig) -> Result<Payload, WireError> {
    let query = match_expression(&fields.required_text("query", 0..=MAX_QUERY_BYTES)?);
    let limit = fields.integer("limit", 1..=100)?.unwrap_or(20);
    let session = match fields.id("sessionId")? {
        None => None,
        Some(id) => Some(session_seq(view.connection, fields, &id)?),
    };
    if query.is_empty() {
        return Ok(Payload::trusted("[]".to_owned()));
    }
    let best = best_hits("code_entry_index", "SELECT seq FROM code_entries WHERE session = ?2");
    let sql = format!(
        "{best} SELECT s.id, e.id, e.role, snippet(code_entry_index, 0, '{MARK_START}', '{MARK_END}', '…', 24),
             score, e.created_at
         FROM best CROSS JOIN code_entry_index
                 ON code_entry_index.rowid = best.seq AND code_entry_index MATCH ?1
             JOIN code_entries e ON e.seq = best.seq JOIN code_sessions s ON s.seq = e.session
         ORDER BY score, best.seq DESC"
    );
    let mut statement = view.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![query, session, limit])?;
    let mut results = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let result = Object::new()
            .text("sessionId", row.get_ref(0)?.as_str()?)
            .text("entryId", row.get_ref(1)?.as_str()?)
            .text("role", row.get_ref(2)?.as_str()?)
            .text("snippet", &marked_html(row.get_ref(3)?.as_str()?))
            // FTS5 counts downwards: the best match has the smallest rank.
            .number("score", -row.get::<_, f64>(4)?)
            .integer("createdAt", row.get(5)?)
            .finish();
        // A snippet has so many words, but what tools print may have long ones.
        bytes += result.len();
        if bytes > view.limits.max_page_bytes && !results.is_empty() {
            break;
        }
        results.push(result);
    }
    Ok(Payload::trusted(array(&results)))
}

fn session_seq(connection: &Connection, fields: &Fields<'_>, id: &str) -> Result<i64, WireError> {
    let seq = connection
        .prepare_cached("SELECT seq FROM code_sessions WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    seq.ok_or_else(|| fields.wrong("sessionId", "id of a session", "an unknown id"))
}

/// Where an entry stands in its session.
fn place_of(connection: &Connection, session: i64, id: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, seq FROM code_entries WHERE id = ? AND session = ? AND role IS NOT NULL",
    )?;
    statement.query_row(params![id, session], |row| Ok((row.get(0)?, row.get(1)?))).optional()
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
