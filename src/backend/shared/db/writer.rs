//! The writing thread. In: writes and chores. Out: commits. See [`Waiting`] for the order of the writes.
//!
//! A transaction ends after a few milliseconds of work, so that a write waits for little more than one transaction and the turns of
//! other clients. Chores are done in steps between transactions, mostly while no client writes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::protocol::error::WireError;
use crate::server::Place;

use super::emitter::Emitter;
use super::open::BUSY_TIMEOUT;
use super::owner::Owner;
use super::waiting::{BACKGROUND_PAUSE, Waiting};
use super::write::{Chore, Job, Order, Progress, Write};

/// Most writes that share one transaction.
const MAX_BATCH: usize = 256;
/// Size of the events of one transaction at which it ends, in bytes. They are sent all at once, and even a client that reads fast
/// is closed if more than its outbox holds (4 MiB) is queued.
const MAX_BATCH_EVENT_BYTES: usize = 256 << 10;
/// Time after which a transaction takes no more writes. On a slow disk it is longer, as long as the last commit took.
const BATCH_TIME: Duration = Duration::from_millis(5);
const MAX_BATCH_TIME: Duration = Duration::from_millis(20);
/// Time after which a step of a chore is committed, and how long clients must be silent before one starts.
const STEP_TIME: Duration = Duration::from_millis(2);
/// The pause after a step that failed, for example because the disk is full.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    connection: Connection,
    orders: Receiver<Order>,
    emitter: Emitter,
    waiting: Waiting<(Write, Place<Owner>)>,
    batch_time: Duration,
    chores: Vec<Chore>,
    /// The chores that have more to do.
    due: VecDeque<Chore>,
    /// When the last step ended.
    stepped_at: Instant,
    /// When the next step can start if no client writes.
    step_at: Instant,
    /// Whether each commit is synced to the disk, as it must be for writes.
    is_synced: bool,
    closing: bool,
}

impl Writer {
    pub(super) fn new(connection: Connection, orders: Receiver<Order>, emitter: Emitter) -> Writer {
        let now = Instant::now();
        Writer {
            connection,
            orders,
            emitter,
            waiting: Waiting::new(now),
            batch_time: BATCH_TIME,
            chores: Vec::new(),
            due: VecDeque::new(),
            stepped_at: now,
            step_at: now,
            is_synced: true,
            closing: false,
        }
    }

    /// Writes until the database is closed.
    pub(super) fn run(mut self) {
        loop {
            if self.waiting.is_empty() && !self.closing {
                self.wait();
            }
            self.take_orders();
            if !self.waiting.is_empty() {
                let started = Instant::now();
                self.write_batch(|| started.elapsed());
            } else if self.closing {
                // Steps that are left are done after the next start.
                return;
            }
            self.step_if_due();
        }
    }

    /// Waits for an order, or until the next step of a chore can start.
    fn wait(&mut self) {
        let order = match self.due.is_empty() {
            true => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => self.orders.recv_timeout(self.step_at.saturating_duration_since(Instant::now())),
        };
        match order {
            Ok(order) => self.accept(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.accept(order);
        }
    }

    fn accept(&mut self, order: Order) {
        match order {
            // Writes that were queued before are done.
            Order::Close => self.closing = true,
            _ if self.closing => {}
            Order::Write(owner, write, place) => self.waiting.push(owner, (write, place)),
            Order::Chore(chore) => {
                self.chores.push(chore);
                self.due.push_back(chore);
            }
        }
    }

    /// Does writes in one transaction, commits it, and finishes each of them.
    fn write_batch(&mut self, elapsed: impl Fn() -> Duration) {
        // If the transaction cannot begin, the first write fails, and the next one tries again.
        let mut done: Vec<Write> = self.next_write().into_iter().collect();
        let committed = self.run_batch(&mut done, elapsed);
        if committed.is_err() {
            self.roll_back();
        }
        let committed = committed.map_err(|error: WireError| error.message);
        if committed.is_ok() && done.iter().any(|write| write.leaves_work()) {
            self.due = self.chores.iter().copied().collect();
        }
        for write in done {
            let committed = match &committed {
                Ok(()) => Ok(()),
                Err(cause) => Err(cause.as_ref()),
            };
            write.finish(committed, &self.emitter);
        }
        self.step_at = self.step_at.max(Instant::now() + STEP_TIME);
    }

    fn run_batch(&mut self, done: &mut Vec<Write>, elapsed: impl Fn() -> Duration) -> Result<(), WireError> {
        if !self.is_synced {
            self.connection.execute_batch("PRAGMA synchronous = FULL")?;
            self.is_synced = true;
        }
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut event_bytes = 0;
        while let Some(write) = done.last_mut() {
            run_alone(&self.connection, write.as_mut())?;
            event_bytes += write.event_bytes();
            let is_full = done.len() == MAX_BATCH || event_bytes >= MAX_BATCH_EVENT_BYTES;
            if is_full || elapsed() >= self.batch_time {
                break;
            }
            self.take_orders();
            let Some(next) = self.next_write() else { break };
            done.push(next);
        }
        let committing = Instant::now();
        self.connection.execute_batch("COMMIT")?;
        self.batch_time = committing.elapsed().clamp(BATCH_TIME, MAX_BATCH_TIME);
        Ok(())
    }

    /// Takes the next write from the queue, and frees its place there.
    fn next_write(&mut self) -> Option<Write> {
        self.waiting.pop(Instant::now()).map(|(write, _place)| write)
    }

    /// Does a step of a chore if no client waits, or if the last step was long ago.
    fn step_if_due(&mut self) {
        let now = Instant::now();
        let is_idle = self.waiting.is_empty() && now >= self.step_at;
        let is_late = now.saturating_duration_since(self.stepped_at) >= BACKGROUND_PAUSE;
        if self.closing || !(is_idle || is_late) {
            return;
        }
        let Some(chore) = self.due.pop_front() else { return };
        let stepped = self.step(chore);
        let end = Instant::now();
        // The pause is as long as the step, so that half of the time is left to others.
        let mut pause = end - now;
        if stepped.is_err() {
            self.roll_back();
            pause = FAILURE_PAUSE;
        }
        self.stepped_at = end + pause;
        self.step_at = end + pause;
        if !stepped.is_ok_and(|progress| progress == Progress::Done) {
            self.due.push_back(chore);
        }
    }

    /// Does some of a chore in one transaction. It is not synced to the disk: after a power
    /// failure it is done again.
    fn step(&mut self, chore: Chore) -> Result<Progress, WireError> {
        if self.is_synced {
            self.is_synced = false;
            self.connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        // While another process holds the lock, a step gives way at once: the writes of clients wait for it.
        self.connection.busy_timeout(Duration::ZERO)?;
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        begun?;
        let started = Instant::now();
        let connection = &self.connection;
        let work = AssertUnwindSafe(|| {
            loop {
                let progress = chore(connection)?;
                if progress != Progress::More || started.elapsed() >= STEP_TIME {
                    return Ok(progress);
                }
            }
        });
        let progress = catch_unwind(work).unwrap_or_else(|_| Err(WireError::new("Internal error")))?;
        self.connection.execute_batch("COMMIT")?;
        Ok(progress)
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // If this fails too, the next BEGIN reports it.
            let _ = self.connection.execute_batch("ROLLBACK");
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

#[cfg(test)]
mod tests;
