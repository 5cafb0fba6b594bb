//! The transcripts on disk. In: a folder, and how far each file was read before. Out: the list of files, and the new lines of a
//! file, in batches. Its functions block. It does not use the database.
//!
//! ```text
//! <folder>/<project>/<session>.jsonl                              a session
//! <folder>/<project>/<session>/subagents/**/agent-<id>.jsonl      what its subagents said
//! <folder>/<project>/agent-<id>.jsonl                             the same, of older versions
//! ```

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::config::CodeLimits;
use super::transcript::{self, Backups, Kind, LineError, MAX_ID_BYTES, Splitter};

/// Greatest depth of folders below a session's folder.
const MAX_FOLDER_DEPTH: usize = 6;
/// How much of a file's start, and how much before the last read position, is compared to recognise the file.
const MARK_BYTES: usize = 256;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Limits of a batch. Writing one takes a few milliseconds of the writing thread.
const MAX_BATCH_LINES: usize = 256;
const MAX_BATCH_BYTES: u64 = 1 << 20;

/// A transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its path, relative to the folder.
    pub path: String,
    /// The name of the project's folder.
    pub project: String,
    /// The session of this file or of its folder. Transcripts of older subagents name it in their lines only.
    pub session_id: Option<String>,
    /// Whether it is the main file of the session.
    pub is_main: bool,
    pub stamp: Stamp,
}

/// Properties that change when the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    pub size: u64,
    pub modified_ns: i64,
    pub inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Stamp { size: metadata.len(), modified_ns, inode: inode(metadata) }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// The result of walking through the folder.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub found: Vec<Found>,
    /// The prefixes of paths in folders that could not be read.
    pub unreadable: Vec<String>,
}

/// Finds every transcript below a folder. Links are not followed.
pub(super) fn walk(folder: &Path, max_files: usize) -> Walk {
    let mut walk = Walk::default();
    let projects = list(folder, "", &mut walk);
    for (project, kind) in projects {
        if kind == Node::Folder {
            walk_project(folder, &project, max_files, &mut walk);
        }
    }
    // Main files first: they know more about a session than the files of its subagents.
    walk.found.sort_by_key(|found| !found.is_main);
    walk
}

fn walk_project(folder: &Path, project: &str, max_files: usize, walk: &mut Walk) {
    for (name, kind) in list(&folder.join(project), &format!("{project}/"), walk) {
        let path = format!("{project}/{name}");
        match kind {
            Node::File => {
                let Some(stem) = name.strip_suffix(".jsonl") else { continue };
                let is_main = !stem.starts_with("agent-");
                if is_main && !(1..=MAX_ID_BYTES).contains(&stem.len()) {
                    continue;
                }
                let session_id = is_main.then(|| stem.to_owned());
                add(folder, Found::new(path, project, session_id, is_main), max_files, walk);
            }
            Node::Folder if (1..=MAX_ID_BYTES).contains(&name.len()) => {
                let subagents = format!("{path}/subagents");
                if fs::symlink_metadata(folder.join(&subagents)).is_ok_and(|metadata| metadata.is_dir()) {
                    walk_subagents(folder, (project, &name), &subagents, max_files, walk);
                }
            }
            _ => {}
        }
    }
}

fn walk_subagents(
    folder: &Path,
    (project, session_id): (&str, &str),
    start: &str,
    max_files: usize,
    walk: &mut Walk,
) {
    let mut open = vec![(start.to_owned(), 1)];
    while let Some((at, depth)) = open.pop() {
        for (name, kind) in list(&folder.join(&at), &format!("{at}/"), walk) {
            let path = format!("{at}/{name}");
            match kind {
                Node::Folder if depth < MAX_FOLDER_DEPTH => open.push((path, depth + 1)),
                Node::File if name.starts_with("agent-") && name.ends_with(".jsonl") => {
                    let found = Found::new(path, project, Some(session_id.to_owned()), false);
                    add(folder, found, max_files, walk);
                }
                _ => {}
            }
        }
    }
}

impl Found {
    fn new(path: String, project: &str, session_id: Option<String>, is_main: bool) -> Found {
        Found { path, project: project.to_owned(), session_id, is_main, stamp: Stamp::default() }
    }
}

fn add(folder: &Path, mut found: Found, max_files: usize, walk: &mut Walk) {
    if walk.found.len() >= max_files {
        return;
    }
    if let Ok(metadata) = fs::symlink_metadata(folder.join(&found.path)) {
        found.stamp = Stamp::of(&metadata);
        walk.found.push(found);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    File,
    Folder,
    Other,
}

/// Lists a folder by name, without names that are not UTF-8.
fn list(folder: &Path, path: &str, walk: &mut Walk) -> Vec<(String, Node)> {
    let Ok(entries) = fs::read_dir(folder) else {
        walk.unreadable.push(path.to_owned());
        return Vec::new();
    };
    let mut nodes = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else {
            walk.unreadable.push(path.to_owned());
            break;
        };
        let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
        let node = match (kind.is_file(), kind.is_dir()) {
            (true, _) => Node::File,
            (_, true) => Node::Folder,
            _ => Node::Other,
        };
        nodes.push((name, node));
    }
    nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
    nodes
}

/// How far a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Progress {
    pub stamp: Stamp,
    /// Everything before this was read. It is the start of a line, or inside of a line that is too long.
    pub offset: u64,
    pub inside_long_line: bool,
    /// The first bytes of the file.
    pub head: Vec<u8>,
    /// The bytes before `offset`.
    pub tail: Vec<u8>,
}

/// The content of one line that is indexed.
#[derive(Debug)]
pub(super) struct Item {
    pub at: u64,
    pub length: u64,
    pub session_id: Option<String>,
    pub cwd: Option<String>,
    pub unix_ms: Option<i64>,
    pub id: Option<String>,
    pub parent_id: Option<String>,
    pub kind: ItemKind,
}

#[derive(Debug)]
pub(super) enum ItemKind {
    Entry { role: &'static str, model: Option<String>, text: String, prompt: Option<String> },
    Summary { leaf_id: String, title: String },
    CustomTitle(String),
    AiTitle(String),
    Backups(Backups),
    Bookkeeping,
    Unknown,
}

/// Several lines, and how far the file was read with them.
#[derive(Debug)]
pub(super) struct Batch {
    pub items: Vec<Item>,
    /// The number of lines that could not be used.
    pub skipped: i64,
    pub progress: Progress,
    /// Whether this is the end of the file.
    pub is_last: bool,
}

/// A file that is read from the last read position.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    splitter: Splitter,
    progress: Progress,
    read_to: u64,
    limits: CodeLimits,
    /// Whether it is a new or rewritten file: what the index has of it is no longer valid.
    pub is_new: bool,
    /// Bytes that were read since this was last taken.
    pub bytes_read: u64,
}

impl Tail {
    /// Opens a file at its read position, or at its start if it is new or rewritten.
    pub(super) fn open(path: &Path, before: &Progress, limits: CodeLimits) -> io::Result<Tail> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let stamp = Stamp::of(&metadata);
        let mut bytes_read = 0;
        // A file with the same size and another time was rewritten, and so was one that is shorter.
        let may_have_grown =
            before.offset > 0 && stamp.inode == before.stamp.inode && stamp.size > before.stamp.size;
        let is_new = !(may_have_grown && is_known(&mut file, before, &mut bytes_read)?);
        let mut progress = if is_new { Progress::default() } else { before.clone() };
        progress.stamp = stamp;
        if is_new {
            progress.head = read_at(&mut file, 0, MARK_BYTES.min(to_usize(stamp.size)))?;
            bytes_read += progress.head.len() as u64;
        }
        file.seek(SeekFrom::Start(progress.offset))?;
        let splitter = Splitter::new(progress.offset, progress.inside_long_line, limits.max_line_bytes);
        let read_to = progress.offset;
        Ok(Tail { file, splitter, progress, read_to, limits, is_new, bytes_read })
    }

    /// Returns the next lines, up to the size that the file had when it was opened.
    pub(super) fn next_batch(&mut self) -> io::Result<Batch> {
        let mut items = Vec::new();
        let mut skipped = 0;
        let from = self.read_to;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut is_last = false;
        while !is_last && items.len() < MAX_BATCH_LINES && self.read_to - from < MAX_BATCH_BYTES {
            let left = to_usize(self.progress.stamp.size.saturating_sub(self.read_to));
            let room = chunk.len().min(left);
            let read = match chunk.get_mut(..room) {
                Some(room) => self.file.read(room)?,
                None => 0,
            };
            let bytes = chunk.get(..read).unwrap_or_default();
            is_last = read == 0;
            self.read_to += read as u64;
            self.bytes_read += read as u64;
            let max_text = self.limits.max_indexed_text_bytes;
            self.splitter.feed(bytes, |piece| match piece.line.map(|line| item(piece.at, line, max_text)) {
                Some(Ok(Some(item))) => items.push(item),
                Some(Ok(None)) => {}
                Some(Err(_)) | None => skipped += 1,
            });
        }
        if is_last {
            // A last line without a line feed can still be complete: a part of an object is not a valid object.
            let (at, rest) = self.splitter.rest();
            if let Ok(Some(item)) = item(at, rest, self.limits.max_indexed_text_bytes) {
                items.push(item);
                self.splitter.take_rest();
            }
        }
        let progress = &mut self.progress;
        progress.offset = self.splitter.rest().0;
        progress.inside_long_line = self.splitter.is_inside_long_line();
        let marked = MARK_BYTES.min(to_usize(progress.offset));
        progress.tail = read_at(&mut self.file, progress.offset - marked as u64, marked)?;
        self.bytes_read += progress.tail.len() as u64;
        self.file.seek(SeekFrom::Start(self.read_to))?;
        let mut progress = progress.clone();
        if !is_last {
            // If this batch is the last one for now, the stamp must be one of a file that has grown since.
            progress.stamp.size = progress.offset;
        }
        Ok(Batch { items, skipped, progress, is_last })
    }
}

/// Whether a file has the same start as before, and the same bytes before the read position.
fn is_known(file: &mut File, before: &Progress, bytes_read: &mut u64) -> io::Result<bool> {
    let head = read_at(file, 0, before.head.len())?;
    let tail_at = before.offset.saturating_sub(before.tail.len() as u64);
    let tail = read_at(file, tail_at, before.tail.len())?;
    *bytes_read += (head.len() + tail.len()) as u64;
    Ok(head == before.head && tail == before.tail)
}

/// Reads some bytes from a position on; fewer at the end of the file.
pub(super) fn read_at(file: &mut File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Decodes a line; `None` for an empty one.
fn item(at: u64, bytes: &[u8], max_text_bytes: usize) -> Result<Option<Item>, LineError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line = transcript::decode(bytes)?;
    let kind = match line.kind {
        Kind::Entry(entry) => ItemKind::Entry {
            role: entry.role,
            text: entry.text(max_text_bytes),
            prompt: entry.prompt().filter(|_| !line.sidechain),
            model: entry.model.filter(|_| !line.sidechain),
        },
        Kind::Summary { leaf_id, title } => ItemKind::Summary { leaf_id, title },
        Kind::CustomTitle(title) => ItemKind::CustomTitle(title),
        Kind::AiTitle(title) => ItemKind::AiTitle(title),
        Kind::Backups(backups) => ItemKind::Backups(backups),
        Kind::Bookkeeping => ItemKind::Bookkeeping,
        Kind::Unknown => ItemKind::Unknown,
    };
    Ok(Some(Item {
        at,
        length: bytes.len() as u64,
        session_id: line.session_id,
        cwd: line.cwd,
        unix_ms: line.at,
        id: line.id,
        parent_id: line.parent_id,
        kind,
    }))
}
