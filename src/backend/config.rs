//! The configuration of the backend: the folder and the limits of the database, and one part for each family that has settings.

use std::path::PathBuf;
use std::time::Duration;

use super::families::ai::AiConfig;
use super::families::analytics::AnalyticsConfig;
use super::families::artifact::ArtifactConfig;
use super::families::code::CodeConfig;
use super::families::imagegen::ImagegenConfig;
use super::shared::db::DbLimits;

/// Longest duration that is used; a longer one is forever too.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

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

    /// Limits every duration, so that the end of one can always be calculated.
    pub(super) fn bounded(mut self) -> BackendConfig {
        let (ai, imagegen) = (&mut self.ai, &mut self.imagegen);
        let (code, artifact) = (&mut self.code.limits, &mut self.artifact.limits);
        for duration in [
            &mut self.heartbeat_interval,
            &mut self.db.read_timeout,
            &mut ai.connect_timeout,
            &mut ai.idle_timeout,
            &mut ai.max_duration,
            &mut ai.retry_pause,
            &mut ai.max_retry_pause,
            &mut imagegen.connect_timeout,
            &mut imagegen.generation_timeout,
            &mut imagegen.retry_pause,
            &mut imagegen.max_retry_pause,
            &mut code.scan_interval,
            &mut code.scan_wait,
            &mut artifact.install_timeout,
            &mut artifact.max_timeout,
            &mut artifact.max_cpu_time,
            &mut self.analytics.flush_interval,
            &mut self.analytics.rollup_interval,
        ] {
            *duration = MAX_DURATION.min(*duration);
        }
        self
    }
}
