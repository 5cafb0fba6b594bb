//! The settings of the family.

use std::time::Duration;

/// What is recorded, and when it is written.
#[derive(Debug, Clone)]
pub struct AnalyticsConfig {
    /// Whether anything is recorded. What was recorded before is answered either way, rolled up and deleted when it is old.
    ///
    /// Default true; `--no-analytics` makes it false.
    pub record: bool,
    /// How often records are written to the database. A crash loses those of so long; a stop loses none.
    ///
    /// Default 5 s. The shorter it is, the more raw rows there are until `analytics.retentionDays` have passed: one for each
    /// channel that was used in the time.
    pub flush_interval: Duration,
    /// How often raw rows are rolled up, and old ones deleted.
    ///
    /// Default 5 min. Answers do not depend on it.
    pub rollup_interval: Duration,
}

impl Default for AnalyticsConfig {
    fn default() -> AnalyticsConfig {
        AnalyticsConfig {
            record: true,
            flush_interval: Duration::from_secs(5),
            rollup_interval: Duration::from_secs(300),
        }
    }
}
