//! Encryption of tokens, and the key file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::backend::shared::files;
use crate::backend::shared::token::Token;
use crate::protocol::error::WireError;
use crate::protocol::uuid::Uuid;

/// The name of the key file, in the folder of the database.
pub const KEY_FILE_NAME: &str = "switchboard.key";

const KEY_BYTES: usize = 32;

pub(super) fn seal(cipher: &LessSafeKey, key: &str, token: &str) -> Result<Vec<u8>, WireError> {
    // After 2^32 encryptions, far more than a server does, the chance of a repeated nonce is 2^-33.
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    let mut sealed = token.as_bytes().to_vec();
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.as_bytes()), &mut sealed)
        .map_err(|_| WireError::new("the token could not be encrypted"))?;
    sealed.splice(0..0, nonce);
    Ok(sealed)
}

pub(super) fn open(cipher: &LessSafeKey, key: &str, sealed: &[u8]) -> Option<Token> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let token = cipher.open_in_place(nonce, Aad::from(key.as_bytes()), &mut opened).ok()?;
    String::from_utf8(token.to_vec()).ok().map(Token::new)
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

    #[test]
    fn a_token_is_decrypted_only_with_its_own_key_and_name() {
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
        assert_ne!(
            seal(&cipher(1), "anthropic", "s3cret").unwrap(),
            sealed,
            "each encryption has its own nonce"
        );
    }
}
