//! The worker: one task that takes entries in the order in which they were made, and makes their batches one after another.
//! What it does stands in the database before anybody is told of it, so a program that ends anywhere goes on from there.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;
use crate::server::Server;

use super::super::analytics::{ImageBatch, Recorder};
use super::super::credentials;
use super::super::settings;
use super::config::ImagegenConfig;
use super::files::Folder;
use super::job::{self, Batch, Made, Provider};
use super::picture::Kind;
use super::store::{self, Stored, Task};
use super::upstream;
use crate::backend::shared::db::{Change, Db};
use crate::backend::shared::provider::Access;

/// The pause before the database is tried again that could not be read or written.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// Files that are looked up at once when the folder is swept.
const SWEPT_AT_ONCE: usize = 1000;

/// How handlers reach the worker.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// There may be something to do.
    queued: Notify,
    /// The entry that is worked on, and how to say that it is cancelled.
    current: Mutex<Option<(String, Arc<Notify>)>>,
}

impl Bell {
    /// An entry was queued.
    pub(super) fn ring(&self) {
        self.queued.notify_one();
    }

    /// An entry was cancelled: if it is worked on, that ends now.
    pub(super) fn stop(&self, entry: &str) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stop)) = current.as_ref().filter(|(id, _)| id == entry) {
            stop.notify_one();
        }
    }

    fn set_current(&self, current: Option<(String, Arc<Notify>)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// The worker's tools.
pub(super) struct Worker {
    pub(super) server: Server,
    pub(super) db: Db,
    pub(super) config: Arc<ImagegenConfig>,
    pub(super) folder: Folder,
    pub(super) bell: Arc<Bell>,
    pub(super) recorder: Recorder,
}

/// Why a job did not come to its end.
enum Stop {
    /// The entry does not run any more: somebody cancelled it.
    Cancelled,
    /// It failed.
    Failed(String),
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Stop {
        Stop::Failed(error.message.into_owned())
    }
}

impl Worker {
    /// Works for ever.
    pub(super) async fn run(self) {
        until_done(|| self.write(store::queue_again)).await;
        self.sweep().await;
        loop {
            match self.db.read(store::next_task).await {
                Ok(Some(task)) => self.work(&task).await,
                Ok(None) => self.bell.queued.notified().await,
                Err(_) => sleep(DATABASE_PAUSE).await,
            }
        }
    }

    async fn write<F>(&self, job: F) -> Result<Payload, WireError>
    where
        F: FnOnce(&mut Change<'_>) -> Result<Payload, WireError> + Send + 'static,
    {
        self.db.write(self.server.clone(), job).await
    }

    /// Does a step of an entry that is answered with whether the entry was still there for it.
    async fn step<F>(&self, job: F) -> Result<(), Stop>
    where
        F: FnOnce(&mut Change<'_>) -> Result<Payload, WireError> + Send + 'static,
    {
        match self.write(job).await?.as_str() {
            Some("true") => Ok(()),
            _ => Err(Stop::Cancelled),
        }
    }

    /// Works on one entry until it has ended.
    async fn work(&self, task: &Task) {
        let stop = Arc::new(Notify::new());
        // Before the job begins: whoever cancels it from now on is heard.
        self.bell.set_current(Some((task.id.clone(), stop.clone())));
        let worked = self.make_batches(task, &stop).await;
        self.bell.set_current(None);
        let (status, error) = match worked {
            Ok(()) => ("completed", None),
            // The database has it already.
            Err(Stop::Cancelled) => return,
            Err(Stop::Failed(error)) => ("failed", Some(error)),
        };
        // As long as this is not written the entry would seem to run.
        until_done(|| {
            let (id, error) = (task.id.clone(), error.clone());
            self.write(move |change| {
                // A job that could not be begun has not left the queue.
                store::end(change, &id, &["running", "queued"], status, error.as_deref())?;
                Ok(Payload::none())
            })
        })
        .await;
    }

    async fn make_batches(&self, task: &Task, stop: &Notify) -> Result<(), Stop> {
        let id = task.id.clone();
        self.step(move |change| store::begin(change, &id)).await?;
        for index in task.batches_done..task.batch_count {
            let id = task.id.clone();
            self.step(move |change| store::begin_batch(change, &id, index)).await?;
            let mut batch = task.batch.clone();
            let before = index.saturating_mul(i64::from(batch.size));
            batch.seed = batch.seed.map(|seed| seed.saturating_add(before));
            let started = Instant::now();
            let made = self.make_batch(task, index, &batch, stop).await;
            self.record(&batch, started.elapsed(), &made);
            made?;
        }
        Ok(())
    }

    /// Makes one batch and keeps it. Answers how many images it has.
    async fn make_batch(&self, task: &Task, index: i64, batch: &Batch, stop: &Notify) -> Result<u64, Stop> {
        let made = unless(stop, self.make(batch)).await.ok_or(Stop::Cancelled)??;
        let images = made.len() as u64;
        self.keep(task, index, batch, made).await?;
        Ok(images)
    }

    /// Counts a batch, unless somebody wanted it no more.
    fn record(&self, batch: &Batch, took: Duration, made: &Result<u64, Stop>) {
        let (images, failed) = match made {
            Ok(images) => (*images, false),
            Err(Stop::Failed(_)) => (0, true),
            Err(Stop::Cancelled) => return,
        };
        let (provider, model) = (batch.provider.as_str(), batch.model.as_deref().unwrap_or_default());
        self.recorder.images(&ImageBatch { provider, model, images, took, failed });
    }

    async fn make(&self, batch: &Batch) -> Result<Vec<Made>, Stop> {
        if batch.provider == Provider::Pattern {
            return Ok(job::draw(batch, getrandom::u32().unwrap_or_default()));
        }
        let name = batch.provider.as_str();
        let base_url = settings::text(&self.db, &format!("imagegen.{name}.baseUrl")).await?;
        let key = credentials::token(&self.db, name).await?;
        let key = key.or_else(|| self.config.api_keys.get(name).cloned());
        let is_own = base_url.is_default;
        if key.is_none() && is_own && batch.provider == Provider::OpenAi {
            return Err(Stop::Failed(format!("{name}: there is no key: set the credential \"{name}\"")));
        }
        let access = Access { base_url: base_url.text, is_own, key };
        let made = upstream::make(batch, &access, &self.config).await;
        made.map_err(|failure| Stop::Failed(failure.message))
    }

    /// Writes a batch's images to the disk, then their rows.
    async fn keep(&self, task: &Task, index: i64, batch: &Batch, made: Vec<Made>) -> Result<(), Stop> {
        let bytes: usize = made.iter().map(|made| made.picture.bytes.len()).sum();
        let total = self.db.read(store::total_bytes).await?;
        let max = self.config.max_total_bytes;
        if u64::try_from(total).unwrap_or_default().saturating_add(bytes as u64) > max {
            return Err(Stop::Failed(format!("the images would have more than {max} bytes together")));
        }
        let (size, folder) = ((batch.width, batch.height), self.folder.clone());
        let stored = tokio::task::spawn_blocking(move || write_files(&folder, size, made)).await;
        let stored = stored.map_err(|_| Stop::Failed("Internal error".to_owned()))?;
        let stored = stored.map_err(|error| Stop::Failed(format!("an image cannot be written: {error}")))?;
        let (id, images) = (task.id.clone(), stored.clone());
        let kept = self.step(move |change| store::finish_batch(change, &id, index, &images)).await;
        if kept.is_err() {
            // Without rows the files are nobody's.
            let folder = self.folder.clone();
            let removed = tokio::task::spawn_blocking(move || {
                let files = stored
                    .iter()
                    .filter_map(|image| Some((&*image.id, Kind::from_mime_type(image.mime_type)?)));
                folder.remove(files);
            });
            let _ = removed.await;
        }
        kept
    }

    /// Removes the files that have no row. What stands in the way of that is no reason not to work.
    async fn sweep(&self) {
        let folder = self.folder.clone();
        let Ok(Ok(found)) = tokio::task::spawn_blocking(move || folder.list()).await else { return };
        for some in found.chunks(SWEPT_AT_ONCE) {
            let ids = some.iter().map(|(id, _)| id.clone()).collect();
            let Ok(unknown) = self.db.read(move |view| store::unknown(view, ids)).await else { return };
            let is_left = |(id, name): &&(String, String)| unknown.contains(id) || name.ends_with(".tmp");
            let left: Vec<String> = some.iter().filter(is_left).map(|(_, name)| name.clone()).collect();
            let folder = self.folder.clone();
            let swept =
                tokio::task::spawn_blocking(move || left.iter().for_each(|name| folder.remove_name(name)));
            let _ = swept.await;
        }
    }
}

fn write_files(folder: &Folder, size: (u32, u32), made: Vec<Made>) -> std::io::Result<Vec<Stored>> {
    let ids: Vec<String> = made.iter().map(|_| Uuid::v4().to_string()).collect();
    let files: Vec<(&str, Kind, &[u8])> = ids
        .iter()
        .zip(&made)
        .map(|(id, made)| (&**id, made.picture.kind, made.picture.bytes.as_slice()))
        .collect();
    folder.write(&files)?;
    let stored = ids.into_iter().zip(made).map(|(id, made)| {
        let (width, height) = made.picture.size.unwrap_or(size);
        Stored {
            id,
            mime_type: made.picture.kind.mime_type(),
            bytes: i64::try_from(made.picture.bytes.len()).unwrap_or(i64::MAX),
            width,
            height,
            seed: made.seed,
        }
    });
    Ok(stored.collect())
}

/// Tries until it works: while the disk is full, say, nothing else can be done.
async fn until_done<T, F: Future<Output = Result<T, WireError>>>(attempt: impl Fn() -> F) {
    while attempt().await.is_err() {
        sleep(DATABASE_PAUSE).await;
    }
}

/// What a future gives; `None`, and it is dropped, if the word to stop comes first.
async fn unless<T>(stop: &Notify, future: impl Future<Output = T>) -> Option<T> {
    let (mut stopped, mut future) = (pin!(stop.notified()), pin!(future));
    poll_fn(|cx| match stopped.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}
