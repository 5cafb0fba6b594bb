//! The channels of the family, and their handlers.

use crate::backend::shared::clock::unix_ms;
use crate::backend::shared::encode::Object;
use crate::backend::shared::registry::{Channel, Direction};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::query::{self, Asked, Needs, Source};
use super::upkeep::Analytics;

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
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// How a channel is answered from the database.
type Query = fn(&Source<'_>, Asked) -> Result<String, WireError>;

pub(super) const QUERIES: [(&str, Needs, Query); 11] = [
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

/// Registers the family's handlers, and has the server's clients observed that connect from now on.
pub fn register(server: &Server, analytics: &Analytics) {
    if let Some(observer) = analytics.recorder().observer() {
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
                    .db()
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
