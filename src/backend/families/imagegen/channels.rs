//! The channels of the family, and their handlers.

use std::sync::Arc;

use crate::backend::shared::channel::Handler::{Own, Read, Search};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::Db;
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::config::ImagegenConfig;
use super::files::Folder;
use super::handlers::{Imagegen, page};
use super::store::{self, URL_PREFIX};
use super::worker::{Signals, Worker};

/// The channels of the family with their handlers.
const ROWS: &[Row<Arc<Imagegen>>] = &[
    Row {
        name: "imagegen:list-groups",
        payload: "-",
        response: "QueueGroup[]",
        description: "List the groups of the queue, oldest first; the group `default` always exists",
        example: "",
        handler: Search(store::list_groups),
    },
    Row {
        name: "imagegen:create-group",
        payload: "{ name: string }",
        response: "QueueGroup",
        description: "Create a group",
        example: r#"{"name":"Landscapes"}"#,
        handler: Own(|imagegen, payload, cx| {
            Box::pin(async move { imagegen.create_group(payload, &cx).await })
        }),
    },
    Row {
        name: "imagegen:list-entries",
        payload: "{ groupId: string, limit?: number, before?: string }",
        response: "QueueEntry[]",
        description: "List the entries of a group, newest first: 1..=500 of them, 500 by default, those older than the entry `before`",
        example: r#"{"groupId":"default"}"#,
        handler: Read(store::list_entries),
    },
    Row {
        name: "imagegen:create-entry",
        payload: "CreateEntryInput",
        response: "QueueEntry",
        description: "Add an entry to the queue, for one or more batches of images",
        example: r#"{"prompt":"A lake at dawn","provider":"pattern","batchSize":2}"#,
        handler: Own(|imagegen, payload, cx| {
            Box::pin(async move { imagegen.create_entry(payload, &cx).await })
        }),
    },
    Row {
        name: "imagegen:cancel-entry",
        payload: "{ id: string }",
        response: "QueueEntry",
        description: "Cancel an entry that is queued or running; its completed batches stay. One that has already ended is returned unchanged",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
        handler: Own(|imagegen, payload, cx| {
            Box::pin(async move { imagegen.cancel_entry(payload, &cx).await })
        }),
    },
    Row {
        name: "imagegen:list-images",
        payload: "GalleryFilters",
        response: "GalleryPage",
        description: "List images, newest first: 1..=500 of them, 50 by default, those older than the image `before`",
        example: r#"{"query":"lake"}"#,
        handler: Search(store::list_images),
    },
    Row::event("imagegen:job-created", "{ jobId: string, job: Job }", "The worker has started an entry"),
    Row::event(
        "imagegen:job-completed",
        "{ jobId: string, job: Job }",
        "A job has completed, failed or was cancelled",
    ),
    Row::event("imagegen:batch-started", "{ jobId: string, batchIndex: number }", "A batch has started"),
    Row::event(
        "imagegen:batch-completed",
        "{ jobId: string, batchIndex: number, images: Image[] }",
        "A batch is complete",
    ),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// The columns for the clients that made entries and groups.
pub(crate) const CLIENTS: &str = include_str!("clients.sql");

/// Registers the family's handlers and the paths of its images. Returns the worker, which works as long as it is polled. A
/// database must not have two.
pub(crate) fn register(
    server: &Server,
    db: &Db,
    config: ImagegenConfig,
    recorder: Recorder,
) -> impl Future<Output = ()> + Send + 'static {
    let config = Arc::new(config);
    let signals = Arc::new(Signals::default());
    let folder = Folder::beside(db.path());
    let imagegen = Arc::new(Imagegen { db: db.clone(), config: config.clone(), signals: signals.clone() });
    channel::register(server, Some(db), &imagegen, ROWS);
    let (pages_db, pages_folder, max_bytes) = (db.clone(), folder.clone(), config.max_image_bytes);
    server.on_get(URL_PREFIX, move |id: String| {
        let (db, folder) = (pages_db.clone(), pages_folder.clone());
        async move { page(&db, &folder, &id, max_bytes).await }
    });
    Worker { db: db.clone(), config, folder, signals, recorder }.run()
}
