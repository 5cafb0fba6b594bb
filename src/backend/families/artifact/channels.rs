//! The channels of the family, and their handlers.

use std::time::Duration;

use crate::backend::shared::registry::{Channel, Direction};
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::records::{Availability, get, list, set_availability};
use super::store::Artifacts;
use super::{install, invoke};

/// How much later the deadline of the handler is, so that the more precise error comes first.
const DEADLINE_SLACK: Duration = Duration::from_secs(30);

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "artifact:list",
        direction: Direction::Request,
        payload: "-",
        response: "ArtifactMetadata[]",
        description: "List the installed artifacts, by id",
        example: "",
    },
    Channel {
        name: "artifact:get",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "Artifact | null",
        description: "Get an artifact with its manifest and the names of its files",
        example: r#"{"id":"hello"}"#,
    },
    Channel {
        name: "artifact:install",
        direction: Direction::Request,
        payload: "{ source: string }",
        response: "Artifact",
        description: "Install or update an artifact from a folder or a .tar below an artifact source of the server",
        example: r#"{"source":"hello"}"#,
    },
    Channel {
        name: "artifact:invoke",
        direction: Direction::Request,
        payload: "{ id: string, input?: unknown }",
        response: "unknown",
        description: "Run an artifact that is enabled; answers the JSON that it writes",
        example: r#"{"id":"hello","input":{"name":"Ada"}}"#,
    },
    Channel {
        name: "artifact:enable",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "-",
        description: "Let an artifact be run",
        example: r#"{"id":"hello"}"#,
    },
    Channel {
        name: "artifact:disable",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "-",
        description: "Let an artifact not be run; what runs already goes on",
        example: r#"{"id":"hello"}"#,
    },
    Channel {
        name: "artifact:remove",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "boolean",
        description: "Remove an artifact; answers whether it was there. What runs already goes on",
        example: r#"{"id":"hello"}"#,
    },
    Channel::event("artifact:installed", "{ artifact: Artifact }", "A new artifact was installed"),
    Channel::event(
        "artifact:updated",
        "{ artifact: Artifact }",
        "An artifact was updated, enabled or disabled",
    ),
    Channel::event(
        "artifact:progress",
        "{ id: string, progress: number }",
        "How far an installation is, from 0 to 1; one that fails does not come to 1",
    ),
    Channel::event("artifact:removed", "{ id: string }", "An artifact was removed"),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, artifacts: &Artifacts, recorder: Recorder) {
    let (db, limits) = (artifacts.db(), &artifacts.config().limits);
    db.on_read(server, "artifact:list", list);
    db.on_read(server, "artifact:get", get);
    db.on_write(server, "artifact:enable", |change, fields| {
        set_availability(change, fields, Availability::Enabled)
    });
    db.on_write(server, "artifact:disable", |change, fields| {
        set_availability(change, fields, Availability::Disabled)
    });
    let own = artifacts.clone();
    server.on_request_within("artifact:install", limits.install_timeout, move |payload: Payload, cx| {
        let artifacts = own.clone();
        async move { install::install(&artifacts, &payload, cx.server()).await }
    });
    let own = artifacts.clone();
    let deadline = limits.max_timeout.saturating_add(DEADLINE_SLACK);
    server.on_request_within("artifact:invoke", deadline, move |payload: Payload, _| {
        let (artifacts, recorder) = (own.clone(), recorder.clone());
        async move { invoke::invoke(&artifacts, &payload, &recorder).await }
    });
    let own = artifacts.clone();
    server.on_request("artifact:remove", move |payload: Payload, cx| {
        let artifacts = own.clone();
        async move { install::remove(&artifacts, payload, cx.server()).await }
    });
}
