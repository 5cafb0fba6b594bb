//! The folders of installed artifacts. Input: leases of folders, and which folders are obsolete. Output: folders that exist
//! as long as they are leased, and are deleted afterwards if they are obsolete.
//!
//! A folder is named `ID.UUID`. `.new.UUID` is the staging folder of an installation, `.run.UUID` the `HOME` of a program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::backend::shared::db::Db;
use crate::protocol::uuid::Uuid;
use crate::server::{Party, Place, Places};

use super::config::ArtifactConfig;
use super::store;

/// The installed artifacts. Clones refer to the same ones.
#[derive(Debug, Clone)]
pub struct Artifacts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    config: ArtifactConfig,
    /// The leased folders, by name.
    leased: Mutex<BTreeMap<String, Leases>>,
    /// One permit, of the installation that runs, or of the sweep.
    installing: Arc<Semaphore>,
    /// One place: clients take turns with installations.
    install_turns: Places<Party>,
    run_places: Places<Party>,
}

/// The leases of one folder.
#[derive(Debug, Default)]
struct Leases {
    count: usize,
    /// Whether the folder is deleted when the last lease ends.
    is_doomed: bool,
}

/// Keeps a folder from being deleted.
#[derive(Debug)]
pub(super) struct Lease {
    artifacts: Artifacts,
    name: String,
}

impl Artifacts {
    /// Creates the artifacts of a database. Nothing is read or written yet.
    pub fn new(db: Db, mut config: ArtifactConfig) -> Artifacts {
        // Programs run in another folder, where a relative path would lead elsewhere.
        if let Ok(folder) = std::path::absolute(&config.folder) {
            config.folder = folder;
        }
        let run_places = Places::new(config.limits.max_running);
        Artifacts {
            inner: Arc::new(Inner {
                db,
                config,
                leased: Mutex::default(),
                installing: Arc::new(Semaphore::new(1)),
                install_turns: Places::new(1),
                run_places,
            }),
        }
    }

    pub(super) fn db(&self) -> &Db {
        &self.inner.db
    }

    /// Returns the configuration, with an absolute folder.
    pub fn config(&self) -> &ArtifactConfig {
        &self.inner.config
    }

    /// An installation, and the sweep at the start, hold its permit.
    pub(super) fn installing(&self) -> Arc<Semaphore> {
        self.inner.installing.clone()
    }

    /// Waits until it is a client's turn with an installation.
    pub(super) async fn install_turn(&self, party: Party) -> Place<Party> {
        self.inner.install_turns.acquire(party).await
    }

    /// Waits for the place of a running program.
    pub(super) async fn run_place(&self, party: Party) -> Place<Party> {
        self.inner.run_places.acquire(party).await
    }

    /// Returns the path of a folder.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.config().folder.join(name)
    }

    /// Leases a folder, which need not exist yet.
    pub(super) fn lease(&self, name: &str) -> Lease {
        self.leased().entry(name.to_owned()).or_default().count += 1;
        Lease { artifacts: self.clone(), name: name.to_owned() }
    }

    /// Deletes a folder, now or when its last lease ends.
    pub(super) async fn discard(&self, name: &str) {
        let lease = self.lease(name);
        lease.doom();
        // Deleting a large folder would block the runtime's thread.
        let _ = spawn_blocking(move || drop(lease)).await;
    }

    /// Deletes the folders of an earlier run that no row refers to. Those that cannot be deleted are left to the next
    /// start. Call it before the first installation; installations wait until it is done.
    pub fn sweep(&self) -> impl Future<Output = ()> + Send + use<> {
        let artifacts = self.clone();
        // Taken now, not at the first poll, so that no installation can come first.
        let permit = self.installing().try_acquire_owned();
        async move {
            let Ok(_permit) = permit else { return };
            let Ok(named) = artifacts.db().read(store::folders).await else { return };
            let swept = spawn_blocking(move || artifacts.delete_all_but(&named));
            // It fails if the folder does not exist, and then there is nothing to delete.
            let _ = swept.await;
        }
    }

    fn delete_all_but(&self, named: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.config().folder)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let is_ours = name.rsplit_once('.').is_some_and(|(_, uuid)| uuid.parse::<Uuid>().is_ok());
            if is_ours && !named.contains(&name) && !self.leased().contains_key(&name) {
                // The next start tries again.
                let _ = fs::remove_dir_all(self.path_of(&name));
            }
        }
        Ok(())
    }

    fn leased(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Leases>> {
        self.inner.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes a folder. If that fails, the sweep of the next start deletes it.
fn delete_folder(path: &Path) {
    /// A process that was just killed can still create a file in it.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

impl Lease {
    /// Returns the folder's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder's path.
    pub(super) fn path(&self) -> PathBuf {
        self.artifacts.path_of(&self.name)
    }

    /// Marks the folder to be deleted when its last lease ends.
    pub(super) fn doom(&self) {
        if let Some(leases) = self.artifacts.leased().get_mut(&self.name) {
            leases.is_doomed = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leased = self.artifacts.leased();
        let Some(leases) = leased.get_mut(&self.name) else {
            debug_assert!(false, "a lease is counted until it is dropped");
            return;
        };
        leases.count = leases.count.saturating_sub(1);
        if leases.count == 0 {
            let is_doomed = leases.is_doomed;
            leased.remove(&self.name);
            drop(leased);
            if is_doomed {
                delete_folder(&self.path());
            }
        }
    }
}
