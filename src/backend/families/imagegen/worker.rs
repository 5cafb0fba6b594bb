//! The worker: one task that makes one batch at a time, in turns for each client. Each step is written to the database before its
//! event is emitted, so that a restarted server continues where it stopped.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::backend::shared::db::{Change, Db};
use crate::backend::shared::provider::{Host, no_key};
use crate::protocol::error::WireError;
use crate::protocol::uuid::Uuid;
use crate::server::{ClientId, Party, RequestContext};

use super::super::analytics::{ImageBatch, Recorder};
use super::super::credentials;
use super::config::ImagegenConfig;
use super::files::Folder;
use super::job::{Batch, GeneratedImage};
use super::picture::Format;
use super::providers::{self, Engine};
use super::store::{self, StoredImage, Task, Waiting};
use super::turns::Turns;
use super::upstream::Upstream;

/// The pause before a failed access to the database is retried.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// Files that are looked up in one transaction when the folder is swept.
const SWEPT_AT_ONCE: usize = 1000;

/// How handlers notify the worker.
#[derive(Debug, Default)]
pub(super) struct Signals {
    queued: Notify,
    /// The entry that is processed, and how to cancel it.
    current: Mutex<Option<(String, Arc<Notify>)>>,
    /// The connected clients that have made entries, and who takes turns for each.
    clients: Mutex<HashMap<ClientId, Party>>,
}

/// Belongs to the connection of a client that has made entries, and is dropped with it.
struct Presence {
    signals: Weak<Signals>,
    client: ClientId,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(signals) = self.signals.upgrade() {
            signals.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.client);
        }
    }
}

impl Signals {
    /// Wakes the worker: an entry was queued.
    pub(super) fn queued(&self) {
        self.queued.notify_one();
    }

    /// Gives a client turns of its own, as long as it is connected, or those of its identity.
    pub(super) fn joined(self: &Arc<Self>, cx: &RequestContext) {
        let client = cx.client_id;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(client, cx.party());
        let connection = cx.connection();
        if connection.data::<Presence>().is_none() {
            connection.set_data(Presence { signals: Arc::downgrade(self), client });
        }
    }

    /// Returns who takes turns for the client with this id, if it is connected. All others share their turns: otherwise one
    /// that connects for each of its entries would have as many turns as entries.
    fn connected(&self, client: Option<&str>) -> Option<Party> {
        let client = client?.parse().ok()?;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&client).copied()
    }

    /// Stops the worker's current batch if it belongs to this entry.
    pub(super) fn cancelled(&self, entry: &str) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cancel)) = current.as_ref().filter(|(id, _)| id == entry) {
            cancel.notify_one();
        }
    }

    fn set_current(&self, current: Option<(String, Arc<Notify>)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// The worker, before it runs.
pub(super) struct Worker {
    pub(super) db: Db,
    pub(super) config: Arc<ImagegenConfig>,
    pub(super) folder: Folder,
    pub(super) signals: Arc<Signals>,
    pub(super) recorder: Recorder,
}

/// Whether an entry has further batches.
enum Progress {
    Unfinished,
    Finished,
}

/// Why a job did not complete.
enum JobError {
    /// A client cancelled the entry.
    Cancelled,
    /// With the message for clients.
    Failed(String),
}

impl From<WireError> for JobError {
    fn from(error: WireError) -> JobError {
        JobError::Failed(error.message.into_owned())
    }
}

impl Worker {
    /// Processes the queue forever.
    pub(super) async fn run(self) {
        until_done(|| self.db.write(store::requeue)).await;
        self.sweep().await;
        let mut turns = Turns::new();
        loop {
            let Ok(waiting) = self.db.read(store::waiting).await else {
                sleep(DATABASE_PAUSE).await;
                continue;
            };
            let of = |(client, _): &Waiting| self.signals.connected(client.as_deref());
            let clients: Vec<Option<Party>> = waiting.iter().map(of).collect();
            let next = turns.next(&clients);
            // The first one found is the oldest.
            match clients.iter().zip(waiting).find(|(client, _)| next.as_ref() == Some(*client)) {
                Some((_, (_, entry))) => self.take_turn(entry).await,
                None => self.signals.queued.notified().await,
            }
        }
    }

    /// Writes a step that returns `false` if the entry was cancelled before it.
    async fn step<F>(&self, job: F) -> Result<(), JobError>
    where
        F: FnOnce(&mut Change<'_>) -> Result<bool, WireError> + Send + 'static,
    {
        if self.db.write(job).await? { Ok(()) } else { Err(JobError::Cancelled) }
    }

    /// Makes one batch of an entry, and ends the entry with its last batch.
    async fn take_turn(&self, id: String) {
        let cancel = Arc::new(Notify::new());
        // Before the entry is read, so that no cancellation is missed.
        self.signals.set_current(Some((id.clone(), cancel.clone())));
        let entry = id.clone();
        let made = match self.db.read(move |view| store::task(view, &entry)).await {
            Ok(Some(task)) => self.make_next_batch(&task, &cancel).await,
            Ok(None) => Err(JobError::Cancelled),
            Err(error) => Err(error.into()),
        };
        self.signals.set_current(None);
        let (status, error) = match made {
            Ok(Progress::Unfinished) => return,
            Ok(Progress::Finished) => ("completed", None),
            // The request that cancelled it has written the status.
            Err(JobError::Cancelled) => return,
            Err(JobError::Failed(error)) => ("failed", Some(error)),
        };
        // Retried until it is written: otherwise the entry would look as if it were running.
        until_done(|| {
            let (id, error) = (id.clone(), error.clone());
            self.db.write(move |change| {
                // A job that could not start is still queued.
                store::end(change, &id, &["running", "queued"], status, error.as_deref())
            })
        })
        .await;
    }

    async fn make_next_batch(&self, task: &Task, cancel: &Notify) -> Result<Progress, JobError> {
        if !task.is_running {
            let id = task.id.clone();
            self.step(move |change| store::start_job(change, &id)).await?;
        }
        let index = task.batches_done;
        if index < task.batch_count {
            let id = task.id.clone();
            self.step(move |change| store::start_batch(change, &id, index)).await?;
            let mut batch = task.batch.clone();
            let images_before = index.saturating_mul(i64::from(batch.size));
            batch.seed = batch.seed.map(|seed| seed.saturating_add(images_before));
            let started = Instant::now();
            let made = self.make_batch(task, index, &batch, cancel).await;
            self.record(task, started.elapsed(), &made);
            made?;
        }
        Ok(if index + 1 < task.batch_count { Progress::Unfinished } else { Progress::Finished })
    }

    /// Generates and stores one batch. Returns its number of images.
    async fn make_batch(
        &self,
        task: &Task,
        index: i64,
        batch: &Batch,
        cancel: &Notify,
    ) -> Result<u64, JobError> {
        let generated =
            until_stopped(cancel, self.generate(task, batch)).await.ok_or(JobError::Cancelled)??;
        let count = generated.len() as u64;
        self.store(task, index, batch, generated).await?;
        Ok(count)
    }

    /// Records a batch for the statistics, unless it was cancelled.
    fn record(&self, task: &Task, took: Duration, made: &Result<u64, JobError>) {
        let (images, failed) = match made {
            Ok(images) => (*images, false),
            Err(JobError::Failed(_)) => (0, true),
            Err(JobError::Cancelled) => return,
        };
        let (provider, model) = (&*task.provider, task.batch.model.as_deref().unwrap_or_default());
        self.recorder.images(&ImageBatch { provider, model, images, took, failed });
    }

    async fn generate(&self, task: &Task, batch: &Batch) -> Result<Vec<GeneratedImage>, JobError> {
        let Some(provider) = providers::find(&task.provider) else {
            return Err(JobError::Failed(format!("unknown provider {:?}", task.provider)));
        };
        let dialect = match provider.engine {
            Engine::BuiltIn(draw) => return Ok(draw(batch, getrandom::u32().unwrap_or_default())),
            Engine::Network(dialect) => dialect,
        };
        let name = provider.name;
        let ImagegenConfig { api_keys, key_origins, .. } = &*self.config;
        let access = credentials::access(&self.db, "imagegen", name, api_keys, key_origins).await?;
        if access.key.is_none() && access.host == Host::Own && dialect.needs_key {
            return Err(JobError::Failed(no_key(name)));
        }
        let upstream = Upstream { dialect, access, config: &self.config };
        upstream.generate(batch).await.map_err(|failure| JobError::Failed(failure.message))
    }

    /// Writes the images of a batch to the disk, then their rows.
    async fn store(
        &self,
        task: &Task,
        index: i64,
        batch: &Batch,
        generated: Vec<GeneratedImage>,
    ) -> Result<(), JobError> {
        let bytes: usize = generated.iter().map(|image| image.picture.bytes.len()).sum();
        let total = self.db.search(store::total_bytes).await?;
        let max = self.config.max_total_bytes;
        debug_assert!(total >= 0, "a sum of sizes");
        if u64::try_from(total).unwrap_or_default().saturating_add(bytes as u64) > max {
            return Err(JobError::Failed(format!("all images together would exceed {max} bytes")));
        }
        let (size, folder) = ((batch.width, batch.height), self.folder.clone());
        let stored = tokio::task::spawn_blocking(move || write_files(&folder, size, generated)).await;
        let stored = stored.map_err(|_| JobError::Failed("Internal error".to_owned()))?;
        let stored =
            stored.map_err(|error| JobError::Failed(format!("an image cannot be written: {error}")))?;
        let (id, images) = (task.id.clone(), stored.clone());
        let finished = self.step(move |change| store::finish_batch(change, &id, index, &images)).await;
        if finished.is_err() {
            // Files without rows would stay until the next start.
            let folder = self.folder.clone();
            let removed = tokio::task::spawn_blocking(move || {
                folder.remove(stored.iter().map(|image| (&*image.id, image.format)));
            });
            let _ = removed.await;
        }
        finished
    }

    /// Removes the files that have no row. If that fails, the next start tries again.
    async fn sweep(&self) {
        let folder = self.folder.clone();
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || folder.list()).await else { return };
        for files in found.chunks(SWEPT_AT_ONCE) {
            let ids = files.iter().map(|(id, _)| id.clone()).collect();
            let Ok(unknown) = self.db.read(move |view| store::unknown(view, ids)).await else { return };
            let is_orphan = |(id, name): &&(String, String)| unknown.contains(id) || name.ends_with(".tmp");
            let orphans: Vec<String> = files.iter().filter(is_orphan).map(|(_, name)| name.clone()).collect();
            let folder = self.folder.clone();
            let swept =
                tokio::task::spawn_blocking(move || orphans.iter().for_each(|name| folder.remove_name(name)));
            let _ = swept.await;
        }
    }
}

/// Writes the files of a batch. `size` is that of images whose own size is unknown.
fn write_files(
    folder: &Folder,
    size: (u32, u32),
    generated: Vec<GeneratedImage>,
) -> std::io::Result<Vec<StoredImage>> {
    let ids: Vec<String> = generated.iter().map(|_| Uuid::v4().to_string()).collect();
    let files: Vec<(&str, Format, &[u8])> = ids
        .iter()
        .zip(&generated)
        .map(|(id, image)| (&**id, image.picture.format, image.picture.bytes.as_slice()))
        .collect();
    folder.write(&files)?;
    let stored = ids.into_iter().zip(generated).map(|(id, GeneratedImage { picture, seed })| {
        let (width, height) = picture.size.unwrap_or(size);
        let bytes = i64::try_from(picture.bytes.len()).unwrap_or(i64::MAX);
        StoredImage { id, format: picture.format, bytes, width, height, seed }
    });
    Ok(stored.collect())
}

/// Repeats a write until it succeeds. It can fail while the disk is full, for example.
async fn until_done<T, F: Future<Output = Result<T, WireError>>>(attempt: impl Fn() -> F) {
    while attempt().await.is_err() {
        sleep(DATABASE_PAUSE).await;
    }
}

/// Runs `future` to completion, or drops it and returns `None` if stopped first.
async fn until_stopped<T>(stop: &Notify, future: impl Future<Output = T>) -> Option<T> {
    let (mut stopped, mut future) = (pin!(stop.notified()), pin!(future));
    poll_fn(|cx| match stopped.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::payload::Payload;
    use crate::server::{Config, Server};

    #[tokio::test]
    async fn a_client_has_turns_of_its_own_until_it_has_left() {
        let (server, signals) = (Server::new(Config::default()), Arc::new(Signals::default()));
        let handler = signals.clone();
        server.on_request("join", move |_: Payload, cx: RequestContext| {
            handler.joined(&cx);
            handler.joined(&cx);
            let is_known = handler.connected(Some(&cx.client_id.to_string())) == Some(cx.party());
            async move { Ok::<_, WireError>(serde_json::json!(is_known)) }
        });
        let answer = server.call("join", ()).await.expect("an answer");
        assert_eq!(answer.as_str(), Some("true"));
        assert!(signals.clients.lock().expect("nothing panics").is_empty());
    }
}
