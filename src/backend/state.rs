//! What the families work on: the database and the state of each family that keeps more than tables.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::config::BackendConfig;
use super::families::analytics::Analytics;
use super::families::artifact::Artifacts;
use super::families::code::Code;
use super::shared::db::Db;

/// An open database with the state of the families.
#[derive(Debug)]
pub struct Backend {
    db: Db,
    code: Code,
    artifacts: Artifacts,
    analytics: Analytics,
    config: BackendConfig,
    /// Aborted when the backend is closed or dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl Backend {
    pub(super) fn new(db: Db, config: BackendConfig) -> Backend {
        let code = Code::new(db.clone(), config.code.clone());
        let artifacts = Artifacts::new(db.clone(), config.artifact.clone());
        let analytics = Analytics::new(db.clone(), config.analytics.clone());
        Backend { db, code, artifacts, analytics, config, tasks: Mutex::default() }
    }

    /// Returns the database, for registering families one by one.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Returns the index of the transcripts.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Returns the installed artifacts.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Returns the statistics.
    pub fn analytics(&self) -> &Analytics {
        &self.analytics
    }

    pub(super) fn config(&self) -> &BackendConfig {
        &self.config
    }

    /// Starts a task that ends with the backend.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Finishes the queued writes and closes the database.
    pub async fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        // If the last records cannot be written now, they are lost.
        let _ = self.analytics.flush().await;
        self.db.close().await;
    }
}
