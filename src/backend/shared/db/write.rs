//! The writing thread. In: jobs. Out: their results, after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::super::clock::unix_ms;
use super::emitter::Emitter;

/// Most writes that share one transaction.
const MAX_BATCH: usize = 256;
/// Size of the events of one transaction at which it ends, in bytes. They are sent all at once, so larger transactions would fill
/// the outboxes faster than clients can read.
const MAX_BATCH_EVENT_BYTES: usize = 256 << 10;

/// An order to the writing thread.
pub(super) enum Order {
    Write(Box<dyn Job>),
    Close,
}

/// The sender of a write's result.
type Answer<T> = oneshot::Sender<Result<T, WireError>>;

impl Order {
    pub(super) fn write<T, F>(job: F, answer: Answer<T>) -> Order
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send + 'static,
    {
        let result = Err(internal_error());
        Order::Write(Box::new(Write { job: Some(job), result, events: Vec::new(), answer }))
    }

    pub(super) fn background_write(
        job: impl FnOnce(&Connection) -> Result<(), WireError> + Send + 'static,
        done: impl FnOnce(bool) + Send + 'static,
        answer: Answer<()>,
    ) -> Order {
        Order::Write(Box::new(BackgroundWrite {
            job: Some(job),
            result: Err(internal_error()),
            done,
            answer,
        }))
    }
}

/// A queued write.
pub(super) trait Job: Send {
    /// Makes the changes. Returns whether to keep them.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Returns the size of its events, in bytes.
    fn event_bytes(&self) -> usize;
    /// Emits the events and sends the result. `Err` is the reason why nothing is on disk.
    fn finish(self: Box<Self>, committed: Result<(), &str>, emitter: &Emitter);
}

/// The database as a handler that writes sees it.
pub(crate) struct Change<'a> {
    /// The connection, inside a transaction.
    pub connection: &'a Connection,
    /// The time of the change, in Unix ms.
    pub unix_ms: i64,
    events: Vec<(&'static str, Payload)>,
}

impl Change<'_> {
    /// Sends an event to every client, after the change is on disk.
    pub(crate) fn emit(&mut self, channel: &'static str, payload: Payload) {
        self.events.push((channel, payload));
    }
}

struct Write<T, F> {
    job: Option<F>,
    result: Result<T, WireError>,
    events: Vec<(&'static str, Payload)>,
    answer: Answer<T>,
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

    fn finish(self: Box<Self>, committed: Result<(), &str>, emitter: &Emitter) {
        let result = match (self.result, committed) {
            (Ok(_), Err(cause)) => Err(WireError::new(format!("nothing was saved: {cause}"))),
            (Ok(result), Ok(())) => {
                for (channel, payload) in self.events {
                    emitter.emit(channel, payload);
                }
                Ok(result)
            }
            (error, _) => error,
        };
        // The receiver is dropped if the client has left. Its write is kept.
        let _ = self.answer.send(result);
    }
}

struct BackgroundWrite<F, D> {
    job: Option<F>,
    result: Result<(), WireError>,
    done: D,
    answer: Answer<()>,
}

impl<F, D> Job for BackgroundWrite<F, D>
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

    fn finish(self: Box<Self>, committed: Result<(), &str>, _: &Emitter) {
        let not_saved = |cause| WireError::new(format!("nothing was saved: {cause}"));
        let result = self.result.and(committed.map_err(not_saved));
        (self.done)(result.is_ok());
        let _ = self.answer.send(result);
    }
}

/// Runs the writing thread until the database is closed.
pub(super) fn write_loop(connection: Connection, mut orders: mpsc::Receiver<Order>, emitter: &Emitter) {
    let mut closing = false;
    while !closing {
        let mut batch = Vec::new();
        let mut next = orders.blocking_recv();
        loop {
            match next {
                Some(Order::Write(job)) => batch.push(job),
                Some(Order::Close) => {
                    // Queued writes are done, later ones are refused.
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
        write_batch(&connection, batch, emitter);
    }
}

/// Runs the jobs in order, commits, and finishes each of them. Jobs with large events are committed in smaller transactions.
fn write_batch(connection: &Connection, jobs: Vec<Box<dyn Job>>, emitter: &Emitter) {
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
            // If this fails too, the next BEGIN reports it.
            let _ = connection.execute_batch("ROLLBACK");
        }
        let committed = committed.map_err(|error: WireError| error.message);
        for job in done {
            let committed = match &committed {
                Ok(()) => Ok(()),
                Err(cause) => Err(cause.as_ref()),
            };
            job.finish(committed, emitter);
        }
    }
}

/// Runs one job of a transaction. If it fails, the changes of the other jobs are kept.
///
/// # Errors
/// When SQLite has rolled back the whole transaction, as it does when the disk is full.
fn run_alone(connection: &Connection, job: &mut dyn Job) -> Result<(), WireError> {
    connection.execute_batch("SAVEPOINT job")?;
    let keep = job.run(connection);
    if connection.is_autocommit() {
        return Err(WireError::new("the disk is full or failing, and the whole transaction was rolled back"));
    }
    if !keep {
        connection.execute_batch("ROLLBACK TO job")?;
    }
    Ok(connection.execute_batch("RELEASE job")?)
}

pub(super) fn internal_error() -> WireError {
    WireError::new("Internal error")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A job that logs its calls.
    struct LoggedJob {
        event_bytes: usize,
        log: Arc<Mutex<String>>,
    }

    impl Job for LoggedJob {
        fn run(&mut self, connection: &Connection) -> bool {
            assert!(!connection.is_autocommit());
            self.log.lock().unwrap().push('r');
            true
        }

        fn event_bytes(&self) -> usize {
            self.event_bytes
        }

        fn finish(self: Box<Self>, committed: Result<(), &str>, _: &Emitter) {
            assert_eq!(committed, Ok(()));
            self.log.lock().unwrap().push('f');
        }
    }

    #[test]
    fn writes_share_a_transaction_until_their_events_are_large() {
        const HALF: usize = MAX_BATCH_EVENT_BYTES / 2;
        for (event_bytes, expected) in [
            (&[0; 5][..], "rrrrrfffff"),
            (&[HALF - 1; 5], "rrrfffrrff"),
            (&[HALF; 5], "rrffrrffrf"),
            (&[0, 9 * HALF, 9 * HALF], "rrffrf"),
        ] {
            let log = Arc::new(Mutex::new(String::new()));
            let job = |event_bytes: &usize| -> Box<dyn Job> {
                Box::new(LoggedJob { event_bytes: *event_bytes, log: log.clone() })
            };
            let connection = Connection::open_in_memory().unwrap();
            write_batch(&connection, event_bytes.iter().map(job).collect(), &Emitter::default());
            assert_eq!(*log.lock().unwrap(), expected);
        }
    }
}
