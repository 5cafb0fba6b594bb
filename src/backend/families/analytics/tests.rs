//! Results in virtual time: their types, and that rolling up and deleting do not change them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::protocol::error::ErrorCode;
use crate::protocol::payload::Payload;

use super::calendar::{DAY_MS, END_UNIX_MS, Granularity, HOUR_MS};
use super::channels::{CHANNELS, TABLES};
use super::query::{self, MAX_BUCKETS, Params, Query, QueryFn, Source};
use super::record::{Batch, ErrorLine, Kind, MAX_RECENT_ERRORS, OTHER, Sums};
use super::store;
use crate::backend::shared::validate::Fields;

fn query_of(channel: &str) -> (Params, QueryFn) {
    match channel {
        "analytics:dashboard" => (Params::Neither, query::dashboard),
        "analytics:lifetime-totals" => (Params::Nothing, query::lifetime_totals),
        "analytics:cost-summary" => (Params::Range, query::cost_summary),
        "analytics:cost-timeseries" => (Params::RangeAndGranularity, query::cost_timeseries),
        "analytics:error-summary" => (Params::Range, query::error_summary),
        "analytics:error-timeseries" => (Params::RangeAndGranularity, query::error_timeseries),
        "analytics:token-timeseries" => (Params::RangeAndGranularity, query::token_timeseries),
        "analytics:model-usage" => (Params::Range, query::model_usage),
        "analytics:imagegen-timeseries" => (Params::RangeAndGranularity, query::imagegen_timeseries),
        "analytics:tool-usage" => (Params::Range, query::tool_usage),
        "analytics:session-stats" => (Params::Range, query::session_stats),
        _ => panic!("{channel} has no query"),
    }
}

/// The channels that are answered by a query.
fn queried_channels() -> impl Iterator<Item = &'static str> {
    CHANNELS.iter().map(|channel| channel.name).filter(|name| !name.starts_with("analytics:run-"))
}

/// A Thursday, 2026-10-01 00:00.
const BASE: i64 = 1_790_812_800_000;

struct Database {
    connection: Connection,
    now: i64,
}

impl Database {
    fn new() -> Database {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        Database { connection, now: BASE }
    }

    fn insert(&self, batch: &Batch) {
        store::insert(&self.connection, batch).unwrap();
    }

    fn answer(&self, channel: &str, payload: &Value) -> Result<Value, Value> {
        let (needs, query) = query_of(channel);
        let payload = Payload::from(payload.clone());
        let source = Source { connection: &self.connection, now: self.now };
        let asked = Query::read(&Fields::decode(&payload).unwrap(), needs);
        let answered = asked.and_then(|asked| query(&source, asked));
        answered
            .map(|answer| serde_json::from_str(&answer).unwrap())
            .map_err(|error| error.details.parse().unwrap())
    }

    fn ask(&self, channel: &str, payload: Value) -> Value {
        self.answer(channel, &payload).unwrap_or_else(|error| panic!("{channel} {payload}: {error}"))
    }

    fn roll_up(&self, max_rows: i64) -> i64 {
        store::roll_up(&self.connection, max_rows).unwrap()
    }

    fn clean_up(&self, before: i64) -> i64 {
        store::clean_up(&self.connection, before, 1_000_000).unwrap()
    }

    fn count(&self, table: &str) -> i64 {
        self.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }
}

fn requests(count: i64, failed: i64) -> Sums {
    Sums { count, failed, us: 10 * count, max_us: 10, ..Sums::default() }
}

fn calls(count: i64, nano_usd: i64) -> Sums {
    let tokens = Sums { input: 100 * count, output: 10 * count, cache_read: 7, ..Sums::default() };
    Sums { count, nano_usd, us: 2_500_000 * count, max_us: 2_500_000, ..tokens }
}

/// A database with two days of records of every kind.
fn two_days() -> Database {
    let mut batch = Batch::default();
    let hour = |n: i64| BASE + n * HOUR_MS + 1234;
    for (at, channel, code, sums) in [
        (hour(0), "chat:list", "", requests(5, 0)),
        (hour(1), "chat:list", "TIMEOUT", requests(2, 2)),
        (hour(25), "chat:get", "HANDLER_ERROR", requests(2, 2)),
        (hour(25), "(unknown)", "UNKNOWN_CHANNEL", requests(3, 3)),
    ] {
        batch.add(at, Kind::Request, channel, code, &sums);
    }
    for (at, provider, model, sums) in [
        (hour(0), "anthropic", "big", calls(1, 1_500_000_000)),
        (hour(25), "anthropic", "small", calls(2, 1)),
        (hour(26), "openai", "big", Sums { failed: 1, ..calls(1, 0) }),
    ] {
        batch.add(at, Kind::Ai, provider, model, &sums);
    }
    batch.add(hour(2), Kind::Tool, "ai", "search", &Sums { count: 3, ..Sums::default() });
    let artifact = Sums { count: 4, failed: 1, extra: 4, us: 10_000, max_us: 9_000, ..Sums::default() };
    batch.add(hour(26), Kind::Tool, "artifact", "search", &artifact);
    let images = Sums { count: 3, failed: 1, extra: 8, us: 30_000, max_us: 20_000, ..Sums::default() };
    batch.add(hour(3), Kind::Images, "pattern", "", &images);
    let sessions = Sums { count: 3, extra: 2, us: 3_000_000, max_us: 2_000_000, ..Sums::default() };
    batch.add(hour(0), Kind::Session, "", "", &sessions);
    batch.add(hour(50), Kind::Session, "", "", &Sums { count: 1, ..Sums::default() });
    for (at, code, channel) in
        [(hour(1), ErrorCode::Timeout, "chat:list"), (hour(25), ErrorCode::HandlerError, "chat:get")]
    {
        batch.errors.push_back(ErrorLine { at, code, channel: channel.into(), message: "m".to_owned() });
    }
    let room = Database { now: hour(50), ..Database::new() };
    room.insert(&batch);
    room
}

#[test]
fn results_have_the_types_of_the_registry() {
    let room = two_days();
    let all = json!({"timeRange": "all"});
    let totals = json!({
        "requests": 12, "errors": 7, "aiCalls": 4, "inputTokens": 400, "outputTokens": 40,
        "costUsd": 1.500000001, "images": 8, "artifactCalls": 4, "sessions": 4, "since": BASE,
    });
    let cost = json!({
        "totalUsd": 1.500000001,
        "byProvider": [
            {"provider": "anthropic", "usd": 1.500000001, "calls": 3},
            {"provider": "openai", "usd": 0.0, "calls": 1},
        ],
        "byModel": [
            {"provider": "anthropic", "model": "big", "usd": 1.5, "calls": 1, "inputTokens": 100, "outputTokens": 10},
            {"provider": "anthropic", "model": "small", "usd": 1e-9, "calls": 2, "inputTokens": 200, "outputTokens": 20},
            {"provider": "openai", "model": "big", "usd": 0.0, "calls": 1, "inputTokens": 100, "outputTokens": 10},
        ],
    });
    let errors = json!({
        "total": 7,
        "byCode": [
            {"code": "UNKNOWN_CHANNEL", "count": 3},
            {"code": "HANDLER_ERROR", "count": 2},
            {"code": "TIMEOUT", "count": 2},
        ],
        "byChannel": [
            {"channel": "(unknown)", "count": 3},
            {"channel": "chat:get", "count": 2},
            {"channel": "chat:list", "count": 2},
        ],
        "recent": [
            {"code": "HANDLER_ERROR", "channel": "chat:get", "message": "m", "at": BASE + 25 * HOUR_MS + 1234},
            {"code": "TIMEOUT", "channel": "chat:list", "message": "m", "at": BASE + HOUR_MS + 1234},
        ],
    });
    let model = |provider: &str, model: &str, calls: i64, usd: f64, share: f64| {
        json!({"provider": provider, "model": model, "calls": calls, "inputTokens": 100 * calls,
               "outputTokens": 10 * calls, "usd": usd, "share": share, "meanLatencyMs": 2500.0})
    };
    let models = json!({"models": [
        model("anthropic", "small", 2, 1e-9, 0.5),
        model("anthropic", "big", 1, 1.5, 0.25),
        model("openai", "big", 1, 0.0, 0.25),
    ]});
    let tools = json!({"tools": [
        {"tool": "search", "source": "artifact", "calls": 4, "errors": 1, "meanMs": 2.5},
        {"tool": "search", "source": "ai", "calls": 3, "errors": 0, "meanMs": null},
    ]});
    let sessions = json!({
        "sessions": 4, "totalMs": 3000, "meanMs": 1500.0, "longestMs": 2000,
        "byDay": [
            {"day": "2026-10-01", "sessions": 3, "ms": 3000},
            {"day": "2026-10-02", "sessions": 0, "ms": 0},
            {"day": "2026-10-03", "sessions": 1, "ms": 0},
        ],
    });
    let series = |names: Value, days: [Value; 3], total: Value| {
        let buckets = days.into_iter().enumerate();
        let buckets: Vec<Value> =
            buckets.map(|(n, values)| json!({"start": BASE + n as i64 * DAY_MS, "values": values})).collect();
        json!({"granularity": "day", "buckets": buckets, "series": names, "total": total})
    };
    let tokens = series(
        json!(["input", "output", "cacheRead", "cacheWrite"]),
        [
            json!({"input": 100, "output": 10, "cacheRead": 7, "cacheWrite": 0}),
            json!({"input": 300, "output": 30, "cacheRead": 14, "cacheWrite": 0}),
            json!({"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}),
        ],
        json!({"input": 400, "output": 40, "cacheRead": 21, "cacheWrite": 0}),
    );
    let request_series = series(
        json!(["requests", "errors"]),
        [
            json!({"requests": 7, "errors": 2}),
            json!({"requests": 5, "errors": 5}),
            json!({"requests": 0, "errors": 0}),
        ],
        json!({"requests": 12, "errors": 7}),
    );
    for (channel, expected) in [
        ("analytics:lifetime-totals", &totals),
        ("analytics:cost-summary", &cost),
        ("analytics:error-summary", &errors),
        ("analytics:model-usage", &models),
        ("analytics:tool-usage", &tools),
        ("analytics:session-stats", &sessions),
    ] {
        assert_eq!(room.ask(channel, all.clone()), *expected, "{channel}");
    }
    let by_day = json!({"timeRange": "all", "granularity": "day"});
    for (channel, expected) in [
        ("analytics:token-timeseries", tokens.clone()),
        (
            "analytics:cost-timeseries",
            series(
                json!(["anthropic", "openai"]),
                [
                    json!({"anthropic": 1.5, "openai": 0.0}),
                    json!({"anthropic": 1e-9, "openai": 0.0}),
                    json!({"anthropic": 0.0, "openai": 0.0}),
                ],
                json!({"anthropic": 1.500000001, "openai": 0.0}),
            ),
        ),
        (
            "analytics:error-timeseries",
            series(
                json!(["HANDLER_ERROR", "TIMEOUT", "UNKNOWN_CHANNEL"]),
                [
                    json!({"HANDLER_ERROR": 0, "TIMEOUT": 2, "UNKNOWN_CHANNEL": 0}),
                    json!({"HANDLER_ERROR": 2, "TIMEOUT": 0, "UNKNOWN_CHANNEL": 3}),
                    json!({"HANDLER_ERROR": 0, "TIMEOUT": 0, "UNKNOWN_CHANNEL": 0}),
                ],
                json!({"HANDLER_ERROR": 2, "TIMEOUT": 2, "UNKNOWN_CHANNEL": 3}),
            ),
        ),
        (
            "analytics:imagegen-timeseries",
            series(
                json!(["images", "batches", "failed"]),
                [
                    json!({"images": 8, "batches": 3, "failed": 1}),
                    json!({"images": 0, "batches": 0, "failed": 0}),
                    json!({"images": 0, "batches": 0, "failed": 0}),
                ],
                json!({"images": 8, "batches": 3, "failed": 1}),
            ),
        ),
    ] {
        assert_eq!(room.ask(channel, by_day.clone()), expected, "{channel}");
    }
    let dashboard = json!({
        "totals": totals, "cost": cost, "errors": errors, "models": models, "tokens": tokens, "requests": request_series,
    });
    assert_eq!(room.ask("analytics:dashboard", by_day), dashboard);
}

#[test]
fn without_data_there_are_zeros_and_no_nan() {
    let room = Database { now: BASE + 5, ..Database::new() };
    // Only the starts of buckets are not zero.
    fn is_zero(value: &Value) -> bool {
        match value {
            Value::Array(elements) => elements.iter().all(is_zero),
            Value::Object(members) => members.iter().all(|(name, value)| name == "start" || is_zero(value)),
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Null | Value::String(_) | Value::Bool(_) => true,
        }
    }
    for range in ["24h", "7d", "30d", "90d", "all"] {
        for channel in queried_channels() {
            let answer = room.ask(channel, json!({"timeRange": range, "granularity": "hour"}));
            assert!(is_zero(&answer), "{answer}");
            // NaN would be null.
            assert_eq!(
                answer.to_string().matches("null").count(),
                usize::from(answer.to_string().contains("since"))
            );
        }
    }
    let series = room.ask("analytics:token-timeseries", json!({"timeRange": "all", "granularity": "hour"}));
    let zeros = json!({"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0});
    assert_eq!(series["buckets"], json!([{"start": BASE, "values": zeros}]));
    assert_eq!(series["total"], zeros);
    let totals = room.ask("analytics:lifetime-totals", Value::Null);
    assert_eq!((&totals["since"], &totals["costUsd"]), (&Value::Null, &json!(0.0)));
    assert_eq!(room.ask("analytics:session-stats", json!({"timeRange": "all"}))["meanMs"], 0.0);
    let hours = room.ask("analytics:cost-timeseries", json!({"timeRange": "24h", "granularity": "hour"}));
    assert_eq!(hours["buckets"].as_array().unwrap().len(), 25, "those that the last 24 hours touch");
}

#[test]
fn a_range_covers_the_hours_that_it_touches() {
    let room = two_days();
    let requests = |from: i64, to: i64| {
        let range = json!({"timeRange": {"from": from, "to": to}, "granularity": "hour"});
        let total = room.ask("analytics:dashboard", range.clone())["requests"]["total"]["requests"].clone();
        (total, room.ask("analytics:token-timeseries", range)["buckets"].as_array().unwrap().len())
    };
    assert_eq!(requests(BASE, BASE + 1), (json!(5), 1));
    assert_eq!(requests(BASE, BASE + HOUR_MS), (json!(5), 1));
    assert_eq!(requests(BASE, BASE + HOUR_MS + 1), (json!(7), 2));
    assert_eq!(requests(BASE + HOUR_MS - 1, BASE + HOUR_MS), (json!(5), 1));
    assert_eq!(requests(BASE + HOUR_MS, BASE + HOUR_MS + 1), (json!(2), 1));
    assert_eq!(requests(BASE + 26 * HOUR_MS, BASE + 27 * HOUR_MS), (json!(0), 1));
    let ever = room.ask("analytics:error-summary", json!({"timeRange": {"from": 0, "to": END_UNIX_MS}}));
    assert_eq!(ever["total"], 7);
}

#[test]
fn a_wrong_range_is_refused_with_its_path() {
    let room = two_days();
    let range = |range: Value| json!({"timeRange": range, "granularity": "hour"});
    let hours = |hours: i64| range(json!({"from": 0, "to": hours * HOUR_MS}));
    for (payload, path) in [
        (json!({"granularity": "hour"}), "timeRange"),
        (range(Value::Null), "timeRange"),
        (range(json!("1d")), "timeRange"),
        (range(json!("ALL")), "timeRange"),
        (range(json!([0, 1])), "timeRange"),
        (range(json!(24)), "timeRange"),
        (range(json!("x".repeat(100_000))), "timeRange"),
        (range(json!({})), "timeRange.from"),
        (range(json!({"to": 1})), "timeRange.from"),
        (range(json!({"from": 1})), "timeRange.to"),
        (range(json!({"from": 1, "to": 1})), "timeRange.to"),
        (range(json!({"from": 2, "to": 1})), "timeRange.to"),
        (range(json!({"from": -1, "to": 1})), "timeRange.from"),
        (range(json!({"from": 0.5, "to": 1})), "timeRange.from"),
        (range(json!({"from": "0", "to": 1})), "timeRange.from"),
        (range(json!({"from": 0, "to": END_UNIX_MS + 1})), "timeRange.to"),
        (range(json!({"from": 0, "to": 1e300})), "timeRange.to"),
        (json!({"timeRange": "7d", "granularity": "year"}), "granularity"),
        (json!({"timeRange": "7d", "granularity": 1}), "granularity"),
        (hours(MAX_BUCKETS as i64 + 1), "granularity"),
        (range(json!({"from": 0, "to": END_UNIX_MS})), "granularity"),
    ] {
        for channel in ["analytics:cost-timeseries", "analytics:dashboard"] {
            let is_optional =
                channel == "analytics:dashboard" && payload.get("timeRange").is_none_or(Value::is_null);
            match room.answer(channel, &payload) {
                Err(details) => assert_eq!(details["path"], path, "{channel} {payload}"),
                Ok(_) => assert!(is_optional, "{channel} {payload}"),
            }
        }
    }
    assert!(room.answer("analytics:token-timeseries", &hours(MAX_BUCKETS as i64)).is_ok());
    assert!(room.answer("analytics:token-timeseries", &json!({"timeRange": "7d"})).is_err());
    // One record of 1970 does not lead to a result with all hours since.
    let mut batch = Batch::default();
    batch.add(0, Kind::Ai, "p", "m", &calls(1, 0));
    room.insert(&batch);
    let details =
        room.answer("analytics:token-timeseries", &json!({"timeRange": "all", "granularity": "hour"}));
    assert_eq!(details.unwrap_err()["path"], "granularity");
    let months = room.ask("analytics:token-timeseries", json!({"timeRange": "all", "granularity": "month"}));
    assert_eq!(months["buckets"].as_array().unwrap().len(), 56 * 12 + 10);
}

#[test]
fn names_and_messages_have_limits() {
    let room = Database::new();
    for n in 0..12 {
        let mut batch = Batch::default();
        for m in 0..100 {
            batch.add(BASE, Kind::Ai, "p", &format!("{n}-{m}"), &calls(1, 0));
        }
        for at in 0..MAX_RECENT_ERRORS as i64 {
            let line =
                ErrorLine { at, code: ErrorCode::Timeout, channel: "c".into(), message: String::new() };
            batch.errors.push_back(line);
        }
        room.insert(&batch);
    }
    assert_eq!(room.count("analytics_names WHERE role = 4"), 1001);
    let usage = room.ask("analytics:model-usage", json!({"timeRange": "all"}));
    assert_eq!((&usage["models"][0]["model"], &usage["models"][0]["calls"]), (&json!(OTHER), &json!(200)));
    let errors = room.ask("analytics:error-summary", json!({"timeRange": {"from": 0, "to": END_UNIX_MS}}));
    assert_eq!(errors["recent"].as_array().unwrap().len(), MAX_RECENT_ERRORS);
    for _ in 0..200 {
        let mut batch = Batch::default();
        for at in 0..MAX_RECENT_ERRORS as i64 {
            let line =
                ErrorLine { at, code: ErrorCode::Timeout, channel: "c".into(), message: String::new() };
            batch.errors.push_back(line);
        }
        room.insert(&batch);
    }
    assert_eq!(room.count("analytics_errors"), 10_000);
}

#[test]
fn a_raw_row_is_rolled_up_once_and_deleted_only_then() {
    let room = two_days();
    let rows = room.count("analytics_raw");
    assert_eq!(room.clean_up(END_UNIX_MS), 2, "the messages of errors alone");
    assert_eq!((room.roll_up(1), room.clean_up(END_UNIX_MS)), (1, 1));
    assert_eq!((room.roll_up(1_000), room.roll_up(1_000)), (rows - 1, 0));
    assert_eq!(room.clean_up(BASE + 25 * HOUR_MS), rows - 1 - room.count("analytics_raw"));
    room.clean_up(END_UNIX_MS);
    assert_eq!(room.count("analytics_raw"), 0);
    // The number of a deleted row is not used again.
    room.insert(&{
        let mut batch = Batch::default();
        batch.add(BASE, Kind::Ai, "p", "m", &calls(1, 0));
        batch
    });
    assert_eq!(room.roll_up(1_000), 1);
    assert_eq!(room.ask("analytics:lifetime-totals", Value::Null)["aiCalls"], 5);
}

/// Pseudo-random numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % end
    }
}

/// One record of the reference implementation, which adds up at the time of a query.
struct Record {
    at: i64,
    kind: Kind,
    a: String,
    sums: Sums,
}

/// Every query with its payload.
fn all_answers(room: &Database, random_range: &Value) -> Vec<String> {
    let mut answers = Vec::new();
    for channel in queried_channels() {
        for (range, granularity) in
            [(random_range, "hour"), (&json!("all"), "day"), (random_range, "week"), (&json!("all"), "month")]
        {
            answers
                .push(room.ask(channel, json!({"timeRange": range, "granularity": granularity})).to_string());
        }
    }
    answers
}

/// Returns the series of the records, added up one by one.
fn reference(
    records: &[Record],
    kind: Kind,
    from: i64,
    to: i64,
    granularity: Granularity,
) -> BTreeMap<i64, Sums> {
    let (from, to) = (from / HOUR_MS * HOUR_MS, (to + HOUR_MS - 1) / HOUR_MS * HOUR_MS);
    let mut buckets = BTreeMap::new();
    for hour in (from..to).step_by(HOUR_MS as usize) {
        buckets.entry(granularity.start(hour)).or_default();
    }
    for record in records.iter().filter(|record| record.kind == kind && (from..to).contains(&record.at)) {
        let bucket: &mut Sums = buckets.entry(granularity.start(record.at)).or_default();
        bucket.add(&record.sums);
    }
    buckets
}

#[test]
fn results_depend_only_on_the_records() {
    for seed in 0..5 {
        let mut random = Random(seed);
        let mut room = Database { now: BASE + 60 * DAY_MS, ..Database::new() };
        let mut records: Vec<Record> = Vec::new();
        let mut pending = Batch::default();
        for step in 0..24 {
            let from = BASE + random.below(50 * DAY_MS);
            let range = json!({"from": from, "to": from + 1 + random.below(20 * DAY_MS)});
            match random.below(6) {
                0..=2 => {
                    for _ in 0..random.below(20) {
                        // Late records too: up to two months.
                        let at = BASE + random.below(60 * DAY_MS);
                        let kind = Kind::ALL[random.below(5) as usize];
                        let mut values = [0; Sums::LEN];
                        values.fill_with(|| random.below(1_000_000_000));
                        let (a, b) = (format!("a{}", random.below(3)), format!("b{}", random.below(3)));
                        let sums = Sums::from_values(values);
                        pending.add(at, kind, &a, &b, &sums);
                        records.push(Record { at, kind, a, sums });
                    }
                    room.insert(&std::mem::take(&mut pending));
                }
                choice => {
                    let before = all_answers(&room, &range);
                    // A crash before the commit leaves no rows.
                    let crashes = random.below(3) == 0;
                    room.connection.execute_batch("SAVEPOINT step").unwrap();
                    match choice {
                        3 => drop(room.roll_up(1 + random.below(30))),
                        4 => drop(room.clean_up(BASE + random.below(70 * DAY_MS))),
                        _ => {
                            while room.roll_up(7) == 7 {}
                            room.clean_up(END_UNIX_MS);
                            assert_eq!(room.count("analytics_raw"), 0, "seed {seed}, step {step}");
                        }
                    }
                    if crashes {
                        room.connection.execute_batch("ROLLBACK TO step").unwrap();
                    }
                    room.connection.execute_batch("RELEASE step").unwrap();
                    assert!(all_answers(&room, &range) == before, "seed {seed}, step {step}, {range}");
                }
            }
        }
        room.now += 1;
        check_against_reference(&room, &records, &mut random, seed);
    }
}

fn check_against_reference(room: &Database, records: &[Record], random: &mut Random, seed: u64) {
    for granularity in Granularity::ALL {
        let from = BASE + random.below(50 * DAY_MS);
        let to = from + 1 + random.below(20 * DAY_MS);
        let payload = json!({"timeRange": {"from": from, "to": to}, "granularity": granularity.as_str()});
        let tokens = room.ask("analytics:token-timeseries", payload.clone());
        let expected = reference(records, Kind::Ai, from, to, granularity);
        let buckets: Vec<Value> = expected
            .iter()
            .map(|(start, sums)| {
                let Sums { input, output, cache_read, cache_write, .. } = sums;
                let values = json!({"input": input, "output": output, "cacheRead": cache_read, "cacheWrite": cache_write});
                json!({"start": start, "values": values})
            })
            .collect();
        assert_eq!(tokens["buckets"], json!(buckets), "seed {seed} {payload}");
        let images = room.ask("analytics:imagegen-timeseries", payload.clone());
        let total = reference(records, Kind::Images, from, to, granularity)
            .values()
            .map(|sums| sums.extra)
            .sum::<i64>();
        assert_eq!(images["total"]["images"], total, "seed {seed} {payload}");
        let sessions = room.ask("analytics:session-stats", payload.clone());
        let expected = reference(records, Kind::Session, from, to, Granularity::Day);
        let longest = expected.values().map(|sums| sums.max_us).max().unwrap_or_default() / 1000;
        assert_eq!(sessions["longestMs"], longest, "seed {seed} {payload}");
        for day in sessions["byDay"].as_array().unwrap() {
            let sums = expected.iter().find(|(start, _)| super::calendar::date(**start) == day["day"]);
            assert_eq!(day["ms"], sums.unwrap().1.us / 1000, "seed {seed} {day}");
        }
    }
    let ever = |kind: Kind, value: fn(&Record) -> i64| {
        records.iter().filter(|record| record.kind == kind).map(value).sum::<i64>()
    };
    let totals = room.ask("analytics:lifetime-totals", Value::Null);
    assert_eq!(totals["requests"], ever(Kind::Request, |record| record.sums.count), "seed {seed}");
    assert_eq!(totals["costUsd"], ever(Kind::Ai, |record| record.sums.nano_usd) as f64 / 1e9, "seed {seed}");
    let first = records.iter().map(|record| record.at / HOUR_MS * HOUR_MS).min();
    assert_eq!(totals["since"], json!(first), "seed {seed}");
    let cost = room.ask("analytics:cost-summary", json!({"timeRange": "all"}));
    for line in cost["byProvider"].as_array().unwrap() {
        let of = records.iter().filter(|record| record.kind == Kind::Ai && record.a == line["provider"]);
        assert_eq!(line["calls"], of.map(|record| record.sums.count).sum::<i64>(), "seed {seed}");
    }
}
