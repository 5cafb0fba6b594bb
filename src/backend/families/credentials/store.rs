//! The credentials in the database.

use std::path::{Path, PathBuf};

use ring::aead::LessSafeKey;
use rusqlite::{Connection, OptionalExtension, params};

use crate::backend::shared::db::{Change, Db, View};
use crate::backend::shared::encode::{Object, array, quoted};
use crate::backend::shared::token::Token;
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::seal::{KEY_FILE_NAME, create_key, missing, open, other_key, read_key, seal};

const MAX_KEY_BYTES: usize = 256;
const MAX_TOKEN_BYTES: usize = 16 << 10;
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Most credentials, so that the response of `credentials:list` always fits into a message.
const MAX_CREDENTIALS: i64 = 1000;

/// Returns the token of a credential, for use inside the server; `None` if there is none.
///
/// # Errors
/// When the key file is missing, or is not the one with which the token was encrypted.
pub(crate) async fn token(db: &Db, key: &str) -> Result<Option<Token>, WireError> {
    let (key, path) = (key.to_owned(), key_path(db));
    db.read(move |view| {
        let sealed: Option<Vec<u8>> = view
            .connection
            .prepare_cached("SELECT sealed FROM credentials WHERE key = ?")?
            .query_row([&key], |row| row.get(0))
            .optional()?;
        let Some(sealed) = sealed else { return Ok(None) };
        let cipher = read_key(&path)?.ok_or_else(|| missing(&path))?;
        open(&cipher, &key, &sealed).map(Some).ok_or_else(|| other_key(&path))
    })
    .await
}

fn key_path(db: &Db) -> PathBuf {
    db.path().with_file_name(KEY_FILE_NAME)
}

pub(super) fn list(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    let mut statement = view.connection.prepare_cached("SELECT key FROM credentials ORDER BY key")?;
    let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
    let keys = keys.map(|key| key.map(|key| quoted(&key)));
    Ok(Payload::trusted(array(&keys.collect::<Result<Vec<_>, _>>()?)))
}

pub(super) fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let metadata: Option<Option<String>> = view
        .connection
        .prepare_cached("SELECT metadata FROM credentials WHERE key = ?")?
        .query_row([&key], |row| row.get(0))
        .optional()?;
    let credential = Object::new()
        .boolean("exists", metadata.is_some())
        .raw("metadata", metadata.flatten().as_deref().unwrap_or("null"));
    Ok(Payload::trusted(credential.finish()))
}

pub(super) async fn set(db: Db, payload: Payload) -> Result<Payload, WireError> {
    let path = key_path(&db);
    db.write(move |change| store(change, &Fields::decode(&payload)?, &path)).await
}

fn store(change: &mut Change<'_>, fields: &Fields<'_>, key_path: &Path) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let token = fields.required_text("token", 1..=MAX_TOKEN_BYTES)?;
    let metadata = fields.object_json("metadata", MAX_METADATA_BYTES)?;
    let cipher = writing_key(change.connection, key_path)?;
    let sealed = seal(&cipher, &key, &token)?;
    change
        .connection
        .prepare_cached(
            "INSERT INTO credentials (key, sealed, metadata) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET sealed = ?2, metadata = ?3",
        )?
        .execute(params![key, sealed, metadata])?;
    let count: i64 = change
        .connection
        .prepare_cached("SELECT count(*) FROM credentials")?
        .query_row([], |row| row.get(0))?;
    if count > MAX_CREDENTIALS {
        return Err(wrong("key", &format!("at most {MAX_CREDENTIALS} credentials"), "one more"));
    }
    announce(change, &key, true);
    Ok(Payload::none())
}

pub(super) fn delete(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let key = fields.required_text("key", 1..=MAX_KEY_BYTES)?;
    let deleted =
        change.connection.prepare_cached("DELETE FROM credentials WHERE key = ?")?.execute([&key])?;
    if deleted > 0 {
        announce(change, &key, false);
    }
    Ok(Payload::from(serde_json::Value::Bool(deleted > 0)))
}

fn announce(change: &mut Change<'_>, key: &str, exists: bool) {
    let payload = Object::new().text("key", key).boolean("exists", exists).finish();
    change.emit("credentials:changed", Payload::trusted(payload));
}

/// Returns the key for encryption. It must decrypt a stored credential; otherwise, after a restored key file, the credentials
/// would be encrypted with two keys.
fn writing_key(connection: &Connection, path: &Path) -> Result<LessSafeKey, WireError> {
    let sample: Option<(String, Vec<u8>)> = connection
        .prepare_cached("SELECT key, sealed FROM credentials LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match (read_key(path)?, sample) {
        (Some(cipher), None) => Ok(cipher),
        (Some(cipher), Some((key, sealed))) => {
            open(&cipher, &key, &sealed).map(|_| cipher).ok_or_else(|| other_key(path))
        }
        (None, Some(_)) => Err(missing(path)),
        (None, None) => create_key(path),
    }
}
