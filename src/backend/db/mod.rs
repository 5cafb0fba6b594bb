//! The database. In: jobs from handlers. Out: their results, once what they changed is on the disk.
//!
//! One thread writes. It takes what has come together into one transaction, commits it with one sync, and only then
//! answers; a job that fails is undone alone. What a write tells other clients is emitted by the same thread after the
//! commit, so events come in the order of the changes. Reads run beside it, each on one snapshot.

mod open;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::validate::Fields;

pub use open::{FILE_NAME, OpenError};
pub(super) use open::{restrict, sync_folder};

/// How large the database and what is read from it may get.
#[derive(Debug, Clone)]
pub struct DbLimits {
    /// Largest database file, in bytes. A write beyond it fails, and nothing of it is kept.
    ///
    /// Default 16 GiB.
    pub max_database_bytes: u64,
    /// Where a page of messages ends though its limit is not reached, in bytes. It has one message at least.
    ///
    /// Default 8 MiB: half of the largest message a server sends.
    pub max_page_bytes: usize,
    /// Most writes that wait for the writing thread. The next handlers wait for a place.
    ///
    /// Default 1 024.
    pub max_queued_writes: usize,
    /// Most reads at the same time. The next handlers wait.
    ///
    /// Default 4.
    pub max_readers: usize,
    /// How long one read may take. Then it is given up with an error.
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

/// Most writes that share one transaction.
const MAX_BATCH: usize = 256;
/// Where a transaction ends, by the events that its writes have for everyone, in bytes. They go out at once, and a client
/// for which more waits than its outbox holds (4 MiB) is closed, though it reads as fast as it can.
const MAX_BATCH_EVENT_BYTES: usize = 256 << 10;

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
}

enum Order {
    Write(Box<dyn Job>),
    Close,
}

/// A write on its way through the writing thread.
trait Job: Send {
    /// Makes the changes; `false` asks to undo them.
    fn run(&mut self, connection: &Connection) -> bool;
    /// How much it is going to tell everyone, in bytes.
    fn event_bytes(&self) -> usize;
    /// Tells what became of it; `Err` says why nothing of it is on the disk.
    fn finish(self: Box<Self>, committed: Result<(), &str>);
}

/// What a handler that writes works with.
pub(super) struct Change<'a> {
    /// The connection, inside a transaction.
    pub connection: &'a Connection,
    /// The time of the change, in Unix ms.
    pub unix_ms: i64,
    events: Vec<(&'static str, Payload)>,
}

impl Change<'_> {
    /// Tells every client, once the change is on the disk.
    pub(super) fn emit(&mut self, channel: &'static str, payload: Payload) {
        self.events.push((channel, payload));
    }
}

/// What a handler that reads works with.
pub(super) struct View<'a> {
    /// The connection, inside a transaction: all that is read belongs together.
    pub connection: &'a Connection,
    /// The limits of the database.
    pub limits: &'a DbLimits,
}

impl Db {
    /// Opens the database in a folder, or makes it, and brings its tables up to date: version `n` is what the first
    /// `n` migrations make. Folder and files are for this user alone (0700, 0600).
    ///
    /// # Errors
    /// When the file is in use, damaged, of a newer version or not ours. Then nothing was written to it.
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
        let writer = thread::Builder::new()
            .name("switchboard-db".to_owned())
            .spawn(move || write_loop(opened.writer, orders))
            .map_err(|error| OpenError::Io { path: path.clone(), error })?;
        let shared = Shared {
            path,
            writes,
            writer: Mutex::new(Some(writer)),
            readers: Arc::new(Semaphore::new(idle_readers.len())),
            idle_readers: Mutex::new(idle_readers),
            lock: Mutex::new(Some(opened.lock)),
            limits,
        };
        Ok(Db { shared: Arc::new(shared) })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Finishes what waits, folds the write-ahead log into the file, and closes it. Whoever asks afterwards gets an
    /// error.
    pub async fn close(&self) {
        // The last connection to close does the folding, so the readers go first.
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
            // A program that is being started has a copy of the handle for a moment, and would keep the lock with it.
            let _ = held.unlock();
        }
    }

    /// Registers the handler of a channel that only reads.
    pub(super) fn on_read(
        &self,
        server: &Server,
        channel: &str,
        handler: fn(&View<'_>, &Fields<'_>) -> Result<Payload, WireError>,
    ) {
        let db = self.clone();
        server.on_request(channel, move |payload: Payload, _| {
            let db = db.clone();
            async move { db.read(move |view| handler(view, &Fields::decode(&payload)?)).await }
        });
    }

    /// Registers the handler of a channel that writes.
    pub(super) fn on_write(
        &self,
        server: &Server,
        channel: &str,
        handler: fn(&mut Change<'_>, &Fields<'_>) -> Result<Payload, WireError>,
    ) {
        let db = self.clone();
        server.on_request(channel, move |payload: Payload, cx| {
            let db = db.clone();
            async move {
                db.write(cx.server(), move |change| handler(change, &Fields::decode(&payload)?)).await
            }
        });
    }

    /// Reads. The job runs on a thread where it may block.
    ///
    /// # Errors
    /// What the job says, or that it took too long, or that the database is closed.
    pub(super) async fn read<T: Send + 'static>(
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
            // It goes out with the result: given back in here, the next job could find this thread still busy, and start
            // one more.
            (result, permit)
        });
        let (result, _permit) = read.await.map_err(|_| closed())?;
        result
    }

    /// Writes, all or nothing. The answer comes when it is on the disk, behind the events of this write. A write that
    /// was queued is done even if nobody waits for its answer any more.
    ///
    /// # Errors
    /// What the job says, or why the database could not write.
    pub(super) async fn write<T, F>(&self, server: Server, job: F) -> Result<T, WireError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let write =
            Write { job: Some(job), result: Err(internal_error()), events: Vec::new(), server, answer };
        self.shared.writes.send(Order::Write(Box::new(write))).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Writes what no client asked for, all or nothing. `done` is told on the writing thread whether it is on the disk, even if
    /// nobody waits here any more.
    ///
    /// # Errors
    /// As [`write`](Db::write). If the database is closed, neither is called.
    pub(super) async fn write_unasked(
        &self,
        job: impl FnOnce(&Connection) -> Result<(), WireError> + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), WireError> {
        let (answer, answered) = oneshot::channel();
        let write = UnaskedWrite { job: Some(job), result: Err(internal_error()), done, answer };
        self.shared.writes.send(Order::Write(Box::new(write))).await.map_err(|_| closed())?;
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

struct Write<T, F> {
    job: Option<F>,
    result: Result<T, WireError>,
    events: Vec<(&'static str, Payload)>,
    server: Server,
    answer: oneshot::Sender<Result<T, WireError>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(job) = self.job.take() else { return false };
        let mut change = Change { connection, unix_ms: unix_ms(), events: Vec::new() };
        let run = AssertUnwindSafe(|| job(&mut change));
        self.result = catch_unwind(run).unwrap_or_else(|_| Err(internal_error()));
        self.events = change.events;
        self.result.is_ok()
    }

    fn event_bytes(&self) -> usize {
        self.events.iter().filter_map(|(_, payload)| payload.as_str()).map(str::len).sum()
    }

    fn finish(self: Box<Self>, committed: Result<(), &str>) {
        let result = match (self.result, committed) {
            (Ok(_), Err(cause)) => Err(WireError::new(format!("nothing was saved: {cause}"))),
            (Ok(result), Ok(())) => {
                for (channel, payload) in self.events {
                    self.server.emit(channel, payload);
                }
                Ok(result)
            }
            (error, _) => error,
        };
        // Nobody listens any more if the client has left. What it wrote stays.
        let _ = self.answer.send(result);
    }
}

struct UnaskedWrite<F, D> {
    job: Option<F>,
    result: Result<(), WireError>,
    done: D,
    answer: oneshot::Sender<Result<(), WireError>>,
}

impl<F, D> Job for UnaskedWrite<F, D>
where
    F: FnOnce(&Connection) -> Result<(), WireError> + Send,
    D: FnOnce(bool) + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(job) = self.job.take() else { return false };
        self.result =
            catch_unwind(AssertUnwindSafe(|| job(connection))).unwrap_or_else(|_| Err(internal_error()));
        self.result.is_ok()
    }

    fn event_bytes(&self) -> usize {
        0
    }

    fn finish(self: Box<Self>, committed: Result<(), &str>) {
        let not_saved = |cause| WireError::new(format!("nothing was saved: {cause}"));
        let result = self.result.and(committed.map_err(not_saved));
        (self.done)(result.is_ok());
        let _ = self.answer.send(result);
    }
}

/// The writing thread.
fn write_loop(connection: Connection, mut orders: mpsc::Receiver<Order>) {
    let mut closing = false;
    while !closing {
        let mut batch = Vec::new();
        let mut next = orders.blocking_recv();
        loop {
            match next {
                Some(Order::Write(job)) => batch.push(job),
                Some(Order::Close) => {
                    // What was queued before is done, what comes later is refused.
                    orders.close();
                }
                None => break,
            }
            if batch.len() == MAX_BATCH {
                break;
            }
            next = orders.try_recv().ok();
        }
        closing = batch.is_empty() && orders.is_closed();
        write_batch(&connection, batch);
    }
}

/// Does the jobs in order, commits, and tells each what became of it. Those that have much to tell are committed a few at
/// a time.
fn write_batch(connection: &Connection, jobs: Vec<Box<dyn Job>>) {
    let mut jobs = jobs.into_iter();
    while let Some(first) = jobs.next() {
        let mut done = vec![first];
        let mut event_bytes = 0;
        let committed = (|| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            loop {
                if let Some(job) = done.last_mut() {
                    run_alone(connection, job.as_mut())?;
                    event_bytes += job.event_bytes();
                }
                if event_bytes >= MAX_BATCH_EVENT_BYTES {
                    break;
                }
                match jobs.next() {
                    Some(job) => done.push(job),
                    None => break,
                }
            }
            Ok(connection.execute_batch("COMMIT")?)
        })();
        if committed.is_err() && !connection.is_autocommit() {
            // Should even this fail, the next BEGIN says so.
            let _ = connection.execute_batch("ROLLBACK");
        }
        let committed = committed.map_err(|error: WireError| error.message);
        for job in done {
            job.finish(match &committed {
                Ok(()) => Ok(()),
                Err(cause) => Err(cause.as_ref()),
            });
        }
    }
}

/// Does one job of several: if it fails, the others' changes stay.
///
/// # Errors
/// When SQLite has undone the whole transaction, as it does when the disk is full.
fn run_alone(connection: &Connection, job: &mut dyn Job) -> Result<(), WireError> {
    connection.execute_batch("SAVEPOINT job")?;
    let keep = job.run(connection);
    if connection.is_autocommit() {
        return Err(WireError::new("the disk is full or failing, and the whole transaction was undone"));
    }
    if !keep {
        connection.execute_batch("ROLLBACK TO job")?;
    }
    Ok(connection.execute_batch("RELEASE job")?)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> WireError {
    WireError::new("the database is closed")
}

fn internal_error() -> WireError {
    WireError::new("Internal error")
}

/// The time, in Unix ms.
pub(super) fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that says what is done with it.
    struct Told {
        event_bytes: usize,
        log: Arc<Mutex<String>>,
    }

    impl Job for Told {
        fn run(&mut self, connection: &Connection) -> bool {
            assert!(!connection.is_autocommit());
            lock(&self.log).push('r');
            true
        }

        fn event_bytes(&self) -> usize {
            self.event_bytes
        }

        fn finish(self: Box<Self>, committed: Result<(), &str>) {
            assert_eq!(committed, Ok(()));
            lock(&self.log).push('f');
        }
    }

    #[test]
    fn writes_share_a_transaction_until_they_have_much_to_tell() {
        const HALF: usize = MAX_BATCH_EVENT_BYTES / 2;
        for (event_bytes, expected) in [
            (&[0; 5][..], "rrrrrfffff"),
            (&[HALF - 1; 5], "rrrfffrrff"),
            (&[HALF; 5], "rrffrrffrf"),
            (&[0, 9 * HALF, 9 * HALF], "rrffrf"),
        ] {
            let log = Arc::new(Mutex::new(String::new()));
            let told = |event_bytes: &usize| -> Box<dyn Job> {
                Box::new(Told { event_bytes: *event_bytes, log: log.clone() })
            };
            let connection = Connection::open_in_memory().unwrap();
            write_batch(&connection, event_bytes.iter().map(told).collect());
            assert_eq!(*lock(&log), expected);
        }
    }
}
