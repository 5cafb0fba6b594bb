//! Encryption of tokens, and the key file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::backend::shared::files;
use crate::backend::shared::origin::Origin;
use crate::backend::shared::token::Token;
use crate::protocol::error::WireError;
use crate::protocol::uuid::Uuid;

/// The name of the key file, in the folder of the database.
pub const KEY_FILE_NAME: &str = "switchboard.key";

const KEY_BYTES: usize = 32;
/// The version of the encrypted form.
const VERSION: u8 = 2;

/// What is encrypted: a token, and the origins that it was given for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Secret {
    pub(super) token: Token,
    pub(super) origins: Vec<Origin>,
}

impl Secret {
    /// One line for each origin, an empty line, the token.
    fn encode(&self) -> Vec<u8> {
        let origins: String = self.origins.iter().map(|origin| format!("{origin}\n")).collect();
        format!("{origins}\n{}", self.token.reveal()).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Secret> {
        let (mut rest, mut origins) = (str::from_utf8(bytes).ok()?, Vec::new());
        loop {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            if line.is_empty() {
                return Some(Secret { token: Token::new(rest), origins });
            }
            origins.push(line.parse().ok()?);
        }
    }
}

/// Encrypts a secret: the version, the nonce, the encrypted bytes, their tag. `key` is the credential's name.
pub(super) fn seal(cipher: &LessSafeKey, key: &str, secret: &Secret) -> Result<Vec<u8>, WireError> {
    // After 2^32 encryptions, far more than a server does, the chance of a repeated nonce is 2^-33.
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut sealed = secret.encode();
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context(key)), &mut sealed)
        .map_err(|_| WireError::new("the token could not be encrypted"))?;
    sealed.splice(0..0, [VERSION].into_iter().chain(nonce));
    Ok(sealed)
}

/// Decrypts what [`seal`] has returned; `None` if it was made with another key file or for another credential.
pub(super) fn open(cipher: &LessSafeKey, key: &str, sealed: &[u8]) -> Option<Secret> {
    let sealed = sealed.strip_prefix(&[VERSION])?;
    Secret::decode(&decrypt(cipher, &context(key), sealed)?)
}

/// Decrypts a token of the first version: the nonce, the encrypted token, its tag.
pub(super) fn open_first_version(cipher: &LessSafeKey, key: &str, sealed: &[u8]) -> Option<Token> {
    String::from_utf8(decrypt(cipher, key.as_bytes(), sealed)?).ok().map(Token::new)
}

fn decrypt(cipher: &LessSafeKey, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = sealed.to_vec();
    let length = cipher
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut opened)
        .ok()?
        .len();
    opened.truncate(length);
    Some(opened)
}

/// The associated data of a credential. No name begins with byte 255, which is not UTF-8, so what the first version has encrypted
/// cannot be decrypted as this one, whatever its name and its token are.
fn context(key: &str) -> Vec<u8> {
    [&[u8::MAX, VERSION], key.as_bytes()].concat()
}

/// Reads the key file; `None` if it does not exist.
pub(super) fn read_key(path: &Path) -> Result<Option<LessSafeKey>, WireError> {
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
            "{}: expected {KEY_BYTES} bytes, got {seen}; it was left unchanged",
            path.display()
        ))
    })?;
    Ok(Some(LessSafeKey::new(cipher)))
}

/// Creates the key file. It is written under another name and then renamed, so a crash leaves a complete file or none. Only
/// the thread that writes to the database calls this, so there is no race.
pub(super) fn create_key(path: &Path) -> Result<LessSafeKey, WireError> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes)?;
    let temporary = path.with_extension(format!("key.{}", Uuid::v4()));
    let made = write_key(&temporary, &bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = made.and_then(|()| path.parent().map_or(Ok(()), files::sync_folder)) {
        // It is possible that it was never created.
        let _ = fs::remove_file(&temporary);
        return Err(WireError::new(format!("{}: cannot be created: {error}", path.display())));
    }
    read_key(path)?.ok_or_else(|| missing(path))
}

fn write_key(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    files::restrict(&mut options);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn unreadable(path: &Path, error: &io::Error) -> WireError {
    WireError::new(format!("{}: cannot be read: {error}", path.display()))
}

pub(super) fn missing(path: &Path) -> WireError {
    let path = path.display();
    WireError::new(format!(
        "{path} is missing, and the credentials are encrypted with it: restore it, or delete the credentials"
    ))
}

pub(super) fn other_key(path: &Path) -> WireError {
    let path = path.display();
    WireError::new(format!(
        "{path} is not the key with which the credentials are encrypted: restore the right one, or delete the credentials"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(byte: u8) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[byte; KEY_BYTES]).unwrap())
    }

    fn secret(token: &str, origins: &[&str]) -> Secret {
        let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        Secret { token: Token::new(token), origins }
    }

    /// Encrypts as the first version did.
    fn seal_first_version(cipher: &LessSafeKey, key: &str, token: &str) -> Vec<u8> {
        let mut sealed = token.as_bytes().to_vec();
        let nonce = [9; NONCE_LEN];
        let context = Aad::from(key.as_bytes());
        cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), context, &mut sealed).unwrap();
        [&nonce[..], &sealed].concat()
    }

    #[test]
    fn a_token_is_decrypted_only_with_its_own_key_and_name() {
        let given = secret("s3cret", &["https://api.example", "http://[::1]:8080"]);
        let sealed = seal(&cipher(1), "anthropic", &given).unwrap();
        assert_eq!(open(&cipher(1), "anthropic", &sealed), Some(given.clone()));
        assert_eq!(open(&cipher(2), "anthropic", &sealed), None);
        assert_eq!(open(&cipher(1), "openai", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&cipher(1), "anthropic", &changed), None, "byte {at}");
            assert_eq!(open(&cipher(1), "anthropic", &sealed[..at]), None, "cut at {at}");
        }
        assert_ne!(
            seal(&cipher(1), "anthropic", &given).unwrap(),
            sealed,
            "each encryption has its own nonce"
        );
    }

    #[test]
    fn a_token_of_any_form_comes_back_with_its_origins() {
        for token in ["s3cret", "", "\n", "\n\n", "https://other.example\n\nx", "a\nb\r\n", "ü"] {
            for origins in [&[][..], &["https://api.example"], &["http://a", "https://b:1"]] {
                let given = secret(token, origins);
                let sealed = seal(&cipher(1), "k", &given).unwrap();
                assert_eq!(open(&cipher(1), "k", &sealed), Some(given));
            }
        }
    }

    #[test]
    fn the_versions_are_not_taken_for_each_other() {
        // A client chose the name and the token of the first version.
        let forged = String::from_utf8(secret("x", &["https://other.example"]).encode()).unwrap();
        for name in ["openai", "\u{2}openai", "\u{ff}\u{2}openai"] {
            let first = seal_first_version(&cipher(1), name, &forged);
            assert_eq!(open_first_version(&cipher(1), name, &first), Some(Token::new(&*forged)));
            assert_eq!(open_first_version(&cipher(2), name, &first), None);
            assert_eq!(open_first_version(&cipher(1), "k", &first), None);
            for sealed in [first.clone(), [&[VERSION], &first[..]].concat()] {
                assert_eq!(open(&cipher(1), name, &sealed), None);
                assert_eq!(open(&cipher(1), "openai", &sealed), None);
            }
        }
        let sealed = seal(&cipher(1), "openai", &secret("x", &["https://api.example"])).unwrap();
        assert_eq!(open_first_version(&cipher(1), "openai", &sealed), None);
        assert_eq!(open_first_version(&cipher(1), "openai", &sealed[1..]), None);
    }
}
