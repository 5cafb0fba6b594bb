//! Credentials (specification, "Credential Channels"): tokens that go in and never come out. In: a key, a token, metadata.
//! Out: whether there is one, and its metadata; for the server's own use `token`.
//!
//! A token is sealed with ChaCha20-Poly1305 under the 32 bytes of `switchboard.key`, which lies beside the database, with
//! a fresh nonce for each seal and the credential's key as associated data: a copied database gives nothing away, and a
//! sealed token that was moved to another key does not open. Keys and metadata are not sealed.
//!
//! The key file is made with the first credential. Once there are credentials it is never made again nor written over:
//! without it, or with another one, tokens can be neither read nor added, and the error says so.
//!
//! What other families may use: `token` and [`Token`].

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rusqlite::{Connection, OptionalExtension, params};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;
use crate::server::Server;

use super::db::{self, Change, Db, View};
use super::encode::{Object, array, quoted};
use super::registry::{Channel, Direction};
use super::validate::{Fields, wrong};

/// The name of the key file in the database's folder.
pub const KEY_FILE_NAME: &str = "switchboard.key";
const KEY_BYTES: usize = 32;
const MAX_KEY_BYTES: usize = 256;
const MAX_TOKEN_BYTES: usize = 16 << 10;
const MAX_METADATA_BYTES: usize = 64 << 10;
/// Credentials, at most, so that `credentials:list` can always be answered.
const MAX_CREDENTIALS: i64 = 1000;

/// The table. `sealed` is the nonce, then the sealed token, then its tag.
pub(super) const TABLES: &str = "
CREATE TABLE credentials (
    key TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    metadata TEXT
) WITHOUT ROWID;
";

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "credentials:list",
        direction: Direction::Request,
        payload: "-",
        response: "string[]",
        description: "List the keys of the credentials, in order",
        example: "",
    },
    Channel {
        name: "credentials:get",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "Credential",
        description: "Get whether there is a credential, and its metadata; never the token",
        example: r#"{"key":"anthropic"}"#,
    },
    Channel {
        name: "credentials:set",
        direction: Direction::Request,
        payload: "{ key: string, token: string, metadata?: Record<string, unknown> }",
        response: "-",
        description: "Store a credential, in place of one that is there; the token is sealed on the disk",
        example: r#"{"key":"example","token":"not-a-real-token","metadata":{"label":"Example"}}"#,
    },
    Channel {
        name: "credentials:delete",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "boolean",
        description: "Delete a credential; answers whether it was there",
        example: r#"{"key":"example"}"#,
    },
    Channel::event(
        "credentials:changed",
        "{ key: string, exists: boolean }",
        "A credential was stored or deleted",
    ),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
/** What is shown of a credential: never its token. */
export interface Credential {
  exists: boolean;
  metadata: Record<string, unknown> | null;
}
"#;

/// A secret on its way to whom it is for. It shows itself to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a secret.
    pub fn new(secret: impl Into<String>) -> Token {
        Token(secret.into())
    }

    /// The secret itself. Where it goes is the caller's responsibility.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    db.on_read(server, "credentials:list", list);
    db.on_read(server, "credentials:get", get);
    let own = db.clone();
    server.on_request("credentials:set", move |payload: Payload, cx| {
        let db = own.clone();
        async move {
            let path = key_path(&db);
            db.write(cx.server(), move |change| set(change, &Fields::decode(&payload)?, &path)).await
        }
    });
    db.on_write(server, "credentials:delete", delete);
}

/// The token of a credential, for use inside the server; `None` if there is none.
///
/// # Errors
/// When the key file is missing, or not the one that the token was sealed with.
pub(super) async fn token(db: &Db, key: &str) -> Result<Option<Token>, WireError> {
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

fn list(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    let mut statement = view.connection.prepare_cached("SELECT key FROM credentials ORDER BY key")?;
    let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
    let keys = keys.map(|key| key.map(|key| quoted(&key)));
    Ok(Payload::trusted(array(&keys.collect::<Result<Vec<_>, _>>()?)))
}

fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
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

fn set(change: &mut Change<'_>, fields: &Fields<'_>, key_path: &Path) -> Result<Payload, WireError> {
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

fn delete(change: &mut Change<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
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

/// The key to seal with. It must open what is sealed already, or a restored key file would leave two sorts of
/// credentials behind.
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
        (None, None) => make_key(path),
    }
}

fn seal(cipher: &LessSafeKey, key: &str, token: &str) -> Result<Vec<u8>, WireError> {
    // 96 random bits repeat with a chance of 2^-33 after 2^32 seals, which nobody makes by hand.
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut sealed = token.as_bytes().to_vec();
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.as_bytes()), &mut sealed)
        .map_err(|_| WireError::new("the token could not be sealed"))?;
    sealed.splice(0..0, nonce);
    Ok(sealed)
}

fn open(cipher: &LessSafeKey, key: &str, sealed: &[u8]) -> Option<Token> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let token = cipher.open_in_place(nonce, Aad::from(key.as_bytes()), &mut opened).ok()?;
    String::from_utf8(token.to_vec()).ok().map(Token)
}

/// The key in its file; `None` if there is no such file.
fn read_key(path: &Path) -> Result<Option<LessSafeKey>, WireError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    let cipher = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| {
        let seen = if bytes.len() > KEY_BYTES { "more".to_owned() } else { bytes.len().to_string() };
        WireError::new(format!(
            "{}: expected {KEY_BYTES} bytes, got {seen}; it was left as it is",
            path.display()
        ))
    })?;
    Ok(Some(LessSafeKey::new(cipher)))
}

/// Makes the key file. A crash leaves a whole one or none: it is written under another name, and renamed when it is on
/// the disk. Only the thread that writes the database comes here, so nobody makes another one meanwhile.
fn make_key(path: &Path) -> Result<LessSafeKey, WireError> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes)?;
    let temporary = path.with_extension(format!("key.{}", Uuid::v4()));
    let made = write_key(&temporary, &bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = made.and_then(|()| path.parent().map_or(Ok(()), db::sync_folder)) {
        // It may not even be there.
        let _ = fs::remove_file(&temporary);
        return Err(WireError::new(format!("{}: cannot be made: {error}", path.display())));
    }
    read_key(path)?.ok_or_else(|| missing(path))
}

fn write_key(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    db::restrict(&mut options);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn unreadable(path: &Path, error: &io::Error) -> WireError {
    WireError::new(format!("{}: cannot be read: {error}", path.display()))
}

fn missing(path: &Path) -> WireError {
    let path = path.display();
    WireError::new(format!(
        "{path} is missing, and the credentials are sealed with it: restore it, or delete the credentials"
    ))
}

fn other_key(path: &Path) -> WireError {
    let path = path.display();
    WireError::new(format!(
        "{path} is not the key that the credentials are sealed with: restore the right one, or delete the credentials"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(byte: u8) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[byte; KEY_BYTES]).unwrap())
    }

    #[test]
    fn a_token_opens_under_its_own_key_and_name_alone() {
        let sealed = seal(&cipher(1), "anthropic", "s3cret").unwrap();
        assert_eq!(open(&cipher(1), "anthropic", &sealed), Some(Token::new("s3cret")));
        assert_eq!(open(&cipher(2), "anthropic", &sealed), None);
        assert_eq!(open(&cipher(1), "openai", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&cipher(1), "anthropic", &changed), None, "byte {at}");
            assert_eq!(open(&cipher(1), "anthropic", &sealed[..at]), None, "cut at {at}");
        }
        assert_ne!(seal(&cipher(1), "anthropic", "s3cret").unwrap(), sealed, "each seal has its own nonce");
    }

    #[test]
    fn a_token_does_not_show_itself() {
        assert_eq!(format!("{:?}", Some(Token::new("s3cret"))), "Some(Token(..))");
    }
}
