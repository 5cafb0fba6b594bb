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
/// Where a transaction ends, by the events that its writes have for everyone, in bytes. They go out at once, and a client
/// for which more waits than its outbox holds (4 MiB) is closed, though it reads as fast as it can.
const MAX_BATCH_EVENT_BYTES: usize = 256 << 10;

/// What the writing thread is asked to do.
pub(super) enum Order {
    Write(Box<dyn Job>),
    Close,
}

/// Where the result of a write goes.
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

/// A write on its way through the writing thread.
pub(super) trait Job: Send {
    /// Makes the changes; `false` asks to undo them.
    fn run(&mut self, connection: &Connection) -> bool;
    /// How much it is going to tell everyone, in bytes.
    fn event_bytes(&self) -> usize;
    /// Tells what became of it; `Err` says why nothing of it is on the disk.
    fn finish(self: Box<Self>, committed: Result<(), &str>, emitter: &Emitter);
}

/// What a handler that writes works with.
pub(crate) struct Change<'a> {
    /// The connection, inside a transaction.
    pub connection: &'a Connection,
    /// The time of the change, in Unix ms.
    pub unix_ms: i64,
    events: Vec<(&'static str, Payload)>,
}

impl Change<'_> {
    /// Tells every client, once the change is on the disk.
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
        // Nobody listens any more if the client has left. What it wrote stays.
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

/// The writing thread.
pub(super) fn write_loop(connection: Connection, mut orders: mpsc::Receiver<Order>, emitter: &Emitter) {
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
        write_batch(&connection, batch, emitter);
    }
}

/// Does the jobs in order, commits, and tells each what became of it. Those that have much to tell are committed a few at
/// a time.
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
            // Should even this fail, the next BEGIN says so.
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

pub(super) fn internal_error() -> WireError {
    WireError::new("Internal error")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A job that says what is done with it.
    struct Told {
        event_bytes: usize,
        log: Arc<Mutex<String>>,
    }

    impl Job for Told {
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
            write_batch(&connection, event_bytes.iter().map(told).collect(), &Emitter::default());
            assert_eq!(*log.lock().unwrap(), expected);
        }
    }
}
