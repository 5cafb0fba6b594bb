//! The settings in the database.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::backend::shared::db::{Change, Db, View};
use crate::backend::shared::encode::Object;
use crate::backend::shared::validate::{Fields, integer_of, wrong};
use crate::protocol::error::WireError;
use crate::protocol::json;
use crate::protocol::payload::Payload;

use super::known::{KNOWN, accepts_null, check_value, default_of, same};

const MAX_KEY_BYTES: usize = 256;
/// Most keys that are not known.
const MAX_UNKNOWN_KEYS: i64 = 1000;
/// Most bytes of all values together, so that the response of `settings:get-all` always fits into a message.
const MAX_TOTAL_BYTES: i64 = 4 << 20;

/// A setting that is a text; see [`text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextSetting {
    pub(crate) text: String,
    /// Whether it has its default value.
    pub(crate) is_default: bool,
}

/// Returns a setting that is a text: its value, else the default, else an empty text.
///
/// # Errors
/// When the database cannot be read.
pub(crate) async fn text(db: &Db, key: &str) -> Result<TextSetting, WireError> {
    let key = key.to_owned();
    db.read(move |view| text_in(view.connection, &key)).await
}

/// Returns a setting as [`text`] does, within a read or a write.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn text_in(connection: &Connection, key: &str) -> Result<TextSetting, WireError> {
    let stored = stored(connection, key)?;
    let default = default_of(key).unwrap_or_default();
    let value = stored.as_deref().unwrap_or(default);
    Ok(TextSetting { text: text_of(value), is_default: same(value, default) })
}

/// Returns the text of a JSON string; an empty text for anything else.
fn text_of(json: &str) -> String {
    json::string_content(json).and_then(json::unescape).unwrap_or_default().into_owned()
}

/// Returns the base URLs with which the key of a provider is used: what `stored` returns for each known setting
/// `FAMILY.PROVIDER.baseUrl`, else the default.
///
/// # Errors
/// Those of `stored`.
pub(crate) fn base_urls<E>(
    provider: &str,
    stored: impl Fn(&str) -> Result<Option<String>, E>,
) -> Result<Vec<String>, E> {
    let mut urls = Vec::new();
    for (key, _, default) in KNOWN {
        let name = key.strip_suffix(".baseUrl").and_then(|key| key.split_once('.'));
        if name.is_some_and(|(_, name)| name == provider) {
            urls.push(text_of(&stored(key)?.unwrap_or_else(|| (*default).to_owned())));
        }
    }
    Ok(urls)
}

/// Returns a setting that is an integer: its value, else the default.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn integer(connection: &Connection, key: &str) -> Result<Option<i64>, WireError> {
    let stored = stored(connection, key)?;
    Ok(stored.as_deref().or(default_of(key)).and_then(integer_of))
}

pub(super) fn get_all(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    all(view.connection)
}

pub(super) fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let value = stored(view.connection, &key)?;
    Ok(Payload::trusted(value.unwrap_or_else(|| default_of(&key).unwrap_or("null").to_owned())))
}

pub(super) fn set(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let value = fields.required_json("value")?;
    put(change, &key, value, "value")?;
    check_total(change.connection)?;
    Ok(Payload::none())
}

pub(super) fn update(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    // Checked before anything is stored, because other writes wait for this one.
    let given = fields.iter().count() as i64;
    if given > MAX_UNKNOWN_KEYS + KNOWN.len() as i64 {
        return Err(too_many(&format!("{given} keys")));
    }
    for (key, value) in fields.iter() {
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            let got = format!("{} bytes", key.len());
            return Err(wrong("payload", &format!("keys of 1..={MAX_KEY_BYTES} bytes"), &got));
        }
        if value != "null" || accepts_null(key) {
            put(change, key, value, key)?;
        }
    }
    check_total(change.connection)?;
    all(change.connection)
}

pub(super) fn reset(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let keys: Vec<String> = match fields.text("key", 1..=MAX_KEY_BYTES)? {
        Some(key) => vec![key],
        None => {
            let mut statement = change.connection.prepare_cached("SELECT key FROM settings ORDER BY key")?;
            statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        }
    };
    for key in keys {
        let before = stored(change.connection, &key)?;
        change.connection.prepare_cached("DELETE FROM settings WHERE key = ?")?.execute([&key])?;
        let default = default_of(&key);
        if before.is_some_and(|before| default.is_none_or(|default| !same(&before, default))) {
            announce(change, &key, default.unwrap_or("null"));
        }
    }
    all(change.connection)
}

/// Stores a value, and emits an event if it has changed.
fn put(change: &mut Change<'_>, key: &str, value: &str, path: &str) -> Result<(), WireError> {
    check_value(key, value, path)?;
    let before = stored(change.connection, key)?;
    if before.as_deref() == Some(value) {
        return Ok(());
    }
    change
        .connection
        .prepare_cached(
            "INSERT INTO settings (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        )?
        .execute(params![key, value])?;
    let before = before.as_deref().or(default_of(key));
    if before.is_none_or(|before| !same(before, value)) {
        announce(change, key, value);
    }
    Ok(())
}

fn announce(change: &mut Change<'_>, key: &str, value: &str) {
    let payload = Object::new().text("key", key).raw("value", value).finish();
    change.emit("settings:changed", Payload::trusted(payload));
}

/// Checks that the stored settings are within the limits.
fn check_total(connection: &Connection) -> Result<(), WireError> {
    let (keys, bytes): (i64, i64) = connection
        .prepare_cached("SELECT count(*), coalesce(sum(length(CAST(value AS BLOB))), 0) FROM settings")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut unknown = keys;
    for (key, ..) in KNOWN {
        unknown -= i64::from(stored(connection, key)?.is_some());
    }
    if unknown > MAX_UNKNOWN_KEYS || bytes > MAX_TOTAL_BYTES {
        return Err(too_many(&format!("{unknown} keys and {bytes} bytes")));
    }
    Ok(())
}

fn too_many(got: &str) -> WireError {
    let expected = format!(
        "settings of at most {MAX_UNKNOWN_KEYS} keys that are not known and {MAX_TOTAL_BYTES} bytes in all"
    );
    wrong("payload", &expected, got)
}

/// Returns every setting, sorted by key.
fn all(connection: &Connection) -> Result<Payload, WireError> {
    let mut settings: BTreeMap<String, String> =
        KNOWN.iter().map(|(key, _, default)| ((*key).to_owned(), (*default).to_owned())).collect();
    let mut statement = connection.prepare_cached("SELECT key, value FROM settings")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        settings.insert(row.get(0)?, row.get(1)?);
    }
    let object = settings.iter().fold(Object::new(), |object, (key, value)| object.raw(key, value));
    Ok(Payload::trusted(object.finish()))
}

/// Returns the JSON of a setting; `None` if it is not set.
pub(crate) fn stored(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM settings WHERE key = ?")?;
    statement.query_row([key], |row| row.get(0)).optional()
}
