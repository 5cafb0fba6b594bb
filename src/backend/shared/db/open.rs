//! Opening the database file. All checks come before the first write: a file that is refused is left unchanged.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::super::files::{close_to_others, private_folder, restrict, sync_folder};

/// The name of the database file in its folder.
pub const FILE_NAME: &str = "switchboard.db";
/// How long a transaction waits for another process that holds the lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const LOCK_NAME: &str = "switchboard.lock";
/// SQLite's application id, `SwBd`: identifies a file of this program.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"SwBd");
/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why the database cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// A file or folder cannot be created, read or locked.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The folder holds other files and is open to other users. Remove their rights, or use another folder.
    FolderIsShared {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another process has it open.
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program, or not a database.
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of this program wrote the file. Start that version.
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        version: i64,
        /// The newest version that this program knows.
        known: usize,
    },
    /// The file is damaged. Restore a copy, or save what can be saved with `sqlite3 FILE .recover`.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem that SQLite found.
        finding: String,
    },
    /// SQLite cannot work with the file.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        error: rusqlite::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            OpenError::FolderIsShared { path, mode } => write!(
                f,
                "{} holds other files and is open to other users (mode {mode:o}): chmod 700 it, or use another folder",
                path.display()
            ),
            OpenError::InUse { path } => write!(f, "{} is in use by another process", path.display()),
            OpenError::NotOurs { path } => {
                write!(f, "{} is not a Switchboard database; it was left unchanged", path.display())
            }
            OpenError::Newer { path, version, known } => write!(
                f,
                "{} has tables of version {version}, this program supports up to {known}: start a newer one; \
                 the file was left unchanged",
                path.display()
            ),
            OpenError::Damaged { path, finding } => write!(
                f,
                "{} is damaged and was left unchanged ({finding}): restore a copy, or try `sqlite3 {} .recover`",
                path.display(),
                path.display()
            ),
            OpenError::Sqlite { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// A database that passed all checks.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) path: PathBuf,
    /// Holds the lock while it is open.
    pub(super) lock: File,
}

/// Opens the database in a folder, or creates it, and applies the missing migrations. Version `n` of the tables is the result of
/// the first `n`.
pub(super) fn open(folder: &Path, migrations: &[&str]) -> Result<Opened, OpenError> {
    prepare_folder(folder).map_err(|refusal| refusal.unwrap_or_else(|error| io_error(folder, error)))?;
    let path = folder.join(FILE_NAME);
    let lock = lock(folder, &path)?;
    let new = create_file(&path).map_err(|error| io_error(&path, error))?;
    if new {
        // The name of a new file must survive a crash, like its content.
        sync_folder(folder).map_err(|error| io_error(folder, error))?;
    }
    let sqlite = |error| sqlite_error(&path, error);
    let has_tables = fs::metadata(&path).map_err(|error| io_error(&path, error))?.len() > 0;
    if has_tables {
        check_magic(&path)?;
    }
    let mut writer = connect(&path).map_err(sqlite)?;
    let version = if has_tables { check(&writer, &path, migrations.len())? } else { 0 };

    writer.pragma_update(None, "journal_mode", "WAL").map_err(sqlite)?;
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sqlite)?;
    migrate(&mut writer, version, migrations).map_err(sqlite)?;
    Ok(Opened { writer, path, lock })
}

/// Returns a connection that changes nothing when it is closed.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // For a person who uses the sqlite3 command line: the lock file keeps other servers out.
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A write that was answered survives a power failure.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Returns another connection, for reading.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Returns the version of the tables, after checking that the file is ours, not damaged, and not too new.
fn check(connection: &Connection, path: &Path, known: usize) -> Result<usize, OpenError> {
    let sqlite = |error| sqlite_error(path, error);
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(sqlite)?;
    let version = pragma("user_version").map_err(sqlite)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
    // A crash can happen between the file's first page and its first table.
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if application != i64::from(APPLICATION_ID) {
        return Err(OpenError::NotOurs { path: path.to_owned() });
    }
    let current = usize::try_from(version).ok().filter(|version| *version <= known);
    let Some(current) = current else {
        return Err(OpenError::Newer { path: path.to_owned(), version, known });
    };
    let finding: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
    if finding != "ok" {
        return Err(OpenError::Damaged { path: path.to_owned(), finding });
    }
    Ok(current)
}

/// Applies the missing migrations, all or none.
fn migrate(connection: &mut Connection, version: usize, migrations: &[&str]) -> rusqlite::Result<()> {
    let missing = migrations.get(version..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    transaction.commit()
}

fn check_magic(path: &Path) -> Result<(), OpenError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start));
    read.map_err(|error| io_error(path, error))?;
    if start == MAGIC { Ok(()) } else { Err(OpenError::NotOurs { path: path.to_owned() }) }
}

/// Locks out other processes. The system releases the lock when this process ends, even after a crash.
fn lock(folder: &Path, path: &Path) -> Result<File, OpenError> {
    let lock_path = folder.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    restrict(&mut options);
    let file = options.open(&lock_path).map_err(|error| io_error(&lock_path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error(&lock_path, error)),
    }
}

/// Creates the file unless it exists, for the current user only, and returns whether it did.
fn create_file(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    restrict(&mut options);
    match options.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            close_to_others(path, 0o600)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Turns an error of SQLite into the reason why the file cannot be opened.
pub(super) fn sqlite_error(path: &Path, error: rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Damaged { path: path.to_owned(), finding: error.to_string() }
        }
        _ => OpenError::Sqlite { path: path.to_owned(), error },
    }
}

fn io_error(path: &Path, error: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error }
}

/// Creates the folder for the current user only. An existing folder is closed to other users if it is empty or holds our
/// database. A folder with anything else has another purpose and is not changed.
#[cfg(unix)]
fn prepare_folder(folder: &Path) -> Result<(), Result<OpenError, io::Error>> {
    use std::os::unix::fs::PermissionsExt;
    private_folder().recursive(true).create(folder).map_err(Err)?;
    let mode = fs::metadata(folder).map_err(Err)?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let ours = folder.join(FILE_NAME).is_file() || fs::read_dir(folder).map_err(Err)?.next().is_none();
    if !ours {
        return Err(Ok(OpenError::FolderIsShared { path: folder.to_owned(), mode }));
    }
    close_to_others(folder, 0o700).map_err(Err)
}

#[cfg(not(unix))]
fn prepare_folder(folder: &Path) -> Result<(), Result<OpenError, io::Error>> {
    private_folder().recursive(true).create(folder).map_err(Err)
}
