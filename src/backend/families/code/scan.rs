//! The transcripts on the disk. In: a folder, and how far each file was read before. Out: which files there are, and the
//! lines that were added to one, a batch at a time. Blocks, so it runs where it may; knows no database.
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

/// How deep folders lie inside one another below a session's.
const MAX_FOLDER_DEPTH: usize = 6;
/// How much of a file's start, and of what stands before the place read last, is compared to know the file again.
const MARK_BYTES: usize = 256;
/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Where a batch ends: with it the writing thread is busy for a few milliseconds.
const MAX_BATCH_LINES: usize = 256;
const MAX_BATCH_BYTES: u64 = 1 << 20;

/// A transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its path in the folder.
    pub path: String,
    /// The name of the project's folder.
    pub project: String,
    /// The session whose file it is, or in whose folder it lies. Older subagents say it in their lines.
    pub session_id: Option<String>,
    /// Whether it is the session's own file.
    pub is_main: bool,
    pub stamp: Stamp,
}

/// What changes when a file does.
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

/// What a walk saw.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub found: Vec<Found>,
    /// The beginnings of paths of which nothing can be said, because a folder could not be read.
    pub unreadable: Vec<String>,
}

/// Every transcript below a folder. Links are not followed.
pub(super) fn walk(folder: &Path, max_files: usize) -> Walk {
    let mut walk = Walk::default();
    let projects = list(folder, "", &mut walk);
    for (project, kind) in projects {
        if kind == Node::Folder {
            walk_project(folder, &project, max_files, &mut walk);
        }
    }
    // What a session's own file says of it comes before what its subagents say.
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

/// What stands in a folder, by name; names that are not UTF-8 left out.
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
    /// All before this was read. Whole lines, but for the inside of one that is too long.
    pub offset: u64,
    pub inside_long_line: bool,
    /// The first bytes of the file.
    pub head: Vec<u8>,
    /// The bytes before `offset`.
    pub tail: Vec<u8>,
}

/// What one line adds to the index.
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

/// Lines that belong together, and how far the file was read with them.
#[derive(Debug)]
pub(super) struct Batch {
    pub items: Vec<Item>,
    /// Lines of which nothing can be used.
    pub skipped: i64,
    pub progress: Progress,
    /// Whether this is the end of the file.
    pub is_last: bool,
}

/// A file that is being read from where it was read to before.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    splitter: Splitter,
    progress: Progress,
    read_to: u64,
    limits: CodeLimits,
    /// Whether it is another file than before, or was written anew: what is known of it is worth nothing.
    pub is_new: bool,
    /// Bytes read so far.
    pub bytes_read: u64,
}

impl Tail {
    /// Opens a file.
    pub(super) fn open(path: &Path, before: &Progress, limits: CodeLimits) -> io::Result<Tail> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let stamp = Stamp::of(&metadata);
        let mut bytes_read = 0;
        // A file that has the same size and another time was written anew, and so was one that is shorter.
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

    /// The next lines. What is read is what was there when the file was opened.
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
            // Without its end of line a line may still be whole: no beginning of an object is an object.
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
            // Should this batch be the last for now, the file must look like one that has grown since.
            progress.stamp.size = progress.offset;
        }
        Ok(Batch { items, skipped, progress, is_last })
    }
}

/// Whether a file begins as before, and has the same bytes before the place up to which it was read.
fn is_known(file: &mut File, before: &Progress, bytes_read: &mut u64) -> io::Result<bool> {
    let head = read_at(file, 0, before.head.len())?;
    let tail_at = before.offset.saturating_sub(before.tail.len() as u64);
    let tail = read_at(file, tail_at, before.tail.len())?;
    *bytes_read += (head.len() + tail.len()) as u64;
    Ok(head == before.head && tail == before.tail)
}

/// So many bytes from a place on, or as many as there are.
pub(super) fn read_at(file: &mut File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// What a line adds to the index; nothing for an empty one.
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
