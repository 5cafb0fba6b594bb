//! The configuration of the backend: the database's folder and limits, and one part for each family that has settings.

use std::path::PathBuf;
use std::time::Duration;

use super::families::ai::AiConfig;
use super::families::analytics::AnalyticsConfig;
use super::families::artifact::ArtifactConfig;
use super::families::code::CodeConfig;
use super::families::imagegen::ImagegenConfig;
use super::shared::db::DbLimits;

/// Where the backend keeps its data, and how much.
///
/// ```
/// use switchboard::backend::BackendConfig;
///
/// let mut config = BackendConfig::new("./data");
/// config.ai.max_concurrent = 8;
/// config.artifact.allow = false; // as by default
/// ```
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
