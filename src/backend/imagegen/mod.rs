//! Images from a queue (specification, "Image Generation Channels"). In: what is to be made. Out: events of the work, images
//! as files over HTTP.
//!
//! ```text
//! payload ─► store (queue) ─► worker ─► pattern                      ─► files ─► store (gallery) ─► events
//!                                └────► upstream (retries) ─► http ──┘              │
//!                                                     GET /files/images/<id> ◄─ files
//! ```
//!
//! One worker makes one batch after the other, in the order of the entries. Each step is on the disk before it is told:
//! what a crash cuts off is done again, what is done is neither done nor told again.
//!
//! Used of other families: keys of `credentials`, base URLs and the default provider of `settings`; batches are counted by `analytics`.

mod files;
mod job;
mod pattern;
mod picture;
mod store;
mod upstream;
mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{Page, Server};

use super::analytics::Recorder;
use super::credentials::Token;
use super::db::Db;
use super::registry::{Channel, Direction};
use super::settings;
use super::validate::{Fields, wrong};

use files::Folder;
use job::{Batch, Provider};
use picture::Kind;
use store::NewEntry;
use worker::{Bell, Worker};

pub(super) use store::TABLES;

/// How the family works, and how much of it.
#[derive(Debug, Clone)]
pub struct ImagegenConfig {
    /// Keys by provider's name, for those without a credential.
    ///
    /// Default none. The `switchboard` command takes `OPENAI_API_KEY` from the environment.
    pub api_keys: BTreeMap<String, Token>,
    /// How long connecting to a provider may take, TLS included.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// How long a provider may take for one batch, retries included. Then the job fails.
    ///
    /// Default 10 min: a batch of large images on a small machine.
    pub generation_timeout: Duration,
    /// The pause before a request that failed in passing is tried again; the second pause is twice as long. A provider that
    /// says how long to wait is obeyed.
    ///
    /// Default 500 ms, as for `ai`.
    pub retry_pause: Duration,
    /// Longest pause that a provider may ask for. If it asks for more the job fails.
    ///
    /// Default 30 s.
    pub max_retry_pause: Duration,
    /// Largest image of a provider, in bytes. With a larger one the job fails.
    ///
    /// Default 32 MiB: twice what a PNG of 2048 x 2048 pixels can need.
    pub max_image_bytes: usize,
    /// Longest response of a provider, in bytes. Past it the job fails.
    ///
    /// Default 128 MiB, as for `ai`: it is held in memory, once, for there is one worker.
    pub max_response_bytes: usize,
    /// What all image files may have together, in bytes. A job whose images do not fit fails.
    ///
    /// Default 16 GiB, as the database.
    pub max_total_bytes: u64,
    /// Most entries that wait. The next one is refused.
    ///
    /// Default 1 000.
    pub max_queued: u32,
    /// Most groups. The next one is refused.
    ///
    /// Default 1 000: `imagegen:list-groups` shows them all.
    pub max_groups: u32,
    /// Longest prompt, and longest negative prompt, in bytes.
    ///
    /// Default 32 KiB: OpenAI takes 32 000 characters.
    pub max_prompt_bytes: usize,
    /// Longest `params`, in bytes of JSON.
    ///
    /// Default 64 KiB, as the metadata of other families.
    pub max_params_bytes: usize,
    /// Most images in a batch.
    ///
    /// Default 10, as many as OpenAI makes at once.
    pub max_batch_size: u32,
    /// Most batches of an entry.
    ///
    /// Default 100.
    pub max_batch_count: u32,
    /// Longest side of an image, in pixels.
    ///
    /// Default 4 096.
    pub max_side: u32,
}

impl Default for ImagegenConfig {
    fn default() -> ImagegenConfig {
        ImagegenConfig {
            api_keys: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
            generation_timeout: Duration::from_secs(600),
            retry_pause: Duration::from_millis(500),
            max_retry_pause: Duration::from_secs(30),
            max_image_bytes: 32 << 20,
            max_response_bytes: 128 << 20,
            max_total_bytes: 16 << 30,
            max_queued: 1000,
            max_groups: 1000,
            max_prompt_bytes: 32 << 10,
            max_params_bytes: 64 << 10,
            max_batch_size: 10,
            max_batch_count: 100,
            max_side: 4096,
        }
    }
}

/// What stands before an image's id in its address.
const URL_PREFIX: &str = "/files/images/";
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_MODEL_BYTES: usize = 256;
const MIN_SIDE: i64 = 64;
/// What the sides of an image are multiples of: diffusion models work on blocks of 8 x 8 pixels.
const SIDE_STEP: i64 = 8;
const DEFAULT_SIDE: i64 = 1024;
const MAX_STEPS: i64 = 1000;
const MAX_CFG_SCALE: f64 = 100.0;
const MAX_SEED: i64 = u32::MAX as i64;
const DEFAULT_GROUP: &str = "default";

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "imagegen:list-groups",
        direction: Direction::Request,
        payload: "-",
        response: "QueueGroup[]",
        description: "List the groups of the queue, the first made first; `default` is always there",
        example: "",
    },
    Channel {
        name: "imagegen:create-group",
        direction: Direction::Request,
        payload: "{ name: string }",
        response: "QueueGroup",
        description: "Create a group",
        example: r#"{"name":"Landscapes"}"#,
    },
    Channel {
        name: "imagegen:list-entries",
        direction: Direction::Request,
        payload: "{ groupId: string, limit?: number, before?: string }",
        response: "QueueEntry[]",
        description: "List the entries of a group, last made first: 1..=500 of them, 500 by default, those behind the entry `before`",
        example: r#"{"groupId":"default"}"#,
    },
    Channel {
        name: "imagegen:create-entry",
        direction: Direction::Request,
        payload: "CreateEntryInput",
        response: "QueueEntry",
        description: "Queue images to be made",
        example: r#"{"prompt":"A lake at dawn","provider":"pattern","batchSize":2}"#,
    },
    Channel {
        name: "imagegen:cancel-entry",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "QueueEntry",
        description: "Cancel an entry that waits or runs; batches that are done stay. One that has ended is answered as it is",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
    },
    Channel {
        name: "imagegen:list-images",
        direction: Direction::Request,
        payload: "GalleryFilters",
        response: "GalleryPage",
        description: "List images, newest first: 1..=500 of them, 50 by default, those older than the image `before`",
        example: r#"{"query":"lake"}"#,
    },
    Channel::event(
        "imagegen:job-created",
        "{ jobId: string, job: Job }",
        "The worker has begun with an entry",
    ),
    Channel::event("imagegen:job-completed", "{ jobId: string, job: Job }", "A job has ended, well or not"),
    Channel::event(
        "imagegen:batch-started",
        "{ jobId: string, batchIndex: number }",
        "A batch of images is begun",
    ),
    Channel::event(
        "imagegen:batch-completed",
        "{ jobId: string, batchIndex: number, images: Image[] }",
        "A batch of images is there",
    ),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
export type ImageProvider = "openai" | "automatic1111" | "pattern";
export type QueueStatus = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface QueueGroup {
  id: string;
  name: string;
  createdAt: number;
  counts: { queued: number, running: number, completed: number, failed: number, cancelled: number };
}

/** The provider is the setting `imagegen.defaultProvider` unless given. `params` are further members for it. */
export interface CreateEntryInput {
  groupId?: string;
  prompt: string;
  negativePrompt?: string;
  provider?: ImageProvider;
  model?: string;
  width?: number;
  height?: number;
  batchSize?: number;
  batchCount?: number;
  steps?: number;
  cfgScale?: number;
  seed?: number;
  params?: Record<string, unknown>;
}

export interface QueueEntry {
  id: string;
  groupId: string;
  jobId: string | null;
  status: QueueStatus;
  prompt: string;
  negativePrompt: string | null;
  provider: ImageProvider;
  model: string | null;
  width: number;
  height: number;
  batchSize: number;
  batchCount: number;
  steps: number | null;
  cfgScale: number | null;
  seed: number | null;
  params: Record<string, unknown>;
  batchesDone: number;
  error: string | null;
  createdAt: number;
  startedAt: number | null;
  finishedAt: number | null;
}

/** The work on an entry. */
export interface Job {
  id: string;
  entryId: string;
  status: QueueStatus;
  startedAt: number | null;
  finishedAt: number | null;
  error: string | null;
}

/** `url` is a path on this server. Where a token is needed, add `?token=` for what cannot send headers. */
export interface Image {
  id: string;
  entryId: string;
  jobId: string;
  groupId: string;
  batchIndex: number;
  url: string;
  mimeType: string;
  width: number;
  height: number;
  seed: number | null;
  prompt: string;
  model: string | null;
  createdAt: number;
}

/** `from` and `to` are Unix ms, both included. */
export interface GalleryFilters {
  groupId?: string;
  entryId?: string;
  query?: string;
  from?: number;
  to?: number;
  limit?: number;
  before?: string;
}

/** Newest first; `nextBefore` is the `before` of the page that comes behind this one. */
export interface GalleryPage {
  images: Image[];
  hasMore: boolean;
  nextBefore: string | null;
}
"#;

/// What the handlers share.
struct Imagegen {
    db: Db,
    config: Arc<ImagegenConfig>,
    bell: Arc<Bell>,
}

/// Registers the family's handlers and the addresses of its images, and answers the worker, which works as long as it is
/// polled. Of one database there may be one.
pub(super) fn register(
    server: &Server,
    db: &Db,
    config: ImagegenConfig,
    recorder: Recorder,
) -> impl Future<Output = ()> + Send + 'static {
    let config = Arc::new(config);
    let bell = Arc::new(Bell::default());
    let folder = Folder::beside(db.path());
    let imagegen = Arc::new(Imagegen { db: db.clone(), config: config.clone(), bell: bell.clone() });
    db.on_read(server, "imagegen:list-groups", store::list_groups);
    db.on_read(server, "imagegen:list-entries", store::list_entries);
    db.on_read(server, "imagegen:list-images", store::list_images);
    let own = imagegen.clone();
    server.on_request("imagegen:create-group", move |payload: Payload, cx| {
        let imagegen = own.clone();
        async move { imagegen.create_group(payload, cx.server()).await }
    });
    let own = imagegen.clone();
    server.on_request("imagegen:create-entry", move |payload: Payload, cx| {
        let imagegen = own.clone();
        async move { imagegen.create_entry(payload, cx.server()).await }
    });
    server.on_request("imagegen:cancel-entry", move |payload: Payload, cx| {
        let imagegen = imagegen.clone();
        async move { imagegen.cancel_entry(payload, cx.server()).await }
    });
    let (pages_db, pages_folder, max_bytes) = (db.clone(), folder.clone(), config.max_image_bytes);
    server.on_get(URL_PREFIX, move |id: String| {
        let (db, folder) = (pages_db.clone(), pages_folder.clone());
        async move { page(&db, &folder, &id, max_bytes).await }
    });
    Worker { server: server.clone(), db: db.clone(), config, folder, bell, recorder }.run()
}

impl Imagegen {
    async fn create_group(&self, payload: Payload, server: Server) -> Result<Payload, WireError> {
        let max = i64::from(self.config.max_groups);
        let created = self.db.write(server, move |change| {
            let name = Fields::decode(&payload)?.required_text("name", 1..=MAX_NAME_BYTES)?;
            store::create_group(change, &name, max)
        });
        created.await
    }

    async fn create_entry(&self, payload: Payload, server: Server) -> Result<Payload, WireError> {
        let default = settings::text(&self.db, "imagegen.defaultProvider").await?.text;
        let config = self.config.clone();
        let created = self.db.write(server, move |change| {
            let fields = Fields::decode(&payload)?;
            let (batch, batch_count) = read_entry(&fields, &default, &config)?;
            let group = fields.id("groupId")?.unwrap_or_else(|| DEFAULT_GROUP.to_owned());
            let group = store::group_seq(change.connection, &fields, &group)?;
            let entry = NewEntry { group, batch, batch_count };
            store::create_entry(change, &entry, i64::from(config.max_queued))
        });
        let entry = created.await?;
        self.bell.ring();
        Ok(entry)
    }

    async fn cancel_entry(&self, payload: Payload, server: Server) -> Result<Payload, WireError> {
        let id = Fields::decode(&payload)?.required_id("id")?;
        let cancelled = self.db.write(server, move |change| {
            let fields = Fields::decode(&payload)?;
            store::cancel_entry(change, &fields, &fields.required_id("id")?)
        });
        let entry = cancelled.await?;
        self.bell.stop(&id);
        Ok(entry)
    }
}

/// What an entry asks for, and how many batches of it. `default` names the provider of one that names none.
fn read_entry(
    fields: &Fields<'_>,
    default: &str,
    config: &ImagegenConfig,
) -> Result<(Batch, i64), WireError> {
    let name =
        if fields.has("provider") { fields.required_one_of("provider", &Provider::NAMES)? } else { default };
    let provider = Provider::from_name(name).ok_or_else(|| fields.wrong("provider", "provider", name))?;
    let count = |name, max: u32| fields.integer(name, 1..=i64::from(max.max(1)));
    let model = fields.text("model", 1..=MAX_MODEL_BYTES)?;
    let batch = Batch {
        provider,
        prompt: fields.required_text("prompt", 1..=config.max_prompt_bytes)?,
        negative_prompt: fields
            .text("negativePrompt", 0..=config.max_prompt_bytes)?
            .filter(|text| !text.is_empty()),
        model: model.or_else(|| provider.default_model().map(str::to_owned)),
        width: side(fields, "width", config)?,
        height: side(fields, "height", config)?,
        size: u32_of(count("batchSize", config.max_batch_size)?.unwrap_or(1)),
        steps: fields.integer("steps", 1..=MAX_STEPS)?,
        cfg_scale: fields.number("cfgScale", 0.0..=MAX_CFG_SCALE)?,
        seed: fields.integer("seed", 0..=MAX_SEED)?,
        params: fields.object_json("params", config.max_params_bytes)?.unwrap_or("{}").to_owned(),
    };
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&batch.params) {
        return Err(fields.wrong("params", "object in Unicode", &error.to_string()));
    }
    Ok((batch, count("batchCount", config.max_batch_count)?.unwrap_or(1)))
}

/// A side of an image, in pixels.
fn side(fields: &Fields<'_>, name: &str, config: &ImagegenConfig) -> Result<u32, WireError> {
    let range = MIN_SIDE..=i64::from(config.max_side).max(MIN_SIDE);
    let expected = format!("multiple of {SIDE_STEP} in {}..={}", range.start(), range.end());
    match fields.integer(name, range)? {
        Some(pixels) if pixels % SIDE_STEP != 0 => Err(fields.wrong(name, &expected, &pixels.to_string())),
        pixels => Ok(u32_of(pixels.unwrap_or(DEFAULT_SIDE.min(i64::from(config.max_side))))),
    }
}

/// A number that a range has kept small.
fn u32_of(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// The error for one more of what there may be so many of.
fn too_many(what: &str, max: i64) -> WireError {
    wrong("payload", &format!("at most {max} {what}"), "one more")
}

/// The page of an image. What a client chose is compared with ids, and never names a file.
async fn page(db: &Db, folder: &Folder, id: &str, max_bytes: usize) -> Option<Page> {
    if !files::is_id(id) {
        return None;
    }
    let asked = id.to_owned();
    let mime_type = db.read(move |view| store::mime_type(view, &asked)).await.ok()??;
    let kind = Kind::from_mime_type(&mime_type)?;
    let path = folder.path_of(id, kind);
    let bytes = tokio::task::spawn_blocking(move || files::read(&path, max_bytes)).await.ok()??;
    let page = Page::new(kind.mime_type(), bytes)
        .etag(id)
        // An image never changes, and is for who asked alone.
        .header("cache-control", "private, max-age=31536000, immutable")
        .header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    Some(page)
}
