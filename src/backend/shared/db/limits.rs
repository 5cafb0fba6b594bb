//! The limits of the database.

use std::thread;
use std::time::Duration;

/// Limits of the database.
#[derive(Debug, Clone)]
pub struct DbLimits {
    /// Largest database file, in bytes. A write that would exceed it fails and changes nothing.
    ///
    /// Default 16 GiB.
    pub max_database_bytes: u64,
    /// Size at which a page of results ends early, in bytes. It has at least one element.
    ///
    /// Default 8 MiB: half of the largest message that a server sends.
    pub max_page_bytes: usize,
    /// Most writes that are queued for the writing thread. Further handlers wait. One client has at most all but one of these
    /// places, and clients that wait for one take turns.
    ///
    /// Default 1 024.
    pub max_queued_writes: usize,
    /// Most reads by key at the same time: lists, pages and single rows. Further handlers wait. One client has at most all but one
    /// of these places, and clients that wait for one take turns.
    ///
    /// Default: the number of processor cores, at least 2 and at most 4. Such reads hardly wait for the disk, so more of them
    /// would only take time from everything else.
    pub max_readers: usize,
    /// Most searches at the same time, statistics and other reads of many rows included. Further handlers wait, as for
    /// [`max_readers`](DbLimits::max_readers). Searches have threads of their own, on Linux with a lower priority, so that
    /// they delay nothing else.
    ///
    /// Default: the number of processor cores less one, at least 2 and at most 8.
    pub max_searches: usize,
    /// Most matches that a search ranks: the newest. If there are more, each result has `truncated: true`.
    ///
    /// Default 10 000: ranking them takes a few hundredths of a second.
    pub max_ranked_rows: usize,
    /// Longest time for one read. After it the read fails.
    ///
    /// Default 10 s.
    pub read_timeout: Duration,
}

impl Default for DbLimits {
    fn default() -> DbLimits {
        DbLimits {
            max_database_bytes: 16 << 30,
            max_page_bytes: 8 << 20,
            max_queued_writes: 1024,
            max_readers: cores(0).clamp(2, 4),
            max_searches: cores(1).clamp(2, 8),
            max_ranked_rows: 10_000,
            read_timeout: Duration::from_secs(10),
        }
    }
}

impl DbLimits {
    /// Returns the number of matches that a search ranks, as SQLite counts.
    pub(crate) fn ranked_rows(&self) -> i64 {
        i64::try_from(self.max_ranked_rows.max(1)).unwrap_or(i64::MAX - 1)
    }
}

/// Returns the number of processor cores that are left if some are kept free.
fn cores(kept_free: usize) -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(kept_free))
}
