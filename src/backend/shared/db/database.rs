//! The handle to an open database.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{Party, Places, Server};

use super::emitter::Emitter;
use super::limits::DbLimits;
use super::open::{self, OpenError};
use super::owner::Owner;
use super::readers::{Lane, Priority, View, closed};
use super::write::{Change, Chore, Order, Write, background_write, write};
use super::writer::Writer;

/// Most bytes of large payloads in the queue of writes. A queued write is done even if its client leaves, and then nothing else
/// counts them.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// A smaller payload needs no room: the number of queued writes is limited.
const SMALL_BYTES: usize = 64 << 10;

/// An open database. A clone is another handle to the same one.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
    /// Whom the reads and writes through this handle are for.
    owner: Owner,
}

struct Shared {
    path: PathBuf,
    /// Reads by key.
    lookups: Lane,
    searches: Lane,
    queue: Places<Owner>,
    /// One permit for each byte of [`MAX_QUEUED_BYTES`].
    room: Arc<Semaphore>,
    room_turns: Places<Owner>,
    writes: mpsc::Sender<Order>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    lock: Mutex<Option<File>>,
    emitter: Emitter,
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
        let limits = Arc::new(limits);
        let lookups = Lane::open(&path, "switchboard-read", limits.max_readers, Priority::Normal, &limits)?;
        let searches = Lane::open(&path, "switchboard-find", limits.max_searches, Priority::Low, &limits)?;
        let (writes, orders) = mpsc::channel();
        let emitter = Emitter::default();
        let writer = Writer::new(opened.writer, orders, emitter.clone());
        let writer = thread::Builder::new()
            .name("switchboard-db".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io { path: path.clone(), error })?;
        let shared = Shared {
            path,
            lookups,
            searches,
            queue: Places::new(limits.max_queued_writes),
            room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            room_turns: Places::new(1),
            writes,
            writer: Mutex::new(Some(writer)),
            lock: Mutex::new(Some(opened.lock)),
            emitter,
        };
        Ok(Db { shared: Arc::new(shared), owner: Owner::Server })
    }

    /// Returns the path of the database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns a handle for the requests of a client. Its reads and writes take turns with those of other clients; those through
    /// another handle are the server's own, which yield to clients.
    pub(crate) fn on_behalf_of(&self, party: Party) -> Db {
        Db { shared: self.shared.clone(), owner: Owner::Client(party) }
    }

    /// Finishes the queued writes, merges the write-ahead log into the file, and closes it. Later reads and writes fail.
    pub async fn close(&self) {
        // The last connection that closes merges the log, so the readers close first.
        self.shared.lookups.close().await;
        self.shared.searches.close().await;
        let _ = self.shared.writes.send(Order::Close);
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

    /// Reads a few rows by key. The job runs on a thread where it can block, and ends early if the caller stops waiting.
    ///
    /// # Errors
    /// The error of the job, or that it took too long, or that the database is closed.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&View<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        self.shared.lookups.read(self.owner, job).await
    }

    /// Reads many rows, as [`read`](Db::read) does, but without delaying the reads by key.
    ///
    /// # Errors
    /// As [`read`](Db::read).
    pub(crate) async fn search<T: Send + 'static>(
        &self,
        job: impl FnOnce(&View<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        self.shared.searches.read(self.owner, job).await
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
        self.queue(|answer| write(job, answer)).await
    }

    /// Waits for room for the payload of a write, which the write keeps until it is done. `None` if it needs none.
    pub(crate) async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        if bytes <= SMALL_BYTES {
            None
        } else {
            // One at a time waits for room, and clients take turns.
            let _turn = self.shared.room_turns.acquire(self.owner).await;
            self.shared.room.clone().acquire_many_owned(permits).await.ok()
        }
    }

    /// Writes without events, all or nothing. `done` is called on the writing thread with whether the change is on disk, even if
    /// the caller stops waiting.
    ///
    /// # Errors
    /// As [`write`](Db::write). If the database is closed, neither `job` nor `done` is called.
    pub(crate) async fn write_background(
        &self,
        job: impl FnOnce(&Connection) -> Result<(), WireError> + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), WireError> {
        self.queue(|answer| background_write(job, done, answer)).await
    }

    async fn queue<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, WireError>>) -> Write,
    ) -> Result<T, WireError> {
        let place = self.shared.queue.acquire(self.owner).await;
        let (answer, answered) = oneshot::channel();
        let order = Order::Write(self.owner, write(answer), place);
        self.shared.writes.send(order).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Adds work that is done in small steps on the writing thread, from now on and after each
    /// [`Change::leave_work`]. Steps that are left when the database closes are done after the next start.
    pub(crate) fn work_in_steps(&self, chore: Chore) {
        // A closed database does no more work.
        let _ = self.shared.writes.send(Order::Chore(chore));
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
