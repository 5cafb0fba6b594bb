//! Installs, updates and removes artifacts. Input: the name of a source, or the id of an artifact. Output: a folder on the
//! disk and the row that names it, both or neither.
//!
//! An installation runs in its own task, so that a client that leaves never cuts it in half. When the request is dropped
//! before the row is written, the installation stops and leaves nothing. There is one installation at a time, so that the
//! second of two with the same id is an update.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::spawn_blocking;

use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;
use crate::server::Party;

use super::folders::{Artifacts, Lease};
use super::manifest::Manifest;
use super::plan::PlannedFile;
use super::store::{self, NewRow, artifact_event, refused};

/// The longest path that most systems allow.
const MAX_SOURCE_BYTES: usize = 4 << 10;

/// Stops an installation when its request is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Installs the source that a payload names.
pub(super) async fn install(
    artifacts: Artifacts,
    payload: Payload,
    party: Party,
) -> Result<Payload, WireError> {
    let source = Fields::decode(&payload)?.required_text("source", 1..=MAX_SOURCE_BYTES)?;
    if artifacts.config().sources.is_empty() {
        return Err(refused("a server that was started without --artifact-source"));
    }
    // A request that is dropped while it waits leaves the queue.
    let turn = artifacts.install_turn(party).await;
    let stop = StopOnDrop(Arc::default());
    let installing = install_whole(artifacts, source, stop.0.clone(), party);
    let installed = tokio::spawn(async move {
        let _turn = turn;
        installing.await
    });
    installed.await.map_err(|_| stopping())?
}

async fn install_whole(
    artifacts: Artifacts,
    source: String,
    stop: Arc<AtomicBool>,
    party: Party,
) -> Result<Payload, WireError> {
    let permit = artifacts.installing().acquire_owned().await.map_err(|_| stopping())?;
    // The request can have been dropped while this installation waited for the sweep.
    if stop.load(Ordering::Relaxed) {
        return Err(cancelled());
    }
    let (handle, name, stopped) = (artifacts.clone(), source.clone(), stop.clone());
    let staged = spawn_blocking(move || stage(&handle, &name, stopped));
    let staged = staged.await.map_err(|_| stopping())??;
    let folder = staged.folder.name().to_owned();
    let written = if stop.load(Ordering::Relaxed) {
        Err(cancelled())
    } else {
        let (files, max) = (files_json(&staged.files), artifacts.config().limits.max_artifacts);
        let (manifest, folder) = (staged.manifest, folder.clone());
        let db = artifacts.db().on_behalf_of(party);
        let write = db.write(move |change| {
            let row = NewRow { manifest: &manifest, source: &source, folder: &folder, files: &files };
            let (artifact, previous) = store::install(change, &row, max)?;
            change.emit("artifact:progress", progress(&manifest.id, "1"));
            let channel = if previous.is_some() { "artifact:updated" } else { "artifact:installed" };
            change.emit(channel, artifact_event(&artifact));
            Ok((Payload::trusted(artifact), previous))
        });
        write.await
    };
    // The previous version, or the new one if its row was not written. Programs in it keep running.
    let (response, discarded) = match written {
        Ok((artifact, previous)) => (Ok(artifact), previous),
        Err(error) => (Err(error), Some(folder)),
    };
    drop(staged.folder);
    if let Some(discarded) = discarded {
        artifacts.discard(&discarded).await;
    }
    drop(permit);
    response
}

/// An artifact that is complete on the disk, but has no row yet.
struct Staged {
    folder: Lease,
    manifest: Manifest,
    files: Vec<PlannedFile>,
}

#[cfg(unix)]
fn stage(artifacts: &Artifacts, source: &str, stop: Arc<AtomicBool>) -> Result<Staged, WireError> {
    use super::copy::Copier;
    use super::program::check_system_program;
    use super::source;
    use crate::backend::shared::below::Folder;
    use crate::backend::shared::files::{private_folder, sync_folder};

    let config = artifacts.config();
    let limits = &config.limits;
    let problem = |problem: String| refused(&problem);
    let opened = source::open(source, &config.sources, limits).map_err(problem)?;
    let survey = opened.survey(limits).map_err(problem)?;
    let manifest = Manifest::decode(&survey.manifest, limits)?;
    manifest.check_own_program(&survey.files)?;
    check_system_program(&manifest.program)?;

    artifacts.db().emit("artifact:progress", progress(&manifest.id, "0"));
    private_folder().recursive(true).create(&config.folder)?;
    config.folder.parent().map_or(Ok(()), sync_folder)?;
    let uuid = Uuid::v4();
    let new = artifacts.lease(&format!(".new.{uuid}"));
    // Deleted unless it is renamed below.
    new.doom();
    private_folder().create(new.path())?;
    let (id, db) = (manifest.id.clone(), artifacts.db().clone());
    let report = move |done: f64| {
        db.emit("artifact:progress", progress(&id, &format!("{:.3}", done.clamp(0.0, 0.999))));
    };
    let to = Folder::open(&new.path())?;
    let mut copier = Copier::new(to, &survey.files, &survey.manifest, stop, report);
    opened.copy(&survey, &mut copier, limits).and_then(|()| copier.finish()).map_err(problem)?;
    let folder = artifacts.lease(&format!("{}.{uuid}", manifest.id));
    std::fs::rename(new.path(), folder.path())?;
    sync_folder(&config.folder)?;
    Ok(Staged { folder, manifest, files: survey.files })
}

#[cfg(not(unix))]
fn stage(_: &Artifacts, _: &str, _: Arc<AtomicBool>) -> Result<Staged, WireError> {
    Err(WireError::new("artifacts are installed on Unix systems only"))
}

/// Removes the artifact that a payload names.
pub(super) async fn remove(
    artifacts: Artifacts,
    payload: Payload,
    party: Party,
) -> Result<Payload, WireError> {
    // In its own task, so that the folder is deleted even if the client leaves.
    let removed = tokio::spawn(async move {
        let db = artifacts.db().on_behalf_of(party);
        let write = db.write(move |change| {
            let id = Fields::decode(&payload)?.required_id("id")?;
            let folder = store::remove(change, &id)?;
            if folder.is_some() {
                change.emit("artifact:removed", Payload::trusted(Object::new().text("id", &id).finish()));
            }
            Ok(folder)
        });
        let folder = write.await?;
        if let Some(folder) = &folder {
            artifacts.discard(folder).await;
        }
        Ok(Payload::from(serde_json::Value::Bool(folder.is_some())))
    });
    removed.await.map_err(|_| stopping())?
}

fn files_json(files: &[PlannedFile]) -> String {
    let files = files.iter().map(|file| {
        let size = i64::try_from(file.size).unwrap_or(i64::MAX);
        Object::new().text("path", &file.path).integer("size", size).finish()
    });
    array(&files.collect::<Vec<_>>())
}

fn progress(id: &str, progress: &str) -> Payload {
    Payload::trusted(Object::new().text("id", id).raw("progress", progress).finish())
}

fn cancelled() -> WireError {
    WireError::new("the request was cancelled")
}

fn stopping() -> WireError {
    WireError::new("the server is stopping")
}
