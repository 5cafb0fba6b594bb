//! The folders of installed artifacts. In: who uses which one, and which ones no longer count. Out: folders that are there
//! as long as anybody uses them, and no longer.
//!
//! A folder is called `ID.UUID`; `.new.UUID` is one that is being made, and `.run.UUID` what a program has as its home.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::protocol::uuid::Uuid;

use super::config::ArtifactConfig;
use crate::backend::shared::db::Db;

/// The installed artifacts. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Artifacts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    db: Db,
    config: ArtifactConfig,
    /// Folders that are in use, by name.
    uses: Mutex<BTreeMap<String, Use>>,
    /// One permit: installations go one after the other.
    installing: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Use {
    leases: usize,
    /// Whether the last one to leave deletes it.
    is_doomed: bool,
}

/// A folder that stays as long as this is held.
#[derive(Debug)]
pub(super) struct Lease {
    artifacts: Artifacts,
    name: String,
}

impl Artifacts {
    /// The artifacts of a database. Nothing is read or written until somebody asks.
    pub fn new(db: Db, mut config: ArtifactConfig) -> Artifacts {
        // A program that runs elsewhere would look for a relative name from there.
        if let Ok(folder) = std::path::absolute(&config.folder) {
            config.folder = folder;
        }
        let running = Semaphore::new(config.limits.max_running.clamp(1, Semaphore::MAX_PERMITS));
        Artifacts {
            shared: Arc::new(Shared {
                db,
                config,
                uses: Mutex::default(),
                installing: Arc::new(Semaphore::new(1)),
                running: Arc::new(running),
            }),
        }
    }

    pub(super) fn db(&self) -> &Db {
        &self.shared.db
    }

    /// Its configuration.
    pub fn config(&self) -> &ArtifactConfig {
        &self.shared.config
    }

    /// Whoever installs, or looks for what nobody uses, waits for a permit.
    pub(super) fn installing(&self) -> Arc<Semaphore> {
        self.shared.installing.clone()
    }

    /// A program that runs has a permit.
    pub(super) fn running(&self) -> Arc<Semaphore> {
        self.shared.running.clone()
    }

    /// Where a folder is.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.config().folder.join(name)
    }

    /// A folder, which need not be there yet, for as long as the lease is held.
    pub(super) fn lease(&self, name: &str) -> Lease {
        self.uses().entry(name.to_owned()).or_default().leases += 1;
        Lease { artifacts: self.clone(), name: name.to_owned() }
    }

    /// Deletes a folder now, if nobody uses it, or else when the last one is done with it.
    pub(super) async fn discard(&self, name: &str) {
        let lease = self.lease(name);
        lease.doom();
        // It may be large, so not on a thread that others wait for.
        let _ = spawn_blocking(move || drop(lease)).await;
    }

    /// Deletes what an earlier run has left behind: folders of ours that no row names. What cannot be deleted is left to
    /// the next start. Installations wait meanwhile; this is to be called before the first one.
    pub fn sweep(&self) -> impl Future<Output = ()> + Send + use<> {
        let artifacts = self.clone();
        // Taken at once, and not when somebody first polls.
        let permit = self.installing().try_acquire_owned();
        async move {
            let Ok(_permit) = permit else { return };
            let named = artifacts.db().read(|view| {
                let mut statement = view.connection.prepare_cached("SELECT folder FROM artifacts")?;
                let folders = statement.query_map([], |row| row.get::<_, String>(0))?;
                Ok(folders.collect::<Result<BTreeSet<_>, _>>()?)
            });
            let Ok(named) = named.await else { return };
            let swept = spawn_blocking(move || artifacts.delete_all_but(&named));
            // A folder that is not there holds nothing to delete.
            let _ = swept.await;
        }
    }

    fn delete_all_but(&self, named: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.config().folder)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let is_ours = name.rsplit_once('.').is_some_and(|(_, uuid)| uuid.parse::<Uuid>().is_ok());
            if is_ours && !named.contains(&name) && !self.uses().contains_key(&name) {
                // What somebody else has made of it is not worth failing for.
                let _ = fs::remove_dir_all(self.path_of(&name));
            }
        }
        Ok(())
    }

    fn uses(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Use>> {
        self.shared.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes a folder; at the next start, if it cannot be done now.
fn delete_folder(path: &Path) {
    /// A process that was killed may be writing its last file.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

impl Lease {
    /// The folder's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> PathBuf {
        self.artifacts.path_of(&self.name)
    }

    /// Has the folder deleted when the last lease ends, by whoever holds that.
    pub(super) fn doom(&self) {
        if let Some(used) = self.artifacts.uses().get_mut(&self.name) {
            used.is_doomed = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut uses = self.artifacts.uses();
        let Some(used) = uses.get_mut(&self.name) else { return };
        used.leases = used.leases.saturating_sub(1);
        if used.leases == 0 {
            let is_doomed = used.is_doomed;
            uses.remove(&self.name);
            drop(uses);
            if is_doomed {
                delete_folder(&self.path());
            }
        }
    }
}
