//! Restoring files. In: a restore point, whose files are named by the transcript, and a folder, which a client names. Out: copies
//! of the backups below the restore root, and nowhere else.
//!
//! Neither name is trusted. Each part of a name is checked: absolute names, `..` and links are refused, even a link that stays
//! inside. Each folder is opened in its open parent, so that one that is swapped for a link meanwhile leads nowhere else. A
//! file is written completely or not at all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::backend::shared::below::{Folder, Kind, Replace};
use crate::backend::shared::files::private_folder;
use crate::protocol::uuid::Uuid;

use super::config::CodeLimits;

/// Longest name of a file in a folder, in bytes, on most systems.
const MAX_PART_BYTES: usize = 255;

/// Which files to restore, and where.
#[derive(Debug)]
pub(super) struct Order {
    /// The restore root: nothing is written elsewhere.
    pub root: PathBuf,
    /// The folder below the root, as parts of its path.
    pub target: Vec<String>,
    /// The folder of the session's backups.
    pub backups: PathBuf,
    /// The working directory of the session: files below it are restored below the target.
    pub cwd: Option<String>,
    /// The names of the backups by the path of the file.
    pub files: BTreeMap<String, Option<String>>,
    pub overwrite: bool,
    pub limits: CodeLimits,
}

/// The result of an order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub target: PathBuf,
    pub restored: Vec<String>,
    /// The files that were not restored, with the reasons.
    pub skipped: Vec<(String, String)>,
}

/// Returns the folder of a session's backups, which is beside the folder of the transcripts.
pub(super) fn backups_of(code_dir: &Path, session_id: &str) -> Option<PathBuf> {
    let is_part = parts(session_id).is_ok_and(|parts| parts.len() == 1);
    code_dir.parent().filter(|_| is_part).map(|home| home.join("file-history").join(session_id))
}

/// Splits a relative path that only leads down, on any system, into its parts.
///
/// # Errors
/// With what is wrong with it.
pub(super) fn parts(name: &str) -> Result<Vec<&str>, &'static str> {
    // A name from Windows has backslashes between its parts.
    let parts: Vec<&str> = name.split(['/', '\\']).collect();
    for (index, part) in parts.iter().enumerate() {
        match *part {
            "" if index == 0 => return Err("an absolute or empty name"),
            "" => return Err("a name with an empty part"),
            "." | ".." => return Err("a name with . or .."),
            _ if part.len() > MAX_PART_BYTES => return Err("a name with a part that is too long"),
            // A drive, or an alternate stream of a file.
            _ if part.contains([':', '\0']) => return Err("a name with a colon or a zero byte"),
            _ => {}
        }
    }
    Ok(parts)
}

/// Returns the path of a tracked file relative to the working directory of its session.
pub(super) fn relative<'a>(path: &'a str, cwd: Option<&str>) -> Result<Vec<&'a str>, &'static str> {
    let below = cwd.and_then(|cwd| path.strip_prefix(cwd.trim_end_matches(['/', '\\'])));
    match below.and_then(|below| below.strip_prefix(['/', '\\'])) {
        Some(below) => parts(below),
        None => parts(path).map_err(|_| "it lies outside of the session's folder"),
    }
}

/// Restores files. A file that cannot be restored is skipped, with the reason.
///
/// # Errors
/// When the folder cannot be created, or is outside of the restore root.
pub(super) fn restore(order: &Order) -> io::Result<Outcome> {
    private_folder().recursive(true).create(&order.root)?;
    let root = order.root.canonicalize()?;
    let target_parts: Vec<&str> = order.target.iter().map(String::as_str).collect();
    let target = Folder::open(&root)?.descend(&target_parts)?;
    let mut outcome = Outcome { target: root.join(target_parts.join("/")), ..Outcome::default() };
    let mut room = order.limits.max_restore_bytes;
    for (path, backup) in &order.files {
        // The file did not exist at that time. An existing one is left unchanged.
        let Some(backup) = backup else { continue };
        match restore_file(order, &target, path, backup, &mut room) {
            Ok(name) => outcome.restored.push(name),
            Err(reason) => outcome.skipped.push((path.clone(), reason)),
        }
    }
    Ok(outcome)
}

fn restore_file(
    order: &Order,
    target: &Folder,
    path: &str,
    backup: &str,
    room: &mut u64,
) -> Result<String, String> {
    let parts = relative(path, order.cwd.as_deref())?;
    let (name, folders) = parts.split_last().ok_or("its name is empty")?;
    let source = open_backup(&order.backups, backup).map_err(|error| format!("its backup: {error}"))?;
    let size = source.metadata().map_err(|error| error.to_string())?.len();
    if size > order.limits.max_restore_file_bytes {
        let limit = order.limits.max_restore_file_bytes;
        return Err(format!("it has {size} bytes, {limit} are allowed"));
    }
    if size > *room {
        return Err("all files together are too large".to_owned());
    }
    let folder = target.descend(folders).map_err(|error| error.to_string())?;
    check_place(&folder, name, order.overwrite)?;
    put(source, size, &folder, name, order.overwrite)?;
    *room -= size;
    Ok(parts.join("/"))
}

/// Checks that a file can be written under a name.
fn check_place(folder: &Folder, name: &str, overwrite: bool) -> Result<(), String> {
    match folder.kind(name).map_err(|error| error.to_string())? {
        None => Ok(()),
        Some(Kind::Link) => Err("a link is in its place".to_owned()),
        Some(Kind::Folder | Kind::Other) => Err("something other than a file is in its place".to_owned()),
        Some(Kind::File) if overwrite => Ok(()),
        Some(Kind::File) => Err(EXISTS.to_owned()),
    }
}

const EXISTS: &str = "it exists";

/// Writes a copy under a temporary name and renames it.
fn put(source: File, size: u64, folder: &Folder, name: &str, overwrite: bool) -> Result<(), String> {
    let temporary = format!(".switchboard-{}", Uuid::v4());
    let replace = if overwrite { Replace::Allowed } else { Replace::Refused };
    let done = copy(source, size, folder, &temporary).and_then(|()| folder.rename(&temporary, name, replace));
    if done.is_err() {
        // It exists only if it was created.
        let _ = folder.remove_file(&temporary);
    }
    done.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => EXISTS.to_owned(),
        _ => error.to_string(),
    })
}

fn copy(source: File, size: u64, folder: &Folder, name: &str) -> io::Result<()> {
    let mut copy = folder.create_file(name, false)?;
    let copied = io::copy(&mut source.take(size), &mut copy)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its backup has become shorter"));
    }
    copy.flush()?;
    copy.sync_all()
}

/// Opens a backup, which must be a regular file in the folder itself.
fn open_backup(backups: &Path, name: &str) -> io::Result<File> {
    let (Some(parent), Some(session)) = (backups.parent(), backups.file_name().and_then(OsStr::to_str))
    else {
        return Err(not_a_backup());
    };
    if !parts(name).is_ok_and(|parts| parts.len() == 1) {
        return Err(not_a_backup());
    }
    Folder::open(parent)?.enter(session)?.open_file(name)
}

fn not_a_backup() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "its name is not that of a backup")
}

/// The properties of a backup that change with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackupStamp {
    pub size: i64,
    pub modified_ns: i64,
}

/// Returns the stamp of a backup; `None` if it does not exist.
pub(super) fn stamp(backups: &Path, name: &str) -> Option<BackupStamp> {
    let metadata = open_backup(backups, name).ok()?.metadata().ok()?;
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(BackupStamp {
        size: i64::try_from(metadata.len()).ok()?,
        modified_ns: i64::try_from(since.as_nanos()).unwrap_or(0),
    })
}

/// Returns the SHA-1 of a backup in hexadecimal; `None` if it cannot be read or is too large.
pub(super) fn sha1(backups: &Path, name: &str, max_bytes: u64) -> Option<String> {
    let mut file = open_backup(backups, name).ok()?.take(max_bytes.saturating_add(1));
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    let mut chunk = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let read = file.read(&mut chunk).ok()?;
        if read == 0 {
            break;
        }
        total += read as u64;
        digest.update(chunk.get(..read)?);
    }
    let hex: Vec<String> = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    (total <= max_bytes).then(|| hex.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_lead_down_are_accepted() {
        for (name, expected) in [
            ("a", Some(1)),
            ("a/b.txt", Some(2)),
            (r"a\b.txt", Some(2)),
            ("..a/...", Some(2)),
            ("", None),
            ("/a", None),
            (r"\\server\share", None),
            ("a//b", None),
            ("a/", None),
            ("..", None),
            ("a/../b", None),
            (r"a\..\b", None),
            ("./a", None),
            ("C:/a", None),
            ("a:stream", None),
            ("a\0b", None),
        ] {
            assert_eq!(parts(name).ok().map(|parts| parts.len()), expected, "{name:?}");
        }
        assert!(parts(&"x".repeat(255)).is_ok());
        assert!(parts(&"x".repeat(256)).is_err());
    }

    #[test]
    fn a_tracked_file_is_relative_to_the_working_directory() {
        let cwd = Some("/home/me/project");
        for (path, expected) in [
            ("src/a.rs", Some(vec!["src", "a.rs"])),
            ("/home/me/project/src/a.rs", Some(vec!["src", "a.rs"])),
            ("/home/me/project2/a.rs", None),
            ("/home/me/project/../a.rs", None),
            ("/etc/passwd", None),
            ("../a.rs", None),
        ] {
            assert_eq!(relative(path, cwd).ok(), expected, "{path}");
        }
        assert!(relative("/a", None).is_err());
        assert_eq!(relative("/a", Some("/")).ok(), Some(vec!["a"]));
    }

    #[test]
    fn backups_are_beside_the_transcripts() {
        let dir = Path::new("/home/me/.claude/projects");
        assert_eq!(backups_of(dir, "s"), Some(PathBuf::from("/home/me/.claude/file-history/s")));
        assert_eq!(backups_of(dir, ".."), None);
        assert_eq!(backups_of(dir, "a/b"), None);
    }
}
