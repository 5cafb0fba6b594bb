//! Installs, updates and removes artifacts. Input: the name of a source, or the id of an artifact. Output: a folder on the
//! disk and the row that names it, both or neither.
//!
//! An installation runs in its own task, so that a client that leaves never cuts it in half. When the request is dropped
//! before the row is written, the installation stops and leaves nothing. There is one installation at a time, so that the
//! second of two with the same id is an update.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{OptionalExtension, params};
use tokio::task::spawn_blocking;

use crate::backend::shared::db::Change;
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

use super::manifest::Manifest;
use super::plan::PlannedFile;
use super::records::{artifact_event, artifact_json};
use super::store::{Artifacts, Lease};

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
pub(super) async fn install(artifacts: Artifacts, payload: Payload) -> Result<Payload, WireError> {
    let source = Fields::decode(&payload)?.required_text("source", 1..=MAX_SOURCE_BYTES)?;
    if artifacts.config().sources.is_empty() {
        return Err(refused("a server that was started without --artifact-source"));
    }
    let stop = StopOnDrop(Arc::default());
    let installed = tokio::spawn(install_whole(artifacts, source, stop.0.clone()));
    installed.await.map_err(|_| stopping())?
}

async fn install_whole(
    artifacts: Artifacts,
    source: String,
    stop: Arc<AtomicBool>,
) -> Result<Payload, WireError> {
    let permit = artifacts.installing().acquire_owned().await.map_err(|_| stopping())?;
    // The request can have been dropped while this installation waited for its turn.
    if stop.load(Ordering::Relaxed) {
        return Err(cancelled());
    }
    let (own, asked, stopped) = (artifacts.clone(), source.clone(), stop.clone());
    let staged = spawn_blocking(move || stage(&own, &asked, stopped));
    let staged = staged.await.map_err(|_| stopping())??;
    let folder = staged.folder.name().to_owned();
    let old = Arc::new(Mutex::new(None));
    let written = if stop.load(Ordering::Relaxed) {
        Err(cancelled())
    } else {
        let (old, max, files) =
            (old.clone(), artifacts.config().limits.max_artifacts, files_json(&staged.files));
        let (manifest, folder) = (staged.manifest, folder.clone());
        let row = move |change: &mut Change<'_>| {
            let row = NewRow { manifest: &manifest, source: &source, folder: &folder, files: &files };
            *old.lock().unwrap_or_else(PoisonError::into_inner) = write_row(change, &row, max)?;
            let artifact = artifact_json(change.connection, &manifest.id)?;
            let artifact = artifact.ok_or_else(|| WireError::new("Internal error"))?;
            change.emit("artifact:progress", progress(&manifest.id, "1"));
            let was_there = old.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            change.emit(
                if was_there { "artifact:updated" } else { "artifact:installed" },
                artifact_event(&artifact),
            );
            Ok(Payload::trusted(artifact))
        };
        artifacts.db().write(row).await
    };
    // The previous version, or the new one if its row was not written. Programs in it keep running.
    let discarded = match &written {
        Ok(_) => old.lock().unwrap_or_else(PoisonError::into_inner).take(),
        Err(_) => Some(folder),
    };
    drop(staged.folder);
    if let Some(discarded) = discarded {
        artifacts.discard(&discarded).await;
    }
    drop(permit);
    written
}

/// An artifact that is complete on the disk, but has no row yet.
struct Staged {
    folder: Lease,
    manifest: Manifest,
    files: Vec<PlannedFile>,
}

#[cfg(unix)]
fn stage(artifacts: &Artifacts, source: &str, stop: Arc<AtomicBool>) -> Result<Staged, WireError> {
    use std::os::unix::fs::DirBuilderExt;

    use super::copy::{Copier, create_private};
    use super::{invoke, source};
    use crate::backend::shared::files::sync_folder;

    let config = artifacts.config();
    let limits = &config.limits;
    let problem = |problem: String| refused(&problem);
    let opened = source::open(source, &config.sources, limits).map_err(problem)?;
    let survey = opened.survey(limits).map_err(problem)?;
    let manifest = Manifest::decode(&survey.manifest, limits)?;
    manifest.check_own_program(&survey.files)?;
    invoke::check_system_program(&manifest.program)?;

    artifacts.db().emit("artifact:progress", progress(&manifest.id, "0"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.folder)?;
    config.folder.parent().map_or(Ok(()), sync_folder)?;
    let uuid = Uuid::v4();
    let new = artifacts.lease(&format!(".new.{uuid}"));
    // Deleted unless it is renamed below.
    new.doom();
    create_private(&new.path())?;
    let (id, db) = (manifest.id.clone(), artifacts.db().clone());
    let report = move |done: f64| {
        db.emit("artifact:progress", progress(&id, &format!("{:.3}", done.clamp(0.0, 0.999))));
    };
    let mut copier = Copier::new(&new.path(), &survey.files, &survey.manifest, stop, report);
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

/// The new values of a row.
struct NewRow<'a> {
    manifest: &'a Manifest,
    source: &'a str,
    folder: &'a str,
    files: &'a str,
}

/// Writes a row and returns the folder that it named before. An update keeps the artifact enabled or disabled.
fn write_row(change: &mut Change<'_>, row: &NewRow<'_>, max: u32) -> Result<Option<String>, WireError> {
    let NewRow { manifest, source, folder, files } = row;
    let mut statement = change.connection.prepare_cached("SELECT folder FROM artifacts WHERE id = ?")?;
    let old: Option<String> = statement.query_row([&manifest.id], |row| row.get(0)).optional()?;
    let count: u32 = change
        .connection
        .prepare_cached("SELECT count(*) FROM artifacts")?
        .query_row([], |row| row.get(0))?;
    if old.is_none() && count >= max {
        return Err(refused(&format!("one more than the {max} artifacts allowed")));
    }
    change
        .connection
        .prepare_cached(
            "INSERT INTO artifacts (id, name, version, description, enabled, source, installed_at, updated_at, folder, manifest, files)
             VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET name = ?2, version = ?3, description = ?4, source = ?5, updated_at = ?6,
                 folder = ?7, manifest = ?8, files = ?9",
        )?
        .execute(params![
            manifest.id,
            manifest.name,
            manifest.version,
            manifest.description,
            source,
            change.unix_ms,
            folder,
            manifest.json,
            files
        ])?;
    Ok(old)
}

/// Removes the artifact that a payload names.
pub(super) async fn remove(artifacts: Artifacts, payload: Payload) -> Result<Payload, WireError> {
    // In its own task, so that the folder is deleted even if the client leaves.
    let removed = tokio::spawn(async move {
        let old = Arc::new(Mutex::new(None));
        let slot = old.clone();
        let row = move |change: &mut Change<'_>| {
            let id = Fields::decode(&payload)?.required_id("id")?;
            let mut statement =
                change.connection.prepare_cached("DELETE FROM artifacts WHERE id = ? RETURNING folder")?;
            let folder: Option<String> = statement.query_row([&id], |row| row.get(0)).optional()?;
            drop(statement);
            if folder.is_some() {
                change.emit("artifact:removed", Payload::trusted(Object::new().text("id", &id).finish()));
            }
            let was_there = folder.is_some();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = folder;
            Ok(Payload::from(serde_json::Value::Bool(was_there)))
        };
        let removed = artifacts.db().write(row).await?;
        let folder = old.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(folder) = folder {
            artifacts.discard(&folder).await;
        }
        Ok(removed)
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

fn refused(got: &str) -> WireError {
    wrong("source", "a folder or a .tar of plain files below an --artifact-source", got)
}
