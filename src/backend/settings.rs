//! Settings (specification, "Settings Channels"): one flat object of dotted keys. A known key has a default and a
//! type; any other belongs to the frontend and is stored as it came.
//!
//! Every key whose value really changes is told to everyone with `settings:changed {key, value}`, once it is on the
//! disk; `value` is null for a key that is not set any more.
//!
//! What other families may use: `text`, `integer`.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::protocol::error::WireError;
use crate::protocol::json;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::db::{Change, Db, View};
use super::encode::Object;
use super::registry::{Channel, Direction};
use super::validate::{Fields, integer_of, one_of, shortened, wrong};

const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 64 << 10;
/// Keys that are not known, at most.
const MAX_FOREIGN_KEYS: i64 = 1000;
/// All values together, so that `settings:get-all` can always be answered.
const MAX_TOTAL_BYTES: i64 = 4 << 20;

/// The table.
pub(super) const TABLES: &str = "
CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
";

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "settings:get-all",
        direction: Direction::Request,
        payload: "-",
        response: "Settings",
        description: "Get every setting: what is set, and the defaults of what is not",
        example: "",
    },
    Channel {
        name: "settings:get",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "unknown",
        description: "Get one setting; null for a key that is not set and has no default",
        example: r#"{"key":"theme"}"#,
    },
    Channel {
        name: "settings:set",
        direction: Direction::Request,
        payload: "{ key: string, value: unknown }",
        response: "-",
        description: "Set one setting",
        example: r#"{"key":"theme","value":"dark"}"#,
    },
    Channel {
        name: "settings:update",
        direction: Direction::Request,
        payload: "Partial<Settings>",
        response: "Settings",
        description: "Set several settings, all or none",
        example: r#"{"theme":"dark","language":"de"}"#,
    },
    Channel {
        name: "settings:reset",
        direction: Direction::Request,
        payload: "{ key?: string }",
        response: "Settings",
        description: "Set one setting, or all, back to the default; keys without a default are removed",
        example: r#"{"key":"theme"}"#,
    },
    Channel::event("settings:changed", "{ key: string, value: unknown }", "A setting has changed"),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
/** One flat object. Keys that are not listed belong to the frontend and hold any JSON. */
export interface Settings {
  "ai.anthropic.baseUrl": string;
  "ai.defaultModel": string | null;
  "ai.defaultProvider": string;
  "ai.openai.baseUrl": string;
  "analytics.retentionDays": number;
  "imagegen.automatic1111.baseUrl": string;
  "imagegen.defaultProvider": ImageProvider;
  "imagegen.openai.baseUrl": string;
  language: string;
  theme: "system" | "light" | "dark";
  [key: string]: unknown;
}
"#;

/// What a known key may hold.
#[derive(Clone, Copy)]
enum Kind {
    OneOf(&'static [&'static str]),
    /// A language tag, as `en` or `pt-BR`.
    Language,
    /// A name, or null for the provider's own choice.
    NameOrNull,
    Name,
    /// An `http` or `https` address.
    Url,
    Days,
}

/// The known keys, their types and their defaults.
const KNOWN: &[(&str, Kind, &str)] = &[
    ("ai.anthropic.baseUrl", Kind::Url, r#""https://api.anthropic.com""#),
    ("ai.defaultModel", Kind::NameOrNull, "null"),
    ("ai.defaultProvider", Kind::Name, r#""anthropic""#),
    ("ai.openai.baseUrl", Kind::Url, r#""https://api.openai.com/v1""#),
    ("analytics.retentionDays", Kind::Days, "90"),
    ("imagegen.automatic1111.baseUrl", Kind::Url, r#""http://127.0.0.1:7860""#),
    ("imagegen.defaultProvider", Kind::OneOf(&["openai", "automatic1111", "pattern"]), r#""pattern""#),
    ("imagegen.openai.baseUrl", Kind::Url, r#""https://api.openai.com/v1""#),
    ("language", Kind::Language, r#""en""#),
    ("theme", Kind::OneOf(&["system", "light", "dark"]), r#""system""#),
];

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    db.on_read(server, "settings:get-all", get_all);
    db.on_read(server, "settings:get", get);
    db.on_write(server, "settings:set", set);
    db.on_write(server, "settings:update", update);
    db.on_write(server, "settings:reset", reset);
}

/// A setting that is a text, as [`text`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextSetting {
    pub(super) text: String,
    /// Whether it is what it was before anybody set it.
    pub(super) is_default: bool,
}

/// A setting that is a text: what is set, else the default; empty if it has neither.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn text(db: &Db, key: &str) -> Result<TextSetting, WireError> {
    let key = key.to_owned();
    db.read(move |view| {
        let stored = stored(view.connection, &key)?;
        let default = default_of(&key).unwrap_or_default();
        let value = stored.as_deref().unwrap_or(default);
        let text = json::string_content(value).and_then(json::unescape).unwrap_or_default();
        Ok(TextSetting { text: text.into_owned(), is_default: same(value, default) })
    })
    .await
}

/// A setting that is an integer: what is set, else the default.
///
/// # Errors
/// When the database cannot be read.
pub(super) fn integer(connection: &Connection, key: &str) -> Result<Option<i64>, WireError> {
    let stored = stored(connection, key)?;
    Ok(stored.as_deref().or(default_of(key)).and_then(integer_of))
}

fn get_all(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    all(view.connection)
}

fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let value = stored(view.connection, &key)?;
    Ok(Payload::trusted(value.unwrap_or_else(|| default_of(&key).unwrap_or("null").to_owned())))
}

fn set(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let value = fields.required_json("value")?;
    put(change, &key, value, "value")?;
    check_total(change.connection)?;
    Ok(Payload::none())
}

fn update(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    // Before any is stored: other writes wait as long as this one takes.
    let given = fields.iter().count() as i64;
    if given > MAX_FOREIGN_KEYS + KNOWN.len() as i64 {
        return Err(too_many(&format!("{given} keys")));
    }
    for (key, value) in fields.iter() {
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            let got = format!("{} bytes", key.len());
            return Err(wrong("payload", &format!("keys of 1..={MAX_KEY_BYTES} bytes"), &got));
        }
        put(change, key, value, key)?;
    }
    check_total(change.connection)?;
    all(change.connection)
}

fn reset(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
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

/// Stores a value, and tells everyone if it is another one than before.
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

/// Whether what is stored now is within the limits.
fn check_total(connection: &Connection) -> Result<(), WireError> {
    let (keys, bytes): (i64, i64) = connection
        .prepare_cached("SELECT count(*), coalesce(sum(length(CAST(value AS BLOB))), 0) FROM settings")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut foreign = keys;
    for (key, ..) in KNOWN {
        foreign -= i64::from(stored(connection, key)?.is_some());
    }
    if foreign > MAX_FOREIGN_KEYS || bytes > MAX_TOTAL_BYTES {
        return Err(too_many(&format!("{foreign} keys and {bytes} bytes")));
    }
    Ok(())
}

fn too_many(got: &str) -> WireError {
    let expected = format!(
        "settings of at most {MAX_FOREIGN_KEYS} keys that are not known and {MAX_TOTAL_BYTES} bytes in all"
    );
    wrong("payload", &expected, got)
}

/// Every setting, by key.
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

fn stored(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT value FROM settings WHERE key = ?")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

fn default_of(key: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, ..)| *known == key).map(|(.., default)| *default)
}

fn kind_of_key(key: &str) -> Option<Kind> {
    if let Some((_, kind, _)) = KNOWN.iter().find(|(known, ..)| *known == key) {
        return Some(*kind);
    }
    // Further providers have addresses too.
    let provider = key.strip_suffix(".baseUrl")?;
    let named = provider.strip_prefix("ai.").or(provider.strip_prefix("imagegen."))?;
    (!named.is_empty() && !named.contains('.')).then_some(Kind::Url)
}

/// Whether two JSON texts mean the same.
fn same(a: &str, b: &str) -> bool {
    let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).ok();
    a == b || value(a).is_some_and(|a| Some(a) == value(b))
}

/// Whether a key may hold a value. `path` is what an error calls it.
fn check_value(key: &str, value: &str, path: &str) -> Result<(), WireError> {
    if value.len() > MAX_VALUE_BYTES {
        let got = format!("{} bytes", value.len());
        return Err(wrong(path, &format!("JSON value of at most {MAX_VALUE_BYTES} bytes"), &got));
    }
    let text = json::string_content(value).and_then(json::unescape);
    let text = text.as_deref();
    let (fits, expected) = match kind_of_key(key) {
        None => return Ok(()),
        Some(Kind::OneOf(words)) => (text.is_some_and(|text| words.contains(&text)), one_of(words)),
        Some(Kind::Language) => (text.is_some_and(is_language), "language tag like \"en\"".to_owned()),
        Some(Kind::Name) => (text.is_some_and(is_name), "string of 1..=256 bytes".to_owned()),
        Some(Kind::NameOrNull) => {
            (value == "null" || text.is_some_and(is_name), "string of 1..=256 bytes, or null".to_owned())
        }
        Some(Kind::Url) => (text.is_some_and(is_url), "http:// or https:// URL".to_owned()),
        Some(Kind::Days) => {
            (integer_of(value).is_some_and(|days| (1..=3650).contains(&days)), "integer 1..=3650".to_owned())
        }
    };
    if fits {
        return Ok(());
    }
    Err(wrong(path, &expected, shortened(value)))
}

fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len())
}

fn is_language(text: &str) -> bool {
    let is_subtag = |subtag: &str| {
        (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.len() <= 35
        && text.split('-').all(is_subtag)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    host.is_some_and(|host| !host.is_empty())
        && text.len() <= 2048
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_own_type() {
        for (key, _, default) in KNOWN {
            assert!(check_value(key, default, "value").is_ok(), "{key}");
        }
    }

    #[test]
    fn every_known_key_stands_in_the_types() {
        for (key, ..) in KNOWN {
            let member = if key.contains('.') { format!("  \"{key}\": ") } else { format!("  {key}: ") };
            assert!(TYPES.contains(&member), "{key}");
        }
    }

    #[test]
    fn known_keys_have_types_and_other_keys_take_anything() {
        for (key, value, fits) in [
            ("theme", r#""dark""#, true),
            ("theme", r#""Dark""#, false),
            ("theme", "1", false),
            ("language", r#""pt-BR""#, true),
            ("language", r#""""#, false),
            ("language", r#""e n""#, false),
            ("ai.defaultModel", "null", true),
            ("ai.defaultModel", r#""""#, false),
            ("ai.defaultProvider", "null", false),
            ("ai.ollama.baseUrl", r#""http://localhost:11434/v1""#, true),
            ("ai.ollama.baseUrl", r#""localhost""#, false),
            ("ai.ollama.baseUrl", r#""https://""#, false),
            ("ai.a.b.baseUrl", "1", true),
            ("analytics.retentionDays", "1", true),
            ("analytics.retentionDays", "3650", true),
            ("analytics.retentionDays", "0", false),
            ("analytics.retentionDays", "3651", false),
            ("analytics.retentionDays", "1.5", false),
            ("my.layout", r#"{"panes":[1,2]}"#, true),
        ] {
            assert_eq!(check_value(key, value, "value").is_ok(), fits, "{key} {value}");
        }
        let long = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert!(check_value("x", &long(MAX_VALUE_BYTES), "value").is_ok());
        assert!(check_value("x", &long(MAX_VALUE_BYTES + 1), "value").is_err());
    }

    #[test]
    fn values_are_compared_by_what_they_mean() {
        assert!(same(r#"{"a":1,"b":2}"#, r#"{ "b":2, "a":1 }"#));
        assert!(same(r#""\ud800""#, r#""\ud800""#));
        assert!(!same(r#""\ud800""#, r#""\ud801""#));
        assert!(!same("1", "\"1\""));
    }
}
