//! Queries. In: the database, a range, the current time. Out: the JSON of each channel.
//!
//! A result always covers whole hours. It adds the sums of whole days, the sums of hours at the edges, and the raw rows that are
//! not rolled up yet. So it is the same before and after rows are rolled up, and after they are deleted.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::protocol::error::WireError;

use super::calendar::{DAY_MS, END_UNIX_MS, Granularity, HOUR_MS, Span, TimeRange, date};
use super::record::{Kind, MAX_RECENT_ERRORS, Sums};
use super::store;
use crate::backend::shared::encode::{Object, array, quoted};
use crate::backend::shared::validate::{Fields, kind_of, one_of, shortened, wrong};

/// Most buckets of one result, and most days of `byDay`.
pub(super) const MAX_BUCKETS: usize = 10_000;
/// The default range of the dashboard, and its granularity.
const DASHBOARD_RANGE: TimeRange = TimeRange::Last(30 * 24);
const DASHBOARD_GRANULARITY: Granularity = Granularity::Day;

/// What a query reads from.
pub(super) struct Source<'a> {
    /// Inside a transaction: all reads see the same snapshot.
    pub(super) connection: &'a Connection,
    /// The current time, in Unix ms.
    pub(super) now: i64,
}

/// Sums by name.
type ByName = BTreeMap<(String, String), Sums>;

/// How sums are grouped.
#[derive(Clone, Copy)]
struct GroupBy {
    bucket: bool,
    name: bool,
    subname: bool,
}

impl GroupBy {
    const BUCKET: GroupBy = GroupBy { bucket: true, name: false, subname: false };
}

/// Sums with the start of their bucket and their names, as far as they are grouped by them.
struct Row {
    start: i64,
    name: String,
    subname: String,
    sums: Sums,
}

/// What a row adds to which series.
type Values = Vec<(String, i64)>;

/// Whether the numbers of a series are counts, or billionths of a USD.
#[derive(Clone, Copy)]
enum Unit {
    Count,
    NanoUsd,
}

/// A query of a channel.
pub(super) type QueryFn = fn(&Source<'_>, Query) -> Result<String, WireError>;

/// The parameters that a channel requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Params {
    Nothing,
    Range,
    RangeAndGranularity,
    /// Both can be missing.
    Neither,
}

/// The parameters of a request, with the defaults of the dashboard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query {
    range: TimeRange,
    granularity: Granularity,
}

impl Query {
    pub(super) fn read(fields: &Fields<'_>, needs: Params) -> Result<Query, WireError> {
        let is_read = |name: &str, needed: bool| needed || needs == Params::Neither && fields.has(name);
        let mut asked = Query { range: DASHBOARD_RANGE, granularity: DASHBOARD_GRANULARITY };
        if is_read("timeRange", matches!(needs, Params::Range | Params::RangeAndGranularity)) {
            asked.range = time_range(fields)?;
        }
        if is_read("granularity", needs == Params::RangeAndGranularity) {
            asked.granularity = granularity(fields)?;
        }
        Ok(asked)
    }
}

pub(super) fn dashboard(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    let cut = source.cut(asked)?;
    let dashboard = Object::new()
        .raw("totals", &source.totals()?)
        .raw("cost", &source.cost(cut.span)?)
        .raw("errors", &source.errors(cut.span)?)
        .raw("models", &source.models(cut.span)?)
        .raw("tokens", &source.tokens(&cut)?)
        .raw("requests", &source.requests(&cut)?);
    Ok(dashboard.finish())
}

pub(super) fn lifetime_totals(source: &Source<'_>, _: Query) -> Result<String, WireError> {
    source.totals()
}

pub(super) fn cost_summary(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.cost(source.span(asked.range)?)
}

pub(super) fn error_summary(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.errors(source.span(asked.range)?)
}

pub(super) fn model_usage(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.models(source.span(asked.range)?)
}

pub(super) fn tool_usage(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.tools(source.span(asked.range)?)
}

pub(super) fn session_stats(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.sessions(source.span(asked.range)?)
}

pub(super) fn cost_timeseries(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.costs(&source.cut(asked)?)
}

pub(super) fn error_timeseries(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.codes(&source.cut(asked)?)
}

pub(super) fn token_timeseries(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.tokens(&source.cut(asked)?)
}

pub(super) fn imagegen_timeseries(source: &Source<'_>, asked: Query) -> Result<String, WireError> {
    source.images(&source.cut(asked)?)
}

/// Reads `timeRange`: a range with a name, or `{from, to}` with an exclusive end.
fn time_range(fields: &Fields<'_>) -> Result<TimeRange, WireError> {
    let given = fields.required_json("timeRange").ok();
    if given.is_some_and(|given| kind_of(given) == "object")
        && let Some(range) = fields.object("timeRange")?
    {
        return between(&range);
    }
    let names = TimeRange::NAMED.map(|(name, _)| name);
    let name = fields.required_one_of("timeRange", &names).ok();
    let named = TimeRange::NAMED.into_iter().find(|(known, _)| name == Some(*known));
    named.map(|(_, range)| range).ok_or_else(|| {
        let expected = format!("{} | {{from, to}}", one_of(&names));
        fields.wrong("timeRange", &expected, given.map_or("nothing", shortened))
    })
}

fn between(range: &Fields<'_>) -> Result<TimeRange, WireError> {
    let moment = |name: &str| range.required_integer(name, 0..=END_UNIX_MS);
    let (from, to) = (moment("from")?, moment("to")?);
    if to <= from {
        return Err(range.wrong("to", &format!("integer above from, which is {from}"), &to.to_string()));
    }
    Ok(TimeRange::Between { from, to })
}

fn granularity(fields: &Fields<'_>) -> Result<Granularity, WireError> {
    let name = fields.required_one_of("granularity", &Granularity::NAMES)?;
    Granularity::from_name(name).ok_or_else(|| fields.wrong("granularity", "granularity", name))
}

/// A span, divided into buckets.
struct Cut {
    span: Span,
    granularity: Granularity,
    /// The starts of the buckets.
    buckets: Vec<i64>,
}

impl Source<'_> {
    /// Returns the hours of a range.
    fn span(&self, range: TimeRange) -> Result<Span, WireError> {
        let recorded = if range == TimeRange::All { self.recorded()? } else { None };
        Ok(range.span(self.now, recorded))
    }

    /// Returns the buckets of a range.
    fn cut(&self, asked: Query) -> Result<Cut, WireError> {
        let Query { range, granularity } = asked;
        let span = self.span(range)?;
        match span.buckets(granularity, MAX_BUCKETS) {
            Some(buckets) => Ok(Cut { span, granularity, buckets }),
            None => {
                let expected = format!("granularity with at most {MAX_BUCKETS} buckets in the range");
                Err(wrong("granularity", &expected, &quoted(granularity.as_str())))
            }
        }
    }

    /// Returns the hours from the first record to the last.
    fn recorded(&self) -> Result<Option<Span>, WireError> {
        let mut ends: Vec<i64> = Vec::new();
        let mut look = |sql: &str, kind: Option<Kind>| -> Result<(), WireError> {
            let kind = kind.map(|kind| kind as i64);
            let found: (Option<i64>, Option<i64>) = self
                .connection
                .prepare_cached(sql)?
                .query_row(rusqlite::params_from_iter(kind), |row| Ok((row.get(0)?, row.get(1)?)))?;
            ends.extend([found.0, found.1].into_iter().flatten());
            Ok(())
        };
        for kind in Kind::ALL {
            // Two lookups at the ends of an index.
            look(
                "SELECT (SELECT min(start) FROM analytics_hours WHERE kind = ?1),
                        (SELECT max(start) FROM analytics_hours WHERE kind = ?1)",
                Some(kind),
            )?;
        }
        look(
            "SELECT min(at), max(at) FROM analytics_raw WHERE id > (SELECT rolled_up_to FROM analytics_state)",
            None,
        )?;
        let (first, last) = (ends.iter().min(), ends.iter().max());
        Ok(first.zip(last).map(|(first, last)| Span::around(*first, *last + 1)))
    }

    /// Returns the sums of a span: from hours at its edges and days between them, or only from hours for buckets of an hour.
    fn rows(
        &self,
        kind: Kind,
        span: Span,
        granularity: Granularity,
        by: GroupBy,
    ) -> Result<Vec<Row>, WireError> {
        let days = match granularity {
            Granularity::Hour => Span { from: span.from, to: span.from },
            _ => span.whole_days(),
        };
        let columns = Sums::COLUMNS.join(", ");
        let start = if by.bucket { "start" } else { "0" };
        let [a, b] = [(by.name, "a"), (by.subname, "b")].map(|(by, table)| match by {
            true => format!("{table}.name"),
            false => "''".to_owned(),
        });
        let sql = format!(
            "SELECT {start}, {a}, {b}, {} FROM (
                 SELECT start, a, b, {columns} FROM analytics_hours WHERE kind = ?1 AND start >= ?2 AND start < ?3
                 UNION ALL
                 SELECT start, a, b, {columns} FROM analytics_days WHERE kind = ?1 AND start >= ?3 AND start < ?4
                 UNION ALL
                 SELECT start, a, b, {columns} FROM analytics_hours WHERE kind = ?1 AND start >= ?4 AND start < ?5
                 UNION ALL
                 SELECT at - at % {HOUR_MS}, a, b, {columns} FROM analytics_raw
                     WHERE id > (SELECT rolled_up_to FROM analytics_state) AND kind = ?1 AND at >= ?2 AND at < ?5
             ) AS sums
             JOIN analytics_names AS a ON a.id = sums.a
             JOIN analytics_names AS b ON b.id = sums.b
             GROUP BY 1, 2, 3",
            store::sums("sums.")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut found = statement.query(params![kind as i64, span.from, days.from, days.to, span.to])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let mut values = [0; Sums::LEN];
            for (column, value) in values.iter_mut().enumerate() {
                *value = row.get(column + 3)?;
            }
            let sums = Sums::from_values(values);
            rows.push(Row { start: row.get(0)?, name: row.get(1)?, subname: row.get(2)?, sums });
        }
        Ok(rows)
    }

    /// Returns the sums of a span, without buckets.
    fn by_name(&self, kind: Kind, span: Span) -> Result<ByName, WireError> {
        let mut by_name = ByName::new();
        let by = GroupBy { bucket: false, name: true, subname: true };
        for row in self.rows(kind, span, Granularity::Day, by)? {
            by_name.entry((row.name, row.subname)).or_default().add(&row.sums);
        }
        Ok(by_name)
    }

    fn totals(&self) -> Result<String, WireError> {
        let ever = |kind| Ok::<_, WireError>(total(self.by_name(kind, Span::EVER)?.values()));
        let (requests, ai, images) = (ever(Kind::Request)?, ever(Kind::Ai)?, ever(Kind::Images)?);
        let tools = self.by_name(Kind::Tool, Span::EVER)?;
        let artifacts =
            total(tools.iter().filter(|((source, _), _)| source == "artifact").map(|(_, sums)| sums));
        let since = self.recorded()?.map(|recorded| recorded.from);
        let totals = Object::new()
            .integer("requests", requests.count)
            .integer("errors", requests.failed)
            .integer("aiCalls", ai.count)
            .integer("inputTokens", ai.input)
            .integer("outputTokens", ai.output)
            .number("costUsd", usd(ai.nano_usd))
            .integer("images", images.extra)
            .integer("artifactCalls", artifacts.count)
            .integer("sessions", ever(Kind::Session)?.count)
            .raw("since", &since.map_or_else(|| "null".to_owned(), |since| since.to_string()));
        Ok(totals.finish())
    }

    fn cost(&self, span: Span) -> Result<String, WireError> {
        let by_model = self.by_name(Kind::Ai, span)?;
        let mut by_provider: BTreeMap<&str, Sums> = BTreeMap::new();
        for ((provider, _), sums) in &by_model {
            by_provider.entry(provider).or_default().add(sums);
        }
        let providers =
            ranked(by_provider.iter(), |sums| sums.nano_usd).into_iter().map(|(provider, sums)| {
                let provider = Object::new().text("provider", provider).number("usd", usd(sums.nano_usd));
                provider.integer("calls", sums.count).finish()
            });
        let models =
            ranked(by_model.iter(), |sums| sums.nano_usd).into_iter().map(|((provider, model), sums)| {
                Object::new()
                    .text("provider", provider)
                    .text("model", model)
                    .number("usd", usd(sums.nano_usd))
                    .integer("calls", sums.count)
                    .integer("inputTokens", sums.input)
                    .integer("outputTokens", sums.output)
                    .finish()
            });
        let summary = Object::new()
            .number("totalUsd", usd(total(by_model.values()).nano_usd))
            .raw("byProvider", &array(&providers.collect::<Vec<_>>()))
            .raw("byModel", &array(&models.collect::<Vec<_>>()));
        Ok(summary.finish())
    }

    fn errors(&self, span: Span) -> Result<String, WireError> {
        let mut by_code: BTreeMap<String, i64> = BTreeMap::new();
        let mut by_channel: BTreeMap<String, i64> = BTreeMap::new();
        for ((channel, code), sums) in self.by_name(Kind::Request, span)? {
            if sums.failed > 0 {
                *by_code.entry(code).or_default() += sums.failed;
                *by_channel.entry(channel).or_default() += sums.failed;
            }
        }
        let lines = |name: &str, counts: &BTreeMap<String, i64>| {
            let ranked = ranked(counts.iter(), |count| **count).into_iter();
            let lines =
                ranked.map(|(text, count)| Object::new().text(name, text).integer("count", *count).finish());
            array(&lines.collect::<Vec<_>>())
        };
        let summary = Object::new()
            .integer("total", by_code.values().sum())
            .raw("byCode", &lines("code", &by_code))
            .raw("byChannel", &lines("channel", &by_channel))
            .raw("recent", &self.recent_errors(span)?);
        Ok(summary.finish())
    }

    /// Returns the newest errors, newest first.
    fn recent_errors(&self, span: Span) -> Result<String, WireError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT code, channel, message, at FROM analytics_errors WHERE at >= ? AND at < ?
             ORDER BY at DESC, id DESC LIMIT ?",
        )?;
        let limit = i64::try_from(MAX_RECENT_ERRORS).unwrap_or(i64::MAX);
        let mut rows = statement.query([span.from, span.to, limit])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let line = Object::new()
                .text("code", &row.get::<_, String>(0)?)
                .text("channel", &row.get::<_, String>(1)?)
                .text("message", &row.get::<_, String>(2)?)
                .integer("at", row.get(3)?);
            lines.push(line.finish());
        }
        Ok(array(&lines))
    }

    fn models(&self, span: Span) -> Result<String, WireError> {
        let by_model = self.by_name(Kind::Ai, span)?;
        let calls = total(by_model.values()).count;
        let models =
            ranked(by_model.iter(), |sums| sums.count).into_iter().map(|((provider, model), sums)| {
                Object::new()
                    .text("provider", provider)
                    .text("model", model)
                    .integer("calls", sums.count)
                    .integer("inputTokens", sums.input)
                    .integer("outputTokens", sums.output)
                    .number("usd", usd(sums.nano_usd))
                    .number("share", ratio(sums.count, calls).unwrap_or_default())
                    .number("meanLatencyMs", mean_ms(sums.us, sums.count).unwrap_or_default())
                    .finish()
            });
        Ok(Object::new().raw("models", &array(&models.collect::<Vec<_>>())).finish())
    }

    fn tools(&self, span: Span) -> Result<String, WireError> {
        let by_tool = self.by_name(Kind::Tool, span)?;
        let tools = ranked(by_tool.iter(), |sums| sums.count).into_iter().map(|((source, tool), sums)| {
            Object::new()
                .text("tool", tool)
                .text("source", source)
                .integer("calls", sums.count)
                .integer("errors", sums.failed)
                .number("meanMs", mean_ms(sums.us, sums.extra))
                .finish()
        });
        Ok(Object::new().raw("tools", &array(&tools.collect::<Vec<_>>())).finish())
    }

    fn sessions(&self, span: Span) -> Result<String, WireError> {
        let mut days: BTreeMap<i64, Sums> = BTreeMap::new();
        for row in self.rows(Kind::Session, span, Granularity::Day, GroupBy::BUCKET)? {
            days.entry(Granularity::Day.start(row.start)).or_default().add(&row.sums);
        }
        let all = total(days.values());
        let shown = days.first_key_value().zip(days.last_key_value()).map(|((first, _), (last, _))| {
            let newest = i64::try_from(MAX_BUCKETS).unwrap_or(i64::MAX) - 1;
            (*first).max(last - newest * DAY_MS)..=*last
        });
        let mut by_day = Vec::new();
        let mut day = shown.as_ref().map_or(0, |shown| *shown.start());
        while shown.as_ref().is_some_and(|shown| day <= *shown.end()) {
            let sums = days.get(&day).copied().unwrap_or_default();
            let line = Object::new().text("day", &date(day)).integer("sessions", sums.count);
            by_day.push(line.integer("ms", sums.us / 1000).finish());
            day += DAY_MS;
        }
        let stats = Object::new()
            .integer("sessions", all.count)
            .integer("totalMs", all.us / 1000)
            .number("meanMs", mean_ms(all.us, all.extra).unwrap_or_default())
            .integer("longestMs", all.max_us / 1000)
            .raw("byDay", &array(&by_day));
        Ok(stats.finish())
    }

    fn costs(&self, cut: &Cut) -> Result<String, WireError> {
        let rows = self.rows(
            Kind::Ai,
            cut.span,
            cut.granularity,
            GroupBy { bucket: true, name: true, subname: false },
        )?;
        let values = |row: &Row| vec![(row.name.clone(), row.sums.nano_usd)];
        Ok(series(&rows, cut, &[], Unit::NanoUsd, values))
    }

    fn codes(&self, cut: &Cut) -> Result<String, WireError> {
        let by = GroupBy { bucket: true, name: false, subname: true };
        let mut rows = self.rows(Kind::Request, cut.span, cut.granularity, by)?;
        rows.retain(|row| row.sums.failed > 0);
        let values = |row: &Row| vec![(row.subname.clone(), row.sums.failed)];
        Ok(series(&rows, cut, &[], Unit::Count, values))
    }

    fn tokens(&self, cut: &Cut) -> Result<String, WireError> {
        let rows = self.rows(Kind::Ai, cut.span, cut.granularity, GroupBy::BUCKET)?;
        let names = ["input", "output", "cacheRead", "cacheWrite"];
        let values = |row: &Row| {
            let Sums { input, output, cache_read, cache_write, .. } = row.sums;
            names.into_iter().map(str::to_owned).zip([input, output, cache_read, cache_write]).collect()
        };
        Ok(series(&rows, cut, &names, Unit::Count, values))
    }

    fn images(&self, cut: &Cut) -> Result<String, WireError> {
        let rows = self.rows(Kind::Images, cut.span, cut.granularity, GroupBy::BUCKET)?;
        let names = ["images", "batches", "failed"];
        let values = |row: &Row| {
            let Sums { extra, count, failed, .. } = row.sums;
            names.into_iter().map(str::to_owned).zip([extra, count, failed]).collect()
        };
        Ok(series(&rows, cut, &names, Unit::Count, values))
    }

    fn requests(&self, cut: &Cut) -> Result<String, WireError> {
        let rows = self.rows(Kind::Request, cut.span, cut.granularity, GroupBy::BUCKET)?;
        let names = ["requests", "errors"];
        let values =
            |row: &Row| names.into_iter().map(str::to_owned).zip([row.sums.count, row.sums.failed]).collect();
        Ok(series(&rows, cut, &names, Unit::Count, values))
    }
}

/// Returns `TimeSeriesData`. Its series are the named ones, then those that occur in the rows, sorted by name.
fn series(rows: &[Row], cut: &Cut, named: &[&str], unit: Unit, values: impl Fn(&Row) -> Values) -> String {
    let mut by_bucket: BTreeMap<i64, BTreeMap<String, i64>> = BTreeMap::new();
    let mut total: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows {
        let bucket = by_bucket.entry(cut.granularity.start(row.start)).or_default();
        for (name, value) in values(row) {
            *total.entry(name.clone()).or_default() += value;
            *bucket.entry(name).or_default() += value;
        }
    }
    let mut names = named.to_vec();
    names.extend(total.keys().map(String::as_str).filter(|name| !named.contains(name)));
    let of = |values: Option<&BTreeMap<String, i64>>| {
        let object = names.iter().fold(Object::new(), |object, name| {
            let value = values.and_then(|values| values.get(*name)).copied().unwrap_or_default();
            match unit {
                Unit::Count => object.integer(name, value),
                Unit::NanoUsd => object.number(name, usd(value)),
            }
        });
        object.finish()
    };
    let buckets: Vec<String> = cut
        .buckets
        .iter()
        .map(|start| Object::new().integer("start", *start).raw("values", &of(by_bucket.get(start))).finish())
        .collect();
    let shown: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    Object::new()
        .text("granularity", cut.granularity.as_str())
        .raw("buckets", &array(&buckets))
        .raw("series", &array(&shown))
        .raw("total", &of(Some(&total)))
        .finish()
}

/// Sorts by value, greatest first, then by name.
fn ranked<K, V>(lines: impl Iterator<Item = (K, V)>, rank: impl Fn(&V) -> i64) -> Vec<(K, V)> {
    let mut lines: Vec<(K, V)> = lines.collect();
    lines.sort_by_key(|(_, value)| std::cmp::Reverse(rank(value)));
    lines
}

fn total<'a>(sums: impl Iterator<Item = &'a Sums>) -> Sums {
    sums.fold(Sums::default(), |mut total, sums| {
        total.add(sums);
        total
    })
}

fn usd(nano: i64) -> f64 {
    nano as f64 / 1e9
}

fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean_ms(us: i64, count: i64) -> Option<f64> {
    ratio(us, count).map(|us| us / 1000.0)
}
