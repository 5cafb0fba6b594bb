//! The tables of the family. In: batches of records, the current time. Out: raw rows, and sums by hour and day.
//!
//! ```text
//! batch ─► raw rows ─► roll_up (each row once) ─► hours, days, kept forever
//!              └─────► clean_up: rows that are rolled up and old enough
//! ```
//!
//! Every function is called inside a transaction, so it takes effect completely or not at all.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::protocol::error::WireError;

use super::calendar::{DAY_MS, HOUR_MS};
use super::record::{Batch, Kind, OTHER, Sums};

/// Most names of one role; further ones count as [`OTHER`]. Clients choose some of them, and could fill the disk.
const MAX_NAMES: i64 = 1_000;
/// Most error messages that are kept: the newest.
const MAX_ERRORS: i64 = 10_000;

/// What a name is the name of. The numbers are stored in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Channel = 1,
    Code = 2,
    Provider = 3,
    Model = 4,
    Source = 5,
    Tool = 6,
    None = 7,
}

fn roles(kind: Kind) -> (Role, Role) {
    match kind {
        Kind::Request => (Role::Channel, Role::Code),
        Kind::Ai | Kind::Images => (Role::Provider, Role::Model),
        Kind::Tool => (Role::Source, Role::Tool),
        Kind::Session => (Role::None, Role::None),
    }
}

/// Appends a batch.
pub(super) fn insert(connection: &Connection, batch: &Batch) -> Result<(), WireError> {
    let sql = format!(
        "INSERT INTO analytics_raw (at, kind, a, b, {}) VALUES (?, ?, ?, ?{})",
        Sums::COLUMNS.join(", "),
        ", ?".repeat(Sums::LEN)
    );
    let mut insert = connection.prepare_cached(&sql)?;
    for (key, fact) in &batch.facts {
        let (a, b) = roles(key.kind);
        let keys = [fact.at, key.kind as i64, name(connection, a, &key.a)?, name(connection, b, &key.b)?];
        insert.execute(params_from_iter(keys.into_iter().chain(fact.sums.values())))?;
    }
    let mut insert = connection
        .prepare_cached("INSERT INTO analytics_errors (at, code, channel, message) VALUES (?, ?, ?, ?)")?;
    for line in &batch.errors {
        insert.execute(params![line.at, line.code.as_str(), line.channel, line.message])?;
    }
    if !batch.errors.is_empty() {
        connection
            .prepare_cached(
                "DELETE FROM analytics_errors WHERE id <= (SELECT max(id) FROM analytics_errors) - ?",
            )?
            .execute([MAX_ERRORS])?;
    }
    Ok(())
}

/// Returns the number of a name. A new name beyond the limit is [`OTHER`].
fn name(connection: &Connection, role: Role, name: &str) -> Result<i64, WireError> {
    let find = |name: &str| {
        connection
            .prepare_cached("SELECT id FROM analytics_names WHERE role = ? AND name = ?")?
            .query_row(params![role as i64, name], |row| row.get(0))
            .optional()
    };
    if let Some(id) = find(name)? {
        return Ok(id);
    }
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM analytics_names WHERE role = ?")?
        .query_row([role as i64], |row| row.get(0))?;
    let name = if count < MAX_NAMES { name } else { OTHER };
    if let Some(id) = find(name)? {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO analytics_names (role, name) VALUES (?, ?)")?
        .execute(params![role as i64, name])?;
    Ok(connection.last_insert_rowid())
}

/// Adds at most `max_rows` raw rows to the sums of their hours and days. Each row is added exactly once. Returns their number; if
/// it is less than `max_rows`, no row is left.
pub(super) fn roll_up(connection: &Connection, max_rows: i64) -> Result<i64, WireError> {
    let (from, to, rows): (i64, Option<i64>, i64) = connection
        .prepare_cached(
            "SELECT rolled_up_to, max(id), count(id) FROM analytics_state LEFT JOIN
                 (SELECT id FROM analytics_raw WHERE id > (SELECT rolled_up_to FROM analytics_state) ORDER BY id LIMIT ?)",
        )?
        .query_row([max_rows], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let Some(to) = to else { return Ok(0) };
    for (table, width) in [("analytics_hours", HOUR_MS), ("analytics_days", DAY_MS)] {
        let columns = Sums::COLUMNS.join(", ");
        let sums = sums("");
        let added: Vec<String> = Sums::COLUMNS
            .into_iter()
            .map(|column| match column {
                "max_us" => "max_us = max(max_us, excluded.max_us)".to_owned(),
                column => format!("{column} = {column} + excluded.{column}"),
            })
            .collect();
        let sql = format!(
            "INSERT INTO {table} (kind, start, a, b, {columns})
             SELECT kind, at - at % {width}, a, b, {sums} FROM analytics_raw WHERE id > ? AND id <= ?
             GROUP BY 1, 2, 3, 4 ON CONFLICT (kind, start, a, b) DO UPDATE SET {}",
            added.join(", ")
        );
        connection.prepare_cached(&sql)?.execute([from, to])?;
    }
    connection.prepare_cached("UPDATE analytics_state SET rolled_up_to = ?")?.execute([to])?;
    Ok(rows)
}

/// Returns the columns of the sums for a query, each with a prefix.
pub(super) fn sums(prefix: &str) -> String {
    let sums = Sums::COLUMNS.into_iter().map(|column| match column {
        "max_us" => format!("max({prefix}max_us)"),
        column => format!("sum({prefix}{column})"),
    });
    sums.collect::<Vec<_>>().join(", ")
}

/// Deletes raw rows and errors from before a time, at most `max_rows` of each, but no rows that are not rolled up yet. Returns
/// their number; if it is less than `max_rows`, none is left.
pub(super) fn clean_up(connection: &Connection, before: i64, max_rows: i64) -> Result<i64, WireError> {
    let rows = connection
        .prepare_cached(
            "DELETE FROM analytics_raw WHERE id IN (SELECT id FROM analytics_raw
                 WHERE at < ? AND id <= (SELECT rolled_up_to FROM analytics_state) LIMIT ?)",
        )?
        .execute([before, max_rows])?;
    let errors = connection
        .prepare_cached(
            "DELETE FROM analytics_errors WHERE id IN (SELECT id FROM analytics_errors WHERE at < ? LIMIT ?)",
        )?
        .execute([before, max_rows])?;
    Ok(i64::try_from(rows + errors).unwrap_or(i64::MAX))
}
