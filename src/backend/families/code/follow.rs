//! Keeping the index up to date. In: a request that is about to read. Out: the same index, with what was recently written to the
//! transcripts.
//!
//! There is no file watcher, and nothing runs between requests. If the last scan is older than
//! [`scan_interval`](super::config::CodeLimits::scan_interval), a request starts a new one in its own task, and waits for it at
//! most [`scan_wait`](super::config::CodeLimits::scan_wait). So the first scan of many transcripts continues in the background,
//! and each request sees the current progress.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::protocol::error::WireError;

use super::config::CodeConfig;
use super::scan::{Batch, Found, Tail};
use super::{index, scan};
use crate::backend::shared::db::Db;
use crate::server::{Party, Place, Places};

/// How much was read from disk for the index since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeStats {
    /// The number of scans of the folder.
    pub scans: u64,
    /// The number of changed files that were read.
    pub files_read: u64,
    /// The number of bytes that were read from them.
    pub bytes_read: u64,
}

/// The index of the transcripts. A clone is another handle to the same one.
#[derive(Debug, Clone)]
pub struct Code {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    db: Db,
    config: CodeConfig,
    /// When the last scan ended. Locked while one runs.
    scanned_at: Arc<Mutex<Option<Instant>>>,
    /// The turns of clients that restore files, and of those whose backups are hashed.
    restoring: Places<Party>,
    hashing: Places<Party>,
    scans: AtomicU64,
    files_read: AtomicU64,
    bytes_read: AtomicU64,
}

impl Code {
    /// Returns the index in a database. Nothing is read until the first request.
    pub fn new(db: Db, config: CodeConfig) -> Code {
        Code {
            shared: Arc::new(Shared {
                db,
                config,
                scanned_at: Arc::default(),
                restoring: Places::new(1),
                hashing: Places::new(1),
                scans: AtomicU64::new(0),
                files_read: AtomicU64::new(0),
                bytes_read: AtomicU64::new(0),
            }),
        }
    }

    /// Returns how much was read from disk since the start.
    pub fn stats(&self) -> CodeStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CodeStats {
            scans: count(&self.shared.scans),
            files_read: count(&self.shared.files_read),
            bytes_read: count(&self.shared.bytes_read),
        }
    }

    pub(super) fn config(&self) -> &CodeConfig {
        &self.shared.config
    }

    pub(super) fn db(&self) -> &Db {
        &self.shared.db
    }

    /// Waits until no other request restores files. Clients take turns.
    pub(super) async fn restore_turn(&self, party: Party) -> Place<Party> {
        self.shared.restoring.acquire(party).await
    }

    /// Waits until no other request hashes backups. Clients take turns.
    pub(super) async fn hash_turn(&self, party: Party) -> Place<Party> {
        self.shared.hashing.acquire(party).await
    }

    /// Updates the index if it is older than the limits allow.
    pub(super) async fn refresh(&self) {
        let limits = &self.config().limits;
        // After the time limit the request continues with the index as it is.
        let Ok(mut scanned_at) = timeout(limits.scan_wait, self.shared.scanned_at.clone().lock_owned()).await
        else {
            return;
        };
        if scanned_at.is_some_and(|at| at.elapsed() < limits.scan_interval) {
            return;
        }
        let code = self.clone();
        // In its own task, so that it continues when the client leaves.
        let scan = tokio::spawn(async move {
            // It fails if the database is closed or full. The next read or write reports that too.
            let _ = code.scan().await;
            *scanned_at = Some(Instant::now());
        });
        let _ = timeout(limits.scan_wait, scan).await;
    }

    async fn scan(&self) -> Result<(), WireError> {
        let Some(folder) = self.config().code_dir.clone() else { return Ok(()) };
        self.shared.scans.fetch_add(1, Ordering::Relaxed);
        let max_files = self.config().limits.max_files;
        let start = folder.clone();
        let walk = tokio::task::spawn_blocking(move || scan::walk(&start, max_files)).await?;
        let known = self.db().search(index::stamps).await?;
        let found: HashSet<&str> = walk.found.iter().map(|found| found.path.as_str()).collect();
        let mut deleted_files = HashSet::new();
        for path in known.keys().filter(|path| !found.contains(path.as_str())) {
            // In a folder that cannot be read, a missing file is not known to be deleted.
            if walk.unreadable.iter().any(|unreadable| path.starts_with(unreadable.as_str())) {
                continue;
            }
            let deleted = path.clone();
            let mut same_session =
                self.db().read(move |view| index::files_of_same_session(view, &deleted)).await?;
            // Other files of its session can contain the same lines, so they are read again.
            same_session.retain(|other| found.contains(other.as_str()));
            for path in same_session.iter().chain([path]) {
                self.delete(path).await?;
            }
            deleted_files.extend(same_session);
        }
        for found in &walk.found {
            if deleted_files.contains(&found.path) || known.get(&found.path) != Some(&found.stamp) {
                self.read_file(&folder, found).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, path: &str) -> Result<(), WireError> {
        loop {
            let path = path.to_owned();
            let has_more = self.db().write(move |change| index::delete_part(change, &path)).await?;
            if !has_more {
                return Ok(());
            }
        }
    }

    /// Reads the new lines of a file. A file that cannot be read is tried again in the next scan.
    async fn read_file(&self, folder: &Path, found: &Found) -> Result<(), WireError> {
        let path = found.path.clone();
        let before = self.db().read(move |view| index::progress(view, &path)).await?.unwrap_or_default();
        let (path, limits) = (folder.join(&found.path), self.config().limits.clone());
        let opened = tokio::task::spawn_blocking(move || Tail::open(&path, &before, limits)).await?;
        let Ok(mut tail) = opened else { return Ok(()) };
        self.shared.files_read.fetch_add(1, Ordering::Relaxed);
        if tail.is_new {
            self.delete(&found.path).await?;
        }
        let found = Arc::new(found.clone());
        loop {
            let (returned, batch) = tokio::task::spawn_blocking(move || {
                let batch = tail.next_batch();
                (tail, batch)
            })
            .await?;
            tail = returned;
            let bytes_read = std::mem::take(&mut tail.bytes_read);
            self.shared.bytes_read.fetch_add(bytes_read, Ordering::Relaxed);
            let Ok(batch) = batch else { return Ok(()) };
            let is_last = batch.is_last;
            self.add(found.clone(), batch).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn add(&self, found: Arc<Found>, batch: Batch) -> Result<(), WireError> {
        self.db().write(move |change| index::add(change, &found, &batch)).await
    }
}
