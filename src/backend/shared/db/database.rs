//! The handle to an open database, and its reads.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::emitter::Emitter;
use super::open::{self, OpenError};
use super::write::{Change, Order, internal_error, write_loop};

/// Limits of the database.
#[derive(Debug, Clone)]
pub struct DbLimits {
    /// Largest database file, in bytes. A write that would exceed it fails and changes nothing.
    ///
    /// Default 16 GiB.
    pub max_database_bytes: u64,
    /// Size at which a page of results ends early, in bytes. It has at least one element.
    ///
    /// Default 8 MiB: half of the largest message that a server sends.
    pub max_page_bytes: usize,
    /// Most writes that are queued for the writing thread. Further handlers wait.
    ///
    /// Default 1 024.
    pub max_queued_writes: usize,
    /// Most reads at the same time. Further handlers wait.
    ///
    /// Default 4.
    pub max_readers: usize,
    /// Longest time for one read. After it the read fails.
    ///
    /// Default 10 s.
    pub read_timeout: Duration,
}

impl Default for DbLimits {
    fn default() -> DbLimits {
        DbLimits {
            max_database_bytes: 16 << 30,
            max_page_bytes: 8 << 20,
            max_queued_writes: 1024,
            max_readers: 4,
            read_timeout: Duration::from_secs(10),
        }
    }
}

/// An open database. A clone is another handle to the same one.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    limits: DbLimits,
    writes: mpsc::Sender<Order>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    readers: Arc<Semaphore>,
    idle_readers: Mutex<Vec<Connection>>,
    lock: Mutex<Option<File>>,
    emitter: Emitter,
}

/// The database as a handler that reads sees it.
pub(crate) struct View<'a> {
    /// The connection, inside a transaction: all reads see the same snapshot.
    pub connection: &'a Connection,
    /// The limits of the database.
    pub limits: &'a DbLimits,
}

impl Db {
    /// Opens the database in a folder, or creates it, and applies the missing migrations: version `n` of the tables is the result
    /// of the first `n`. Only the current user can access the folder and its files (0700, 0600).
    ///
    /// # Errors
    /// When the file is in use, damaged, of a newer version, or not a Switchboard database. It is left unchanged.
    pub fn open(folder: &Path, migrations: &[&str], limits: DbLimits) -> Result<Db, OpenError> {
        let opened = open::open(folder, migrations)?;
        let path = opened.path;
        let sqlite = |error| open::sqlite_error(&path, error);
        let page_bytes: u32 =
            opened.writer.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(sqlite)?;
        let max_pages = limits.max_database_bytes / u64::from(page_bytes.max(1));
        let max_pages = u32::try_from(max_pages).unwrap_or(u32::MAX - 1);
        opened.writer.pragma_update(None, "max_page_count", max_pages).map_err(sqlite)?;
        let mut idle_readers = Vec::new();
        for _ in 0..limits.max_readers.max(1) {
            idle_readers.push(open::connect_reader(&path).map_err(sqlite)?);
        }
        let (writes, orders) = mpsc::channel(limits.max_queued_writes.max(1));
        let emitter = Emitter::default();
        let events = emitter.clone();
        let writer = thread::Builder::new()
            .name("switchboard-db".to_owned())
            .spawn(move || write_loop(opened.writer, orders, &events))
            .map_err(|error| OpenError::Io { path: path.clone(), error })?;
        let shared = Shared {
            path,
            writes,
            writer: Mutex::new(Some(writer)),
            readers: Arc::new(Semaphore::new(idle_readers.len())),
            idle_readers: Mutex::new(idle_readers),
            lock: Mutex::new(Some(opened.lock)),
            limits,
            emitter,
        };
        Ok(Db { shared: Arc::new(shared) })
    }

    /// Returns the path of the database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Finishes the queued writes, merges the write-ahead log into the file, and closes it. Later reads and writes fail.
    pub async fn close(&self) {
        // The last connection that closes merges the log, so the readers close first.
        let readers = self.shared.readers.clone();
        let count = u32::try_from(self.shared.limits.max_readers.max(1)).unwrap_or(u32::MAX);
        if let Ok(all) = readers.acquire_many(count).await {
            lock(&self.shared.idle_readers).clear();
            all.forget();
            readers.close();
        }
        let _ = self.shared.writes.send(Order::Close).await;
        let writer = lock(&self.shared.writer).take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
        if let Some(held) = lock(&self.shared.lock).take() {
            // A child process that is just being started has a copy of the handle, which would keep the lock.
            let _ = held.unlock();
        }
    }

    /// Sets the server that sends the events of writes to its clients.
    pub(crate) fn emit_to(&self, server: &Server) {
        self.shared.emitter.set(server);
    }

    /// Sends an event to every client now. Use [`Change::emit`] for an event that belongs to a write.
    pub(crate) fn emit(&self, channel: &'static str, payload: Payload) {
        self.shared.emitter.emit(channel, payload);
    }

    /// Reads. The job runs on a thread where it can block.
    ///
    /// # Errors
    /// The error of the job, or that it took too long, or that the database is closed.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&View<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let permit = self.shared.readers.clone().acquire_owned().await.map_err(|_| closed())?;
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || {
            let idle = lock(&shared.idle_readers).pop();
            let result = idle.ok_or_else(closed).and_then(|mut connection| {
                let read = AssertUnwindSafe(|| read(&mut connection, &shared.limits, job));
                let result = catch_unwind(read).unwrap_or_else(|_| Err(internal_error()));
                lock(&shared.idle_readers).push(connection);
                result
            });
            // The permit is released after this thread is idle again. Otherwise the next read could start one more thread.
            (result, permit)
        });
        let (result, _permit) = read.await.map_err(|_| closed())?;
        result
    }

    /// Writes, all or nothing. Returns when the change is on disk and its events have been emitted. A queued write is done even if
    /// the caller stops waiting.
    ///
    /// # Errors
    /// The error of the job, or why the database could not write.
    pub(crate) async fn write<T, F>(&self, job: F) -> Result<T, WireError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let order = Order::write(job, answer);
        self.shared.writes.send(order).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Writes without a request, all or nothing. `done` is called on the writing thread with whether the change is on disk, even if
    /// the caller stops waiting.
    ///
    /// # Errors
    /// As [`write`](Db::write). If the database is closed, neither `job` nor `done` is called.
    pub(crate) async fn write_background(
        &self,
        job: impl FnOnce(&Connection) -> Result<(), WireError> + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), WireError> {
        let (answer, answered) = oneshot::channel();
        let order = Order::background_write(job, done, answer);
        self.shared.writes.send(order).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

fn read<T>(
    connection: &mut Connection,
    limits: &DbLimits,
    job: impl FnOnce(&View<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    const STEPS_BETWEEN_LOOKS: i32 = 10_000;
    let deadline = Instant::now() + limits.read_timeout;
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= deadline))?;
    let transaction = connection.transaction()?;
    let result = job(&View { connection: &transaction, limits });
    drop(transaction);
    if result.is_err() && Instant::now() >= deadline {
        return Err(WireError::new(format!("query took longer than {} ms", limits.read_timeout.as_millis())));
    }
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> WireError {
    WireError::new("the database is closed")
}
