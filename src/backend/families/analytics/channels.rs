//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::Own;
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::clock::unix_ms;
use crate::backend::shared::db::View;
use crate::backend::shared::encode::Object;
use crate::backend::shared::registry::Channel;
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{Party, Server};

use super::query::{self, Params, Query, QueryFn, Source};
use super::upkeep::Analytics;

const RANGE: &str = "{ timeRange: TimeRange }";
const SERIES: &str = "{ timeRange: TimeRange, granularity: Granularity }";
const RANGE_EXAMPLE: &str = r#"{"timeRange":"7d"}"#;
const SERIES_EXAMPLE: &str = r#"{"timeRange":"7d","granularity":"day"}"#;

/// A handler that answers with the result of a query.
macro_rules! asks {
    ($params:expr, $query:path) => {
        Own(|analytics, payload, cx| Box::pin(answer(analytics, payload, cx.party(), $params, $query)))
    };
}

/// The channels of the family with their handlers.
const ROWS: &[Row<Analytics>] = &[
    Row {
        name: "analytics:dashboard",
        payload: "{ timeRange?: TimeRange, granularity?: Granularity }",
        response: "DashboardData",
        description: "Get an overview, by default of the last 30 days and by day. `totals` are always those of the lifetime",
        example: SERIES_EXAMPLE,
        handler: asks!(Params::Neither, query::dashboard),
    },
    Row {
        name: "analytics:lifetime-totals",
        payload: "-",
        response: "LifetimeTotals",
        description: "Get the totals since the first record",
        example: "",
        handler: asks!(Params::Nothing, query::lifetime_totals),
    },
    Row {
        name: "analytics:cost-summary",
        payload: RANGE,
        response: "CostSummary",
        description: "Get costs by provider and model",
        example: RANGE_EXAMPLE,
        handler: asks!(Params::Range, query::cost_summary),
    },
    Row {
        name: "analytics:cost-timeseries",
        payload: SERIES,
        response: "TimeSeriesData",
        description: "Get costs over time in USD, one series per provider",
        example: SERIES_EXAMPLE,
        handler: asks!(Params::RangeAndGranularity, query::cost_timeseries),
    },
    Row {
        name: "analytics:error-summary",
        payload: RANGE,
        response: "ErrorSummary",
        description: "Get errors by code and channel",
        example: RANGE_EXAMPLE,
        handler: asks!(Params::Range, query::error_summary),
    },
    Row {
        name: "analytics:error-timeseries",
        payload: SERIES,
        response: "TimeSeriesData",
        description: "Get errors over time, one series per code",
        example: SERIES_EXAMPLE,
        handler: asks!(Params::RangeAndGranularity, query::error_timeseries),
    },
    Row {
        name: "analytics:token-timeseries",
        payload: SERIES,
        response: "TimeSeriesData",
        description: "Get tokens over time: `input`, `output`, `cacheRead`, `cacheWrite`",
        example: SERIES_EXAMPLE,
        handler: asks!(Params::RangeAndGranularity, query::token_timeseries),
    },
    Row {
        name: "analytics:model-usage",
        payload: RANGE,
        response: "ModelUsageData",
        description: "Get the calls of each model, most used first",
        example: RANGE_EXAMPLE,
        handler: asks!(Params::Range, query::model_usage),
    },
    Row {
        name: "analytics:imagegen-timeseries",
        payload: SERIES,
        response: "TimeSeriesData",
        description: "Get images over time: `images`, `batches`, `failed`",
        example: SERIES_EXAMPLE,
        handler: asks!(Params::RangeAndGranularity, query::imagegen_timeseries),
    },
    Row {
        name: "analytics:tool-usage",
        payload: RANGE,
        response: "ToolUsageData",
        description: "Get the calls of artifacts and of tools of models, most used first",
        example: RANGE_EXAMPLE,
        handler: asks!(Params::Range, query::tool_usage),
    },
    Row {
        name: "analytics:session-stats",
        payload: RANGE,
        response: "SessionStats",
        description: "Get the number and the duration of sessions",
        example: RANGE_EXAMPLE,
        handler: asks!(Params::Range, query::session_stats),
    },
    Row {
        name: "analytics:run-aggregation",
        payload: "-",
        response: "{ aggregated: number }",
        description: "Roll up raw rows now; this changes no totals",
        example: "",
        handler: Own(|analytics, payload, cx| Box::pin(run_aggregation(analytics, payload, cx.party()))),
    },
    Row {
        name: "analytics:run-cleanup",
        payload: "-",
        response: "{ deleted: number }",
        description: "Roll up raw rows, then delete those older than `analytics.retentionDays`; this changes no totals",
        example: "",
        handler: Own(|analytics, payload, cx| Box::pin(run_cleanup(analytics, payload, cx.party()))),
    },
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers, and observes the clients that connect from now on.
pub fn register(server: &Server, analytics: &Analytics) {
    if let Some(observer) = analytics.recorder().observer() {
        server.observe(observer);
    }
    channel::register(server, Some(analytics.db()), analytics, ROWS);
}

async fn answer(
    analytics: Analytics,
    payload: Payload,
    party: Party,
    needs: Params,
    query: QueryFn,
) -> Result<Payload, WireError> {
    let asked = Query::read(&Fields::decode(&payload)?, needs)?;
    // A database that is full can still answer from what it has.
    let db = analytics.db().on_behalf_of(party);
    let _ = analytics.flush_through(&db).await;
    let read = move |view: &View<'_>| query(&Source { connection: view.connection, now: unix_ms() }, asked);
    db.search(read).await.map(Payload::trusted)
}

async fn run_aggregation(analytics: Analytics, payload: Payload, party: Party) -> Result<Payload, WireError> {
    Fields::decode(&payload)?;
    analytics.flush_through(&analytics.db().on_behalf_of(party)).await?;
    let rows = analytics.roll_up().await?;
    Ok(Payload::trusted(Object::new().integer("aggregated", rows).finish()))
}

async fn run_cleanup(analytics: Analytics, payload: Payload, party: Party) -> Result<Payload, WireError> {
    Fields::decode(&payload)?;
    analytics.flush_through(&analytics.db().on_behalf_of(party)).await?;
    let rows = analytics.clean_up().await?;
    Ok(Payload::trusted(Object::new().integer("deleted", rows).finish()))
}
