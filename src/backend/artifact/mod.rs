//! Artifacts: programs that are installed from folders and archives, and run with JSON in and JSON out (specification,
//! "Artifact Channels").
//!
//! `ArtifactMetadata {id, name, version, description, enabled, source, installedAt, updatedAt}` · `Artifact` adds `manifest`
//! and `files: [{path, size}]`
//!
//! ```text
//! source ─► plan, manifest (judged) ─► copy ─► ID.UUID, on the disk ─► row ─► events
//!   └─ tar                                        └────────────── invoke ─► process
//! ```
//!
//! Each installed version has a folder of its own, and the row says which one counts: an update is on the disk before the
//! row changes, and a crash at any point leaves a row with its whole folder. Folders that no row names are deleted when the
//! last program in them has ended, or else at the next start.
//!
//! Nothing is run unless [`ArtifactConfig::allow`] says so, and nothing is installed but from [`ArtifactConfig::sources`].
//! A program runs as the server's own user: what this family does keeps accidents small, and is no sandbox.
//!
//! Used of other families: calls are counted by `analytics`.

mod copy;
mod install;
mod invoke;
mod manifest;
mod plan;
#[cfg(unix)]
mod process;
mod schema;
#[cfg(unix)]
mod source;
mod store;
pub mod tar;

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::analytics::Recorder;
use super::db::{Change, View};
use super::encode::{Object, array};
use super::registry::{Channel, Direction};
use super::validate::{Fields, wrong};

pub use store::Artifacts;

/// Whether and from where artifacts are installed and run.
#[derive(Debug, Clone)]
pub struct ArtifactConfig {
    /// Whether `artifact:invoke` runs programs. Without it they are installed and listed, and never run.
    ///
    /// Default no: whoever may connect would run programs as the user whose server this is. The command has
    /// `--allow-artifacts`.
    pub allow: bool,
    /// The folders below which a source has to be. Without one nothing is installed.
    ///
    /// Default none. The command has `--artifact-source`.
    pub sources: Vec<PathBuf>,
    /// Where installed artifacts are kept. Made when it is needed, for this user alone.
    ///
    /// Default `artifacts` in the folder of the database.
    pub folder: PathBuf,
    /// The limits of installing and running.
    pub limits: ArtifactLimits,
}

impl ArtifactConfig {
    /// The defaults, beside a database.
    pub fn new(data_dir: impl Into<PathBuf>) -> ArtifactConfig {
        let folder = data_dir.into().join("artifacts");
        ArtifactConfig { allow: false, sources: Vec::new(), folder, limits: ArtifactLimits::default() }
    }
}

/// How large artifacts may be, and how long and how often they run.
#[derive(Debug, Clone)]
pub struct ArtifactLimits {
    /// Most artifacts that are installed. One more is refused.
    ///
    /// Default 256, with which the list of all of them is far from the longest message.
    pub max_artifacts: u32,
    /// Most files and folders of an artifact. One with more is refused.
    ///
    /// Default 4 096: a program with its libraries, and their names fit into an event.
    pub max_files: usize,
    /// Largest file of an artifact, in bytes. One with a larger one is refused.
    ///
    /// Default 64 MiB: a static binary of any language.
    pub max_file_bytes: u64,
    /// Most bytes of all files of an artifact together. One with more is refused.
    ///
    /// Default 256 MiB.
    pub max_total_bytes: u64,
    /// Longest name of a file below the artifact's folder, in bytes. An artifact with a longer one is refused.
    ///
    /// Default 256.
    pub max_path_bytes: usize,
    /// Most parts of a name below the artifact's folder. An artifact with a deeper one is refused.
    ///
    /// Default 16. So many folders are open at the same time while a source is read.
    pub max_depth: usize,
    /// Largest `artifact.json`, in bytes. A larger one is refused.
    ///
    /// Default 64 KiB.
    pub max_manifest_bytes: usize,
    /// How long an installation may take. Then it is given up, and what was installed before stays.
    ///
    /// Default 5 min: each file is waited for until it is on the disk.
    pub install_timeout: Duration,
    /// Longest `timeoutMs` that a manifest may ask for. One that asks for more is refused.
    ///
    /// Default 10 min.
    pub max_timeout: Duration,
    /// Most programs that run at the same time. The next ones wait, within their `timeoutMs`.
    ///
    /// Default 8. Each takes a thread of those on which the runtime lets things block, of which tokio has 512.
    pub max_running: usize,
    /// Longest output of a program, in bytes. One that writes more is killed, and the request fails.
    ///
    /// Default 16 MiB, which is what a message may have.
    pub max_output_bytes: usize,
    /// How much of the end of what a program writes to stderr is shown when it fails, in bytes.
    ///
    /// Default 8 KiB.
    pub max_stderr_bytes: usize,
}

impl Default for ArtifactLimits {
    fn default() -> ArtifactLimits {
        ArtifactLimits {
            max_artifacts: 256,
            max_files: 4096,
            max_file_bytes: 64 << 20,
            max_total_bytes: 256 << 20,
            max_path_bytes: 256,
            max_depth: 16,
            max_manifest_bytes: 64 << 10,
            install_timeout: Duration::from_secs(300),
            max_timeout: Duration::from_secs(600),
            max_running: 8,
            max_output_bytes: 16 << 20,
            max_stderr_bytes: 8 << 10,
        }
    }
}

/// What a handler's deadline leaves for saying that the time is over.
const DEADLINE_SLACK: Duration = Duration::from_secs(30);

/// The table. `folder` is the name of the folder that counts; `manifest` and `files` are JSON.
pub(super) const TABLES: &str = "
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    description TEXT,
    enabled INTEGER NOT NULL,
    source TEXT NOT NULL,
    installed_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    folder TEXT NOT NULL,
    manifest TEXT NOT NULL,
    files TEXT NOT NULL
);
";

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
pub const TYPES: &str = r#"
/** `source` is what it was installed from, as it was asked for. */
export interface ArtifactMetadata {
  id: string;
  name: string;
  version: string;
  description: string | null;
  enabled: boolean;
  source: string;
  installedAt: number;
  updatedAt: number;
}

/** `input` is a part of JSON Schema; a manifest may have further members, which mean nothing. */
export interface ArtifactManifest {
  id: string;
  name: string;
  version: string;
  description?: string;
  command: string[];
  input?: Record<string, unknown>;
  timeoutMs?: number;
}

export interface Artifact extends ArtifactMetadata {
  manifest: ArtifactManifest;
  files: { path: string, size: number }[];
}
"#;

/// Registers the family's handlers.
pub fn register(server: &Server, artifacts: &Artifacts, recorder: Recorder) {
    let (db, limits) = (artifacts.db(), &artifacts.config().limits);
    db.on_read(server, "artifact:list", list);
    db.on_read(server, "artifact:get", get);
    db.on_write(server, "artifact:enable", |change, fields| set_enabled(change, fields, true));
    db.on_write(server, "artifact:disable", |change, fields| set_enabled(change, fields, false));
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

const METADATA: &str = "SELECT id, name, version, description, enabled, source, installed_at, updated_at FROM artifacts ORDER BY id";
const ARTIFACT: &str =
    "SELECT id, name, version, description, enabled, source, installed_at, updated_at, manifest, files
     FROM artifacts WHERE id = ?";

fn list(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    let mut statement = view.connection.prepare_cached(METADATA)?;
    let artifacts = statement.query_map([], |row| metadata(row).map(Object::finish))?;
    Ok(Payload::trusted(array(&artifacts.collect::<Result<Vec<_>, _>>()?)))
}

fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let artifact = artifact_json(view.connection, &id)?;
    Ok(Payload::trusted(artifact.unwrap_or_else(|| "null".to_owned())))
}

fn set_enabled(change: &mut Change<'_>, fields: &Fields<'_>, enabled: bool) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let changed = change
        .connection
        .prepare_cached("UPDATE artifacts SET enabled = ?2, updated_at = ?3 WHERE id = ?1 AND enabled <> ?2")?
        .execute(params![id, enabled, change.unix_ms])?;
    let Some(artifact) = artifact_json(change.connection, &id)? else { return Err(unknown()) };
    if changed > 0 {
        change.emit("artifact:updated", told_of(&artifact));
    }
    Ok(Payload::none())
}

/// The artifact with this id, as it is shown.
fn artifact_json(connection: &rusqlite::Connection, id: &str) -> Result<Option<String>, WireError> {
    let mut statement = connection.prepare_cached(ARTIFACT)?;
    let artifact = statement.query_row([id], |row| {
        let artifact = metadata(row)?;
        Ok(artifact
            .raw("manifest", row.get_ref(8)?.as_str()?)
            .raw("files", row.get_ref(9)?.as_str()?)
            .finish())
    });
    Ok(artifact.optional()?)
}

fn metadata(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object::new()
        .text("id", row.get_ref(0)?.as_str()?)
        .text("name", row.get_ref(1)?.as_str()?)
        .text("version", row.get_ref(2)?.as_str()?)
        .text_or_null("description", row.get_ref(3)?.as_str_or_null()?)
        .boolean("enabled", row.get(4)?)
        .text("source", row.get_ref(5)?.as_str()?)
        .integer("installedAt", row.get(6)?)
        .integer("updatedAt", row.get(7)?))
}

fn told_of(artifact: &str) -> Payload {
    Payload::trusted(Object::new().raw("artifact", artifact).finish())
}

fn unknown() -> WireError {
    wrong("id", "id of an artifact", "an unknown id")
}
