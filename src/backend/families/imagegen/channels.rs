//! The channels of the family, and their handlers.

use std::sync::Arc;

use crate::backend::shared::db::Db;
use crate::backend::shared::registry::{Channel, Direction};
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::config::ImagegenConfig;
use super::files::Folder;
use super::handlers::{Imagegen, page};
use super::store::{self, URL_PREFIX};
use super::worker::{Signals, Worker};

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
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers and the addresses of its images, and answers the worker, which works as long as it is
/// polled. Of one database there may be one.
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
    Worker { server: server.clone(), db: db.clone(), config, folder, signals, recorder }.run()
}
