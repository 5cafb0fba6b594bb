//! A write. In: a job. Out: its result and its events, after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Place;

use super::super::clock::unix_ms;
use super::emitter::Emitter;
use super::owner::Owner;

/// An order to the writing thread.
pub(super) enum Order {
    /// A write, whom it is for, and its place in the queue.
    Write(Owner, Write, Place<Owner>),
    Chore(Chore),
    Close,
}

/// Work that is done in small steps. Each call does a part of a step, which takes at most some milliseconds.
pub(crate) type Chore = fn(&Connection) -> Result<Progress, WireError>;

/// How a chore goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has more to do.
    More,
    /// It has nothing to do now, but perhaps after the next step of another chore.
    Later,
    /// It has nothing to do until a write leaves work.
    Done,
}

/// A queued write.
pub(super) type Write = Box<dyn Job>;

/// The sender of a write's result.
type Answer<T> = oneshot::Sender<Result<T, WireError>>;

/// Returns a write that can emit events.
pub(super) fn write<T, F>(job: F, answer: Answer<T>) -> Write
where
    T: Send + 'static,
    F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send + 'static,
{
    let result = Err(internal_error());
    Box::new(EmittingWrite { job: Some(job), result, events: Vec::new(), leaves_work: false, answer })
}

/// Returns a write that calls `done` with whether it is on disk.
pub(super) fn background_write(
    job: impl FnOnce(&Connection) -> Result<(), WireError> + Send + 'static,
    done: impl FnOnce(bool) + Send + 'static,
    answer: Answer<()>,
) -> Write {
    Box::new(BackgroundWrite { job: Some(job), result: Err(internal_error()), done, answer })
}

/// What the writing thread does with a write.
pub(super) trait Job: Send {
    /// Makes the changes. Returns whether to keep them.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Returns the size of its events, in bytes.
    fn event_bytes(&self) -> usize;
    /// Returns whether chores have more to do after it.
    fn leaves_work(&self) -> bool;
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
    leaves_work: bool,
}

impl Change<'_> {
    /// Sends an event to every client, after the change is on disk.
    pub(crate) fn emit(&mut self, channel: &'static str, payload: Payload) {
        self.events.push((channel, payload));
    }

    /// Leaves the rest of the work to what was given to [`Db::work_in_steps`](super::database::Db::work_in_steps).
    pub(crate) fn leave_work(&mut self) {
        self.leaves_work = true;
    }
}

struct EmittingWrite<T, F> {
    job: Option<F>,
    result: Result<T, WireError>,
    events: Vec<(&'static str, Payload)>,
    leaves_work: bool,
    answer: Answer<T>,
}

impl<T, F> Job for EmittingWrite<T, F>
where
    T: Send,
    F: FnOnce(&mut Change<'_>) -> Result<T, WireError> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(job) = self.job.take() else { return false };
        let mut change = Change { connection, unix_ms: unix_ms(), events: Vec::new(), leaves_work: false };
        let run = AssertUnwindSafe(|| job(&mut change));
        self.result = catch_unwind(run).unwrap_or_else(|_| Err(internal_error()));
        self.events = change.events;
        self.leaves_work = change.leaves_work;
        self.result.is_ok()
    }

    fn event_bytes(&self) -> usize {
        self.events.iter().filter_map(|(_, payload)| payload.as_str()).map(str::len).sum()
    }

    fn leaves_work(&self) -> bool {
        self.leaves_work
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

    fn leaves_work(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, committed: Result<(), &str>, _: &Emitter) {
        let not_saved = |cause| WireError::new(format!("nothing was saved: {cause}"));
        let result = self.result.and(committed.map_err(not_saved));
        (self.done)(result.is_ok());
        let _ = self.answer.send(result);
    }
}

fn internal_error() -> WireError {
    WireError::new("Internal error")
}
