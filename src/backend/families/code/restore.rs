//! Restoring files. In: a restore point, whose files are named by the transcript, and a folder, which a client names. Out: copies
//! of the backups below the restore root, and nowhere else.
//!
//! Neither name is trusted. Each part of a name is checked: absolute names, `..` and links are refused, even a link that stays
//! inside. A file is written completely or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

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
    let target = descend(&root, &target_parts)?;
    let mut outcome = Outcome { target: target.clone(), ..Outcome::default() };
    let mut room = order.limits.max_restore_bytes;
    for (path, backup) in &order.files {
        // The file did not exist at that time. An existing one is left unchanged.
        let Some(backup) = backup else { continue };
        match restore_file(order, &root, &target, path, backup, &mut room) {
            Ok(name) => outcome.restored.push(name),
            Err(reason) => outcome.skipped.push((path.clone(), reason)),
        }
    }
    Ok(outcome)
}

fn restore_file(
    order: &Order,
    root: &Path,
    target: &Path,
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
    let folder = descend(target, folders).map_err(|error| error.to_string())?;
    // Check the whole path again, in case another process has put a link on it.
    let real = folder.canonicalize().map_err(|error| error.to_string())?;
    if !real.starts_with(root) {
        return Err("it would lie outside of the restore root".to_owned());
    }
    let file = real.join(name);
    check_place(&file, order.overwrite)?;
    put(source, size, &real, &file, order.overwrite)?;
    *room -= size;
    Ok(parts.join("/"))
}

/// Checks that a file can be written at a path.
fn check_place(file: &Path, overwrite: bool) -> Result<(), String> {
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(metadata) if metadata.is_symlink() => Err("a link is in its place".to_owned()),
        Ok(metadata) if !metadata.is_file() => Err("something other than a file is in its place".to_owned()),
        Ok(_) if overwrite => Ok(()),
        Ok(_) => Err(EXISTS.to_owned()),
    }
}

const EXISTS: &str = "it exists";

/// Writes a copy under a temporary name and renames it.
fn put(source: File, size: u64, folder: &Path, file: &Path, overwrite: bool) -> Result<(), String> {
    let temporary = folder.join(format!(".switchboard-{}", Uuid::v4()));
    let done = copy(source, size, &temporary).and_then(|()| give_name(&temporary, file, overwrite));
    // It no longer exists if it was renamed.
    let _ = fs::remove_file(&temporary);
    done.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => EXISTS.to_owned(),
        _ => error.to_string(),
    })
}

fn give_name(temporary: &Path, file: &Path, overwrite: bool) -> io::Result<()> {
    if overwrite {
        return fs::rename(temporary, file);
    }
    // Unlike a rename, this never replaces a file that was created since. Some file systems have no hard links.
    match fs::hard_link(temporary, file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(temporary, file),
        done => done,
    }
}

fn copy(source: File, size: u64, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut copy = options.open(to)?;
    let copied = io::copy(&mut source.take(size), &mut copy)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its backup has become shorter"));
    }
    copy.flush()?;
    copy.sync_all()
}

/// Returns a folder below another one. Missing folders are created; a link on the path is refused.
fn descend(from: &Path, parts: &[&str]) -> io::Result<PathBuf> {
    let mut folder = from.to_owned();
    for part in parts {
        folder.push(part);
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                let what = format!("{part:?} on the path is a link or not a folder");
                return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_folder().recursive(true).create(&folder)?
            }
            Err(error) => return Err(error),
        }
    }
    Ok(folder)
}

/// Opens a backup, which must be a regular file in the folder itself.
fn open_backup(backups: &Path, name: &str) -> io::Result<File> {
    let path = backup_path(backups, name)?;
    // Checked before it is opened: opening a pipe waits for a writer.
    if !fs::symlink_metadata(&path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(path)
}

fn backup_path(backups: &Path, name: &str) -> io::Result<PathBuf> {
    if parts(name).is_ok_and(|parts| parts.len() == 1) && fs::symlink_metadata(backups)?.is_dir() {
        return Ok(backups.join(name));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "its name is not that of a backup"))
}

/// The properties of a backup that change with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackupStamp {
    pub size: i64,
    pub modified_ns: i64,
}

/// Returns the stamp of a backup; `None` if it does not exist.
pub(super) fn stamp(backups: &Path, name: &str) -> Option<BackupStamp> {
    let metadata = fs::symlink_metadata(backup_path(backups, name).ok()?).ok()?;
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    metadata.is_file().then_some(BackupStamp {
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
