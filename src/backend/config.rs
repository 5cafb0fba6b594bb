//! The configuration of the backend: the folder and the limits of the database, and one part for each family that has settings.

use std::path::PathBuf;
use std::time::Duration;

use super::families::ai::AiConfig;
use super::families::analytics::AnalyticsConfig;
use super::families::artifact::ArtifactConfig;
use super::families::code::CodeConfig;
use super::families::imagegen::ImagegenConfig;
use super::shared::db::DbLimits;

/// Configuration of the backend.
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
    /// The folder of the database. It is created if it does not exist, for the current user only (0700).
    pub data_dir: PathBuf,
    /// How often `server:heartbeat` is sent.
    ///
    /// Default 30 s.
    pub heartbeat_interval: Duration,
    /// The limits of the database.
    pub db: DbLimits,
    /// Keys and limits of the family `ai`.
    pub ai: AiConfig,
    /// Keys and limits of the family `imagegen`.
    pub imagegen: ImagegenConfig,
    /// The folder of the transcripts of coding sessions, and where their backups can be restored.
    pub code: CodeConfig,
    /// From where artifacts can be installed, and whether they can run.
    pub artifact: ArtifactConfig,
    /// Whether statistics are recorded, and when they are written.
    pub analytics: AnalyticsConfig,
}

impl BackendConfig {
    /// Returns the defaults for a folder.
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
