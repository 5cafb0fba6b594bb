//! The settings of the family.

use std::time::Duration;

/// Configuration of the family: whether statistics are recorded, and when they are written.
#[derive(Debug, Clone)]
pub struct AnalyticsConfig {
    /// Whether anything is recorded. Existing records can be queried in any case, and are rolled up and deleted when they are old.
    ///
    /// Default true; `--no-analytics` makes it false.
    pub record: bool,
    /// How often records are written to the database. A crash loses the records of one interval; a normal stop loses none.
    ///
    /// Default 5 s. A shorter interval means more raw rows: one per interval for each channel that was used. They are deleted
    /// after `analytics.retentionDays`.
    pub flush_interval: Duration,
    /// How often raw rows are rolled up and old ones deleted.
    ///
    /// Default 5 min. It does not affect results.
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
