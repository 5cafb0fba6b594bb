//! Writing, rolling up and deleting records, periodically and on request.

use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::shared::clock::{ticks, unix_ms};
use crate::backend::shared::db::Db;
use crate::protocol::error::WireError;

use super::super::settings;
use super::calendar::DAY_MS;
use super::config::AnalyticsConfig;
use super::record::{Batch, Recorder};
use super::store;

/// Rows that are rolled up or deleted in one transaction, so that other writes can run in between.
const ROWS_AT_ONCE: i64 = 1_000;
/// The setting with the number of days to keep raw rows.
const RETENTION_SETTING: &str = "analytics.retentionDays";

/// The records of a backend, in memory and in its database. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Analytics {
    db: Db,
    recorder: Recorder,
    config: AnalyticsConfig,
}

impl Analytics {
    /// Returns the records in a database.
    pub fn new(db: Db, config: AnalyticsConfig) -> Analytics {
        Analytics { db, recorder: Recorder::new(config.record), config }
    }

    /// Returns the recorder for other families.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    /// Writes the records in memory to the database.
    ///
    /// # Errors
    /// When the database cannot write. The records stay in memory and are written the next time.
    pub async fn flush(&self) -> Result<(), WireError> {
        self.flush_through(&self.db).await
    }

    /// As [`flush`](Analytics::flush), with the turns of a handle.
    pub(super) async fn flush_through(&self, db: &Db) -> Result<(), WireError> {
        // Drained on the writing thread, so that a concurrent flush also waits for these records.
        let drained = Arc::new(Mutex::new(Batch::default()));
        let (recorder, batch) = (self.recorder.clone(), drained.clone());
        let write = move |connection: &rusqlite::Connection| {
            let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
            *batch = recorder.drain();
            store::insert(connection, &batch)
        };
        let recorder = self.recorder.clone();
        let done = move |written: bool| {
            if !written {
                let mut batch = drained.lock().unwrap_or_else(PoisonError::into_inner);
                recorder.put_back(std::mem::take(&mut *batch));
            }
        };
        db.write_background(write, done).await
    }

    /// Rolls up raw rows and returns their number.
    pub(super) async fn roll_up(&self) -> Result<i64, WireError> {
        self.repeat(|connection| store::roll_up(connection, ROWS_AT_ONCE)).await
    }

    /// Rolls up raw rows and deletes the old ones. Returns the number of deleted rows.
    pub(super) async fn clean_up(&self) -> Result<i64, WireError> {
        self.roll_up().await?;
        self.repeat(|connection| {
            let days = settings::integer(connection, RETENTION_SETTING)?.unwrap_or(i64::MAX);
            let before = unix_ms().saturating_sub(days.saturating_mul(DAY_MS));
            store::clean_up(connection, before, ROWS_AT_ONCE)
        })
        .await
    }

    /// Repeats `step` until it handles fewer than `ROWS_AT_ONCE` rows. Returns the number of all rows.
    async fn repeat(
        &self,
        step: fn(&rusqlite::Connection) -> Result<i64, WireError>,
    ) -> Result<i64, WireError> {
        let mut rows = 0;
        loop {
            let done = self.db.write(move |change| step(change.connection)).await?;
            rows += done;
            if done < ROWS_AT_ONCE {
                return Ok(rows);
            }
        }
    }

    /// Writes, rolls up and deletes records forever. A failure is tried again at the next interval.
    pub(crate) async fn keep(self) {
        let mut flushes = ticks(self.config.flush_interval);
        let mut rollups = ticks(self.config.rollup_interval);
        loop {
            let rollup_is_due = std::future::poll_fn(|cx| {
                let (rollup, flush) = (rollups.poll_tick(cx), flushes.poll_tick(cx));
                match (rollup.is_ready(), flush.is_ready()) {
                    (false, false) => std::task::Poll::Pending,
                    (rollup, _) => std::task::Poll::Ready(rollup),
                }
            });
            let rollup_is_due = rollup_is_due.await;
            let _ = self.flush().await;
            if rollup_is_due {
                let _ = self.clean_up().await;
            }
        }
    }
}
