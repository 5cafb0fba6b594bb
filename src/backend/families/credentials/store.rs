//! The credentials in the database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ring::aead::LessSafeKey;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, Db, View};
use crate::backend::shared::encode::{Object, array, quoted};
use crate::backend::shared::origin::Origin;
use crate::backend::shared::token::Token;
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::super::settings;
use super::seal::{
    KEY_FILE_NAME, Secret, create_key, missing, open, open_first_version, other_key, read_key, seal,
};

const MAX_KEY_BYTES: usize = 256;
const MAX_TOKEN_BYTES: usize = 16 << 10;
const MAX_URL_BYTES: usize = 2 << 10;
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Most credentials, so that the response of `credentials:list` always fits into a message.
const MAX_CREDENTIALS: i64 = 1000;

/// A credential as it is stored.
struct Sealed {
    key: String,
    bytes: Vec<u8>,
    /// The base URLs that the token is for, if it was encrypted without them.
    base_urls: Option<String>,
}

impl Sealed {
    fn read(row: &Row<'_>) -> rusqlite::Result<Sealed> {
        Ok(Sealed { key: row.get(0)?, bytes: row.get(1)?, base_urls: row.get(2)? })
    }

    /// Decrypts it; `None` if it was encrypted with another key file.
    fn open(&self, cipher: &LessSafeKey) -> Option<Secret> {
        let Some(base_urls) = &self.base_urls else { return open(cipher, &self.key, &self.bytes) };
        let token = open_first_version(cipher, &self.key, &self.bytes)?;
        let set: BTreeMap<String, String> = serde_json::from_str(base_urls).unwrap_or_default();
        let base_urls = settings::base_urls::<()>(&self.key, |setting| Ok(set.get(setting).cloned()));
        Some(Secret { token, origins: origins(&base_urls.unwrap_or_default()) })
    }
}

/// Returns the origins of base URLs, each once.
fn origins(base_urls: &[String]) -> Vec<Origin> {
    let mut origins: Vec<Origin> = Vec::new();
    for origin in base_urls.iter().filter_map(|url| url.parse().ok()) {
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    origins
}

/// Returns the token of a credential with its origins; `None` if there is none.
///
/// # Errors
/// When the key file is missing, or is not the one with which the token was encrypted.
pub(super) fn stored_key(
    connection: &Connection,
    key_path: &Path,
    key: &str,
) -> Result<Option<Secret>, WireError> {
    let sealed = connection
        .prepare_cached("SELECT key, sealed, base_urls FROM credentials WHERE key = ?")?
        .query_row([key], Sealed::read)
        .optional()?;
    let Some(sealed) = sealed else { return Ok(None) };
    let cipher = read_key(key_path)?.ok_or_else(|| missing(key_path))?;
    sealed.open(&cipher).map(Some).ok_or_else(|| other_key(key_path))
}

/// Encrypts the tokens of the first version anew, together with their origins. One that cannot be decrypted is left unchanged.
/// If this fails, the next start tries again; until then the tokens are used as they are.
pub(crate) async fn seal_origins(db: Db) {
    let path = key_path(&db);
    let _ = db.write(move |change| seal_all(change, &path)).await;
}

fn seal_all(change: &mut Change<'_>, key_path: &Path) -> Result<(), WireError> {
    let first_version: Vec<Sealed> = change
        .connection
        .prepare_cached("SELECT key, sealed, base_urls FROM credentials WHERE base_urls NOT NULL")?
        .query_map([], Sealed::read)?
        .collect::<Result<_, _>>()?;
    if first_version.is_empty() {
        return Ok(());
    }
    let Some(cipher) = read_key(key_path)? else { return Ok(()) };
    for sealed in first_version {
        let Some(secret) = sealed.open(&cipher) else { continue };
        change
            .connection
            .prepare_cached("UPDATE credentials SET sealed = ?2, base_urls = NULL WHERE key = ?1")?
            .execute(params![sealed.key, seal(&cipher, &sealed.key, &secret)?])?;
    }
    Ok(())
}

pub(super) fn key_path(db: &Db) -> PathBuf {
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
    let origins = match given_origin(fields)? {
        Some(origin) => vec![origin],
        // Read in the transaction that stores the token: no change of a base URL can come between.
        None => {
            let stored = |setting: &str| settings::stored(change.connection, setting);
            origins(&settings::base_urls(&key, stored)?)
        }
    };
    let secret = Secret { token: Token::new(token), origins };
    let cipher = writing_key(change.connection, key_path)?;
    let sealed = seal(&cipher, &key, &secret)?;
    change
        .connection
        .prepare_cached(
            "INSERT INTO credentials (key, sealed, metadata) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET sealed = ?2, metadata = ?3, base_urls = NULL",
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

/// Reads the only origin that a token is for, if the payload names one.
fn given_origin(fields: &Fields<'_>) -> Result<Option<Origin>, WireError> {
    let Some(url) = fields.text("origin", 1..=MAX_URL_BYTES)? else { return Ok(None) };
    // The text is not repeated in the error: a password can be in it.
    let expected = "http:// or https:// URL with a host, and without user, password and query";
    url.parse().map(Some).map_err(|_| fields.wrong("origin", expected, "another string"))
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
    let sample = connection
        .prepare_cached("SELECT key, sealed, base_urls FROM credentials LIMIT 1")?
        .query_row([], Sealed::read)
        .optional()?;
    match (read_key(path)?, sample) {
        (Some(cipher), None) => Ok(cipher),
        (Some(cipher), Some(sealed)) => sealed.open(&cipher).map(|_| cipher).ok_or_else(|| other_key(path)),
        (None, Some(_)) => Err(missing(path)),
        (None, None) => create_key(path),
    }
}
