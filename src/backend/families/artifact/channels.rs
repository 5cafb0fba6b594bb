//! The channels of the family, and their handlers.

use std::time::Duration;

use crate::backend::shared::channel::Handler::{Own, OwnWithin, Read, Write};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::folders::Artifacts;
use super::store::{Availability, get, list, set_availability};
use super::{install, invoke};

/// How much later the deadline of the handler is, so that the more precise error comes first.
const DEADLINE_SLACK: Duration = Duration::from_secs(30);

/// The channels of the family with their handlers.
const ROWS: &[Row<State>] = &[
    Row {
        name: "artifact:list",
        payload: "-",
        response: "ArtifactMetadata[]",
        description: "List the installed artifacts, by id",
        example: "",
        handler: Read(list),
    },
    Row {
        name: "artifact:get",
        payload: "{ id: string }",
        response: "Artifact | null",
        description: "Get an artifact with its manifest and the list of its files",
        example: r#"{"id":"hello"}"#,
        handler: Read(get),
    },
    Row {
        name: "artifact:install",
        payload: "{ source: string }",
        response: "Artifact",
        description: "Install or update an artifact from a folder or a .tar file below a source folder of the server",
        example: r#"{"source":"hello"}"#,
        handler: OwnWithin(install_deadline, |state, payload, context| {
            Box::pin(install::install(state.artifacts, payload, context.party()))
        }),
    },
    Row {
        name: "artifact:invoke",
        payload: "{ id: string, input?: unknown }",
        response: "unknown",
        description: "Run an enabled artifact and return the JSON that it writes",
        example: r#"{"id":"hello","input":{"name":"Ada"}}"#,
        handler: OwnWithin(invoke_deadline, |state, payload, context| {
            Box::pin(async move {
                invoke::invoke(&state.artifacts, &payload, &state.recorder, context.party()).await
            })
        }),
    },
    Row {
        name: "artifact:enable",
        payload: "{ id: string }",
        response: "-",
        description: "Enable an artifact",
        example: r#"{"id":"hello"}"#,
        handler: Write(|change, fields| set_availability(change, fields, Availability::Enabled)),
    },
    Row {
        name: "artifact:disable",
        payload: "{ id: string }",
        response: "-",
        description: "Disable an artifact; runs in progress continue",
        example: r#"{"id":"hello"}"#,
        handler: Write(|change, fields| set_availability(change, fields, Availability::Disabled)),
    },
    Row {
        name: "artifact:remove",
        payload: "{ id: string }",
        response: "boolean",
        description: "Remove an artifact and return whether it existed; runs in progress continue",
        example: r#"{"id":"hello"}"#,
        handler: Own(|state, payload, context| {
            Box::pin(install::remove(state.artifacts, payload, context.party()))
        }),
    },
    Row::event("artifact:installed", "{ artifact: Artifact }", "A new artifact was installed"),
    Row::event("artifact:updated", "{ artifact: Artifact }", "An artifact was updated, enabled or disabled"),
    Row::event(
        "artifact:progress",
        "{ id: string, progress: number }",
        "Installation progress, from 0 to 1; it never reaches 1 if the installation fails",
    ),
    Row::event("artifact:removed", "{ id: string }", "An artifact was removed"),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// What the handlers share.
#[derive(Clone)]
struct State {
    artifacts: Artifacts,
    recorder: Recorder,
}

/// Registers the family's handlers.
pub fn register(server: &Server, artifacts: &Artifacts, recorder: Recorder) {
    let state = State { artifacts: artifacts.clone(), recorder };
    channel::register(server, Some(artifacts.db()), &state, ROWS);
}

fn install_deadline(state: &State) -> Duration {
    state.artifacts.config().limits.install_timeout
}

/// A program has its own deadline, and the handler gets the time to report it.
fn invoke_deadline(state: &State) -> Duration {
    state.artifacts.config().limits.max_timeout.saturating_add(DEADLINE_SLACK)
}
