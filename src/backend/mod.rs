//! The channel registry on an embedded SQLite database (feature `backend`).
//!
//! ```text
//! request ─► validate ─► family (chat, ai, code, imagegen, settings, credentials, artifact, analytics, system) ─► db ─► disk
//!                              │                            │
//!                           registry                  events, after the commit
//! ```
//!
//! A family is a file, or a folder, with its tables, its channels as data, and its handlers: plain functions from the members of a
//! payload and a transaction to a result. Each request that writes is one transaction; one that fails changes nothing.
//!
//! ```no_run
//! use switchboard::backend::{Backend, BackendConfig, register_all};
//! use switchboard::{Config, Server};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Backend::open(BackendConfig::new("./data"))?;
//! let server = Server::new(Config::default());
//! register_all(&server, &backend);
//! server.start().await?;
//! # Ok(()) }
//! ```

pub mod ai;
pub mod analytics;
pub mod artifact;
mod call;
pub mod chat;
pub mod cli;
pub mod code;
pub mod credentials;
pub mod db;
mod encode;
mod http;
pub mod imagegen;
mod provider;
pub mod registry;
mod search;
pub mod settings;
pub mod system;
mod validate;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::server::Server;

use ai::AiConfig;
use analytics::{Analytics, AnalyticsConfig};
use artifact::{ArtifactConfig, Artifacts};
use code::{Code, CodeConfig};
use db::{Db, DbLimits, OpenError};
use imagegen::ImagegenConfig;
use registry::Channel;

/// The versions of the tables, oldest first. One that was released is never changed.
const MIGRATIONS: &[&str] = &[
    chat::TABLES,
    settings::TABLES,
    code::TABLES,
    credentials::TABLES,
    artifact::TABLES,
    imagegen::TABLES,
    analytics::TABLES,
];

/// Where the backend keeps its data, and how much.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    /// The folder of the database. Made if it is not there, for this user alone (0700).
    pub data_dir: PathBuf,
    /// How often `server:heartbeat` is sent.
    ///
    /// Default 30 s.
    pub heartbeat_interval: Duration,
    /// The limits of the database.
    pub db: DbLimits,
    /// How the family `ai` speaks to providers.
    pub ai: AiConfig,
    /// How the family `imagegen` works.
    pub imagegen: ImagegenConfig,
    /// The transcripts of coding sessions, and where their backups may be put back.
    pub code: CodeConfig,
    /// Whether and from where artifacts are installed and run.
    pub artifact: ArtifactConfig,
    /// What is recorded for statistics, and when it is written.
    pub analytics: AnalyticsConfig,
}

impl BackendConfig {
    /// The defaults, for a folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> BackendConfig {
        let data_dir = data_dir.into();
        BackendConfig {
            heartbeat_interval: Duration::from_secs(30),
            db: DbLimits::default(),
            ai: AiConfig::default(),
            imagegen: ImagegenConfig::default(),
            code: CodeConfig::new(&data_dir),
            artifact: ArtifactConfig::new(&data_dir),
            analytics: AnalyticsConfig::default(),
            data_dir,
        }
    }
}

/// What the families work on.
#[derive(Debug)]
pub struct Backend {
    db: Db,
    code: Code,
    artifacts: Artifacts,
    analytics: Analytics,
    config: BackendConfig,
    /// Ended when the backend is dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl Backend {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// When the database is in use, damaged, of a newer version or not ours. Then nothing was written to it.
    pub fn open(config: BackendConfig) -> Result<Backend, OpenError> {
        let db = Db::open(&config.data_dir, MIGRATIONS, config.db.clone())?;
        let code = Code::new(db.clone(), config.code.clone());
        let artifacts = Artifacts::new(db.clone(), config.artifact.clone());
        let analytics = Analytics::new(db.clone(), config.analytics.clone());
        Ok(Backend { db, code, artifacts, analytics, config, tasks: Mutex::default() })
    }

    /// The database, for registering families one by one.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The index of the transcripts.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The installed artifacts.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The statistics.
    pub fn analytics(&self) -> &Analytics {
        &self.analytics
    }

    /// Finishes the writes that wait, and closes the database.
    pub async fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        // What cannot be written now has nowhere to go.
        let _ = self.analytics.flush().await;
        self.db.close().await;
    }
}

/// Every channel, family by family.
pub fn channels() -> Vec<Channel> {
    [
        chat::CHANNELS,
        ai::CHANNELS,
        code::CHANNELS,
        imagegen::CHANNELS,
        settings::CHANNELS,
        credentials::CHANNELS,
        artifact::CHANNELS,
        analytics::CHANNELS,
        system::CHANNELS,
    ]
    .concat()
}

/// Every channel and its types in TypeScript, as `src/web/client.d.ts` has them.
pub fn typescript() -> String {
    registry::typescript(
        &[
            chat::TYPES,
            ai::TYPES,
            code::TYPES,
            imagegen::TYPES,
            settings::TYPES,
            credentials::TYPES,
            artifact::TYPES,
            analytics::TYPES,
            system::TYPES,
        ],
        &channels(),
    )
}

/// Every channel in Markdown, as the pages of the families have them.
pub fn markdown() -> String {
    registry::markdown(&channels())
}

/// Registers the handlers of every family, and starts the heartbeat and the worker of `imagegen` (specification,
/// "registerAllHandlers"). To be called once for a backend, from within a tokio runtime.
pub fn register_all(server: &Server, backend: &Backend) {
    chat::register(server, &backend.db);
    let recorder = backend.analytics.recorder();
    ai::register(server, &backend.db, backend.config.ai.clone(), recorder.clone());
    code::register(server, &backend.code);
    let worker = imagegen::register(server, &backend.db, backend.config.imagegen.clone(), recorder.clone());
    settings::register(server, &backend.db);
    credentials::register(server, &backend.db);
    artifact::register(server, &backend.artifacts, recorder.clone());
    analytics::register(server, &backend.analytics);
    system::register(server, &channels());
    let mut tasks = backend.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    tasks.spawn(system::beat(server.clone(), backend.config.heartbeat_interval));
    tasks.spawn(backend.analytics.clone().keep(server.clone()));
    tasks.spawn(backend.artifacts.sweep());
    tasks.spawn(worker);
}
