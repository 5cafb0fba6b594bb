//! Statistics (specification, "Analytics Channels"). In: every request, session, call of a model or an artifact, and batch of
//! images, from a [`Recorder`]. Out: totals, rankings and series.
//!
//! ```text
//! requests, sessions ─► observer ─┐
//! ai, imagegen, artifact ─► Recorder ─► sums in memory ─► raw rows ─► sums of hours and days ─► answers
//!                                      (every 5 s, and            └─────────────────────────────────┘
//!                                       before each answer)
//! ```
//!
//! Recording never waits and never fails: records of one hour, sort and name are added up in memory. What is added up is numbers and
//! names; of errors the newest messages are kept too, what clients sent and providers said left out. Raw rows are rolled
//! up, each once, and deleted when they are old; the sums stay. Every answer is made of whole hours in UTC, whether of raw
//! rows or of sums, so rolling up and deleting change none.
//!
//! Used of other families: the number of days from `settings`.
//!
//! What other families may use: `Recorder`, `AiCall`, `ImageBatch`. A handler gets a clone of the recorder from
//! [`register_all`](super::register_all), and says what it did, failed calls too, with `ai_call`, `images` or `artifact_call`.

mod calendar;
mod query;
mod record;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::db::{Db, unix_ms};
use super::encode::Object;
use super::registry::{Channel, Direction};
use super::settings;
use super::validate::Fields;

pub use record::{AiCall, ImageBatch, Recorder};
pub(super) use store::TABLES;

use calendar::DAY_MS;
use query::{Asked, Needs, Source};
use record::Batch;

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

/// Rows that are rolled up, or deleted, in one transaction: other writes have their turn in between.
const ROWS_AT_ONCE: i64 = 10_000;
/// The setting that says how many days raw rows are kept.
const RETENTION_SETTING: &str = "analytics.retentionDays";

const RANGE: &str = "{ timeRange: TimeRange }";
const SERIES: &str = "{ timeRange: TimeRange, granularity: Granularity }";
const RANGE_EXAMPLE: &str = r#"{"timeRange":"7d"}"#;
const SERIES_EXAMPLE: &str = r#"{"timeRange":"7d","granularity":"day"}"#;

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    request(
        "analytics:dashboard",
        "{ timeRange?: TimeRange, granularity?: Granularity }",
        "DashboardData",
        "Get an overview; of the last 30 days, by day, unless told otherwise. `totals` are those of the lifetime",
        SERIES_EXAMPLE,
    ),
    request("analytics:lifetime-totals", "-", "LifetimeTotals", "Get what was ever counted", ""),
    request("analytics:cost-summary", RANGE, "CostSummary", "Get costs by provider and model", RANGE_EXAMPLE),
    request(
        "analytics:cost-timeseries",
        SERIES,
        "TimeSeriesData",
        "Get costs over time, a series a provider, in USD",
        SERIES_EXAMPLE,
    ),
    request(
        "analytics:error-summary",
        RANGE,
        "ErrorSummary",
        "Get errors by code and channel",
        RANGE_EXAMPLE,
    ),
    request(
        "analytics:error-timeseries",
        SERIES,
        "TimeSeriesData",
        "Get errors over time, a series a code",
        SERIES_EXAMPLE,
    ),
    request(
        "analytics:token-timeseries",
        SERIES,
        "TimeSeriesData",
        "Get tokens over time: `input`, `output`, `cacheRead`, `cacheWrite`",
        SERIES_EXAMPLE,
    ),
    request("analytics:model-usage", RANGE, "ModelUsageData", "Get models by calls", RANGE_EXAMPLE),
    request(
        "analytics:imagegen-timeseries",
        SERIES,
        "TimeSeriesData",
        "Get images over time: `images`, `batches`, `failed`",
        SERIES_EXAMPLE,
    ),
    request(
        "analytics:tool-usage",
        RANGE,
        "ToolUsageData",
        "Get artifacts and tools of models by calls",
        RANGE_EXAMPLE,
    ),
    request("analytics:session-stats", RANGE, "SessionStats", "Get how long clients stayed", RANGE_EXAMPLE),
    request(
        "analytics:run-aggregation",
        "-",
        "{ aggregated: number }",
        "Roll up raw rows now; answers do not change",
        "",
    ),
    request(
        "analytics:run-cleanup",
        "-",
        "{ deleted: number }",
        "Delete raw rows older than `analytics.retentionDays` now, rolled up first; totals do not change",
        "",
    ),
];

const fn request(
    name: &'static str,
    payload: &'static str,
    response: &'static str,
    description: &'static str,
    example: &'static str,
) -> Channel {
    Channel { name, direction: Direction::Request, payload, response, description, example }
}

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
/** `from` and `to` are in Unix ms, `to` not included. Answers are made of the whole hours (UTC) that a range touches. */
export type TimeRange = "24h" | "7d" | "30d" | "90d" | "all" | { from: number, to: number };

/** In UTC; weeks begin on Monday. */
export type Granularity = "hour" | "day" | "week" | "month";

/** A bucket without data is there with zeros. */
export interface TimeSeriesData {
  granularity: Granularity;
  buckets: { start: number, values: Record<string, number> }[];
  series: string[];
  total: Record<string, number>;
}

export interface LifetimeTotals {
  requests: number;
  errors: number;
  aiCalls: number;
  inputTokens: number;
  outputTokens: number;
  costUsd: number;
  images: number;
  artifactCalls: number;
  sessions: number;
  /** The hour of the first record; null before there is one. */
  since: number | null;
}

/** The most expensive first. A call whose cost is not known counts as free. */
export interface CostSummary {
  totalUsd: number;
  byProvider: { provider: string, usd: number, calls: number }[];
  byModel: { provider: string, model: string, usd: number, calls: number, inputTokens: number, outputTokens: number }[];
}

/** The most frequent first; `recent`, at most 50, the newest first. */
export interface ErrorSummary {
  total: number;
  byCode: { code: string, count: number }[];
  byChannel: { channel: string, count: number }[];
  recent: { code: string, channel: string, message: string, at: number }[];
}

/** The most used first; `share` is that of all calls, from 0 to 1. */
export interface ModelUsageData {
  models: {
    provider: string;
    model: string;
    calls: number;
    inputTokens: number;
    outputTokens: number;
    usd: number;
    share: number;
    meanLatencyMs: number;
  }[];
}

/** The most used first; `meanMs` is null for tools of models, which run elsewhere. */
export interface ToolUsageData {
  tools: { tool: string, source: "ai" | "artifact", calls: number, errors: number, meanMs: number | null }[];
}

/** Sessions count where they began; those that go on have no time yet. `day` is like `2026-11-23`. */
export interface SessionStats {
  sessions: number;
  totalMs: number;
  meanMs: number;
  longestMs: number;
  byDay: { day: string, sessions: number, ms: number }[];
}

export interface DashboardData {
  totals: LifetimeTotals;
  cost: CostSummary;
  errors: ErrorSummary;
  models: ModelUsageData;
  tokens: TimeSeriesData;
  /** `requests` and `errors`. */
  requests: TimeSeriesData;
}
"#;

/// How a channel is answered from the database.
type Query = fn(&Source<'_>, Asked) -> Result<String, WireError>;

const QUERIES: [(&str, Needs, Query); 11] = [
    ("analytics:dashboard", Needs::Neither, query::dashboard),
    ("analytics:lifetime-totals", Needs::Nothing, query::lifetime_totals),
    ("analytics:cost-summary", Needs::Range, query::cost_summary),
    ("analytics:cost-timeseries", Needs::RangeAndGranularity, query::cost_timeseries),
    ("analytics:error-summary", Needs::Range, query::error_summary),
    ("analytics:error-timeseries", Needs::RangeAndGranularity, query::error_timeseries),
    ("analytics:token-timeseries", Needs::RangeAndGranularity, query::token_timeseries),
    ("analytics:model-usage", Needs::Range, query::model_usage),
    ("analytics:imagegen-timeseries", Needs::RangeAndGranularity, query::imagegen_timeseries),
    ("analytics:tool-usage", Needs::Range, query::tool_usage),
    ("analytics:session-stats", Needs::Range, query::session_stats),
];

/// The records of a backend, in memory and in its database. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Analytics {
    db: Db,
    recorder: Recorder,
    config: AnalyticsConfig,
}

impl Analytics {
    /// The records in a database.
    pub fn new(db: Db, config: AnalyticsConfig) -> Analytics {
        Analytics { db, recorder: Recorder::new(config.record), config }
    }

    /// Where to say what was done.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Writes what was recorded so far.
    ///
    /// # Errors
    /// When the database cannot write. Then what was recorded waits in memory for the next time.
    pub async fn flush(&self) -> Result<(), WireError> {
        // Drained by the writing thread, so that whoever flushes next waits for what this one writes.
        let drained = Arc::new(Mutex::new(Batch::default()));
        let (recorder, batch) = (self.recorder.clone(), drained.clone());
        let write = move |connection: &rusqlite::Connection| {
            let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
            *batch = recorder.drain();
            store::insert(connection, &batch)
        };
        let recorder = self.recorder.clone();
        let done = move |written: bool| {
            if !written {
                let mut batch = drained.lock().unwrap_or_else(PoisonError::into_inner);
                recorder.put_back(std::mem::take(&mut *batch));
            }
        };
        self.db.write_unasked(write, done).await
    }

    /// Rolls up raw rows, and answers how many.
    async fn roll_up(&self, server: &Server) -> Result<i64, WireError> {
        self.repeat(server, |connection| store::roll_up(connection, ROWS_AT_ONCE)).await
    }

    /// Rolls up raw rows and deletes those that are old. Answers how many were deleted.
    async fn clean_up(&self, server: &Server) -> Result<i64, WireError> {
        self.roll_up(server).await?;
        self.repeat(server, |connection| {
            let days = settings::integer(connection, RETENTION_SETTING)?.unwrap_or(i64::MAX);
            let before = unix_ms().saturating_sub(days.saturating_mul(DAY_MS));
            store::clean_up(connection, before, ROWS_AT_ONCE)
        })
        .await
    }

    /// Has the writing thread do something until it has done less than it may at once.
    async fn repeat(
        &self,
        server: &Server,
        step: fn(&rusqlite::Connection) -> Result<i64, WireError>,
    ) -> Result<i64, WireError> {
        let mut rows = 0;
        loop {
            let done = self.db.write(server.clone(), move |change| step(change.connection)).await?;
            rows += done;
            if done < ROWS_AT_ONCE {
                return Ok(rows);
            }
        }
    }

    /// Writes, rolls up and deletes what is due, for ever. What fails is tried again the next time.
    pub(super) async fn keep(self, server: Server) {
        let at_least = Duration::from_millis(1);
        let mut flushes = tokio::time::interval(self.config.flush_interval.max(at_least));
        let mut rollups = tokio::time::interval(self.config.rollup_interval.max(at_least));
        for ticks in [&mut flushes, &mut rollups] {
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            let rollup_is_due = std::future::poll_fn(|cx| {
                let (rollup, flush) = (rollups.poll_tick(cx), flushes.poll_tick(cx));
                match (rollup.is_ready(), flush.is_ready()) {
                    (false, false) => std::task::Poll::Pending,
                    (rollup, _) => std::task::Poll::Ready(rollup),
                }
            });
            let rollup_is_due = rollup_is_due.await;
            let _ = self.flush().await;
            if rollup_is_due {
                let _ = self.clean_up(&server).await;
            }
        }
    }
}

/// Registers the family's handlers, and has the server's clients observed that connect from now on.
pub fn register(server: &Server, analytics: &Analytics) {
    if let Some(observer) = analytics.recorder.observer() {
        server.observe(observer);
    }
    for (channel, needs, query) in QUERIES {
        let analytics = analytics.clone();
        server.on_request(channel, move |payload: Payload, _| {
            let analytics = analytics.clone();
            async move {
                let asked = Asked::read(&Fields::decode(&payload)?, needs)?;
                // A database that is full can still be asked, of what it has.
                let _ = analytics.flush().await;
                let answer = analytics
                    .db
                    .read(move |view| query(&Source { connection: view.connection, now: unix_ms() }, asked));
                answer.await.map(Payload::trusted)
            }
        });
    }
    let own = analytics.clone();
    server.on_request("analytics:run-aggregation", move |payload: Payload, cx| {
        let analytics = own.clone();
        async move {
            Fields::decode(&payload)?;
            analytics.flush().await?;
            let rows = analytics.roll_up(&cx.server()).await?;
            Ok::<_, WireError>(Payload::trusted(Object::new().integer("aggregated", rows).finish()))
        }
    });
    let analytics = analytics.clone();
    server.on_request("analytics:run-cleanup", move |payload: Payload, cx| {
        let analytics = analytics.clone();
        async move {
            Fields::decode(&payload)?;
            analytics.flush().await?;
            let rows = analytics.clean_up(&cx.server()).await?;
            Ok::<_, WireError>(Payload::trusted(Object::new().integer("deleted", rows).finish()))
        }
    });
}
