//! Reading. In: jobs from handlers. Out: their results.
//!
//! A lane has some threads, each with its own connection. Its places are shared fairly by client. Reads by key have one lane and
//! searches another, so that a search never delays them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::protocol::error::WireError;
use crate::server::Places;

use super::limits::DbLimits;
use super::open::{self, OpenError};
use super::owner::Owner;

/// SQLite's steps between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// The database as a handler that reads sees it.
pub(crate) struct View<'a> {
    /// The connection, inside a transaction: all reads see the same snapshot.
    pub connection: &'a Connection,
    /// The limits of the database.
    pub limits: &'a DbLimits,
    is_over: &'a dyn Fn() -> bool,
}

impl View<'_> {
    /// Returns whether the deadline of the read has passed, or its caller has left.
    pub(crate) fn is_over(&self) -> bool {
        (self.is_over)()
    }
}

/// Most threads of a lane, whatever the limits say: each has a connection of its own.
const MAX_THREADS: usize = 256;

/// Which priority the threads of a lane have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Normal,
    Low,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads that read.
pub(super) struct Lane {
    places: Places<Owner>,
    limits: Arc<DbLimits>,
    /// `None` once the lane is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Lane {
    /// Starts the threads, at least one.
    pub(super) fn open(
        path: &Path,
        name: &str,
        threads: usize,
        priority: Priority,
        limits: &Arc<DbLimits>,
    ) -> Result<Lane, OpenError> {
        let threads = threads.clamp(1, MAX_THREADS);
        let (sender, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let lane = Lane {
            places: Places::new(threads),
            limits: limits.clone(),
            jobs: Mutex::new(Some(sender)),
            threads: Mutex::default(),
        };
        for _ in 0..threads {
            let connection = open::connect_reader(path).map_err(|error| open::sqlite_error(path, error))?;
            let jobs = jobs.clone();
            let thread = thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || read_loop(connection, &jobs, priority))
                .map_err(|error| OpenError::Io { path: path.to_owned(), error })?;
            lock(&lane.threads).push(thread);
        }
        Ok(lane)
    }

    /// Reads on a thread where the job can block. A read whose caller stops waiting ends early.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        owner: Owner,
        job: impl FnOnce(&View<'_>) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, WireError> {
        let place = self.places.acquire(owner).await;
        let (answer, answered) = oneshot::channel();
        let waiting = Arc::new(());
        let (caller, limits) = (Arc::downgrade(&waiting), self.limits.clone());
        let job: Job = Box::new(move |connection| {
            if answer.is_closed() {
                return;
            }
            let run = AssertUnwindSafe(|| read(connection, &limits, caller, job));
            let result = catch_unwind(run).unwrap_or_else(|_| Err(WireError::new("Internal error")));
            drop(place);
            // The receiver is dropped if the caller has stopped waiting.
            let _ = answer.send(result);
        });
        let jobs = lock(&self.jobs).clone();
        jobs.ok_or_else(closed)?.send(job).map_err(|_| closed())?;
        let result = answered.await.map_err(|_| closed())?;
        drop(waiting);
        result
    }

    /// Finishes the reads and closes the connections. Later reads fail.
    pub(super) async fn close(&self) {
        drop(lock(&self.jobs).take());
        let threads = std::mem::take(&mut *lock(&self.threads));
        let join = || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

fn read_loop(mut connection: Connection, jobs: &Mutex<mpsc::Receiver<Job>>, priority: Priority) {
    if priority == Priority::Low {
        lower_priority();
    }
    loop {
        let job = lock(jobs).recv();
        let Ok(job) = job else { return };
        job(&mut connection);
    }
}

/// Lowers the priority of this thread, so that all other threads run first.
fn lower_priority() {
    // On Linux the priority belongs to the thread, elsewhere to the whole process. Without it, searches only run sooner.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 10);
}

fn read<T>(
    connection: &mut Connection,
    limits: &DbLimits,
    caller: Weak<()>,
    job: impl FnOnce(&View<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    let deadline = Instant::now() + limits.read_timeout.min(Duration::from_secs(u32::MAX.into()));
    let is_over = move || Instant::now() >= deadline || caller.strong_count() == 0;
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(is_over.clone()))?;
    let transaction = connection.transaction()?;
    let result = job(&View { connection: &transaction, limits, is_over: &is_over });
    drop(transaction);
    if result.is_err() && Instant::now() >= deadline {
        return Err(WireError::new(format!("query took longer than {} ms", limits.read_timeout.as_millis())));
    }
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of reads and writes after the database was closed.
pub(super) fn closed() -> WireError {
    WireError::new("the database is closed")
}
