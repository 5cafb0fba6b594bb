//! Values of options: numbers, times and tokens. In: texts and files. Out: values, or the option and what is wrong with it.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::client::tls::Trust;
use crate::protocol::handshake::NeverMatches;

/// Longest token, in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 1 << 10;
/// Largest token file, in bytes: a token and generous white space.
pub(super) const MAX_TOKEN_FILE_BYTES: u64 = 4 << 10;

/// Largest file of authorities, in bytes: several times what browsers trust.
pub(super) const MAX_AUTHORITIES_BYTES: u64 = 1 << 20;

/// An error of the command, for a person.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn number<T: FromStr>(name: &str, text: &OsString) -> Result<T, Failure>
where
    T::Err: Display,
{
    let text = text.to_string_lossy();
    text.parse().map_err(|error| format!("{name}: {text:?} is not a valid number: {error}").into())
}

/// Reads the name of a host or an origin.
pub(super) fn read_name<T>(
    option: &str,
    value: &OsString,
    check: impl Fn(&str) -> Result<T, NeverMatches>,
) -> Result<String, Failure> {
    let text = value.to_str().ok_or_else(|| format!("{option} is not UTF-8"))?;
    check(text).map_err(|never| format!("{option}: {never}"))?;
    Ok(text.to_owned())
}

pub(super) fn positive(name: &str, seconds: &OsString) -> Result<Duration, Failure> {
    match number::<u32>(name, seconds)? {
        0 => Err(format!("{name}: must be at least 1").into()),
        seconds => Ok(Duration::from_secs(seconds.into())),
    }
}

pub(super) fn read_token(path: &Path) -> Result<String, Failure> {
    let name = format!("--token-file {}", path.display());
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_TOKEN_FILE_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("{name}: {error}"))?;
    if text.len() as u64 > MAX_TOKEN_FILE_BYTES {
        return Err(format!("{name}: the file is larger than {MAX_TOKEN_FILE_BYTES} bytes").into());
    }
    check_token(&name, text.trim_ascii())
}

/// Checks that a token fits into a header. The error never contains the token.
pub(super) fn check_token(name: &str, token: &str) -> Result<String, Failure> {
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible && (1..=MAX_TOKEN_BYTES).contains(&token.len()) {
        return Ok(token.to_owned());
    }
    Err(format!("{name}: expected a token of 1..={MAX_TOKEN_BYTES} visible ASCII characters").into())
}

/// Reads a header: its name, a colon, its value. Whether both are allowed is for the client to say. The error never contains the
/// value, which can be a secret.
pub(super) fn read_header(value: &OsString) -> Result<(String, String), Failure> {
    let text = value.to_str().ok_or("--header is not UTF-8")?;
    let (name, value) = text.split_once(':').ok_or("--header: expected NAME:VALUE")?;
    Ok((name.to_owned(), value.trim_ascii().to_owned()))
}

/// Reads certificates of authorities.
pub(super) fn read_authorities(option: &str, path: &Path) -> Result<String, Failure> {
    let name = format!("{option} {}", path.display());
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_AUTHORITIES_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("{name}: {error}"))?;
    if text.len() as u64 > MAX_AUTHORITIES_BYTES {
        return Err(format!("{name}: the file is larger than {MAX_AUTHORITIES_BYTES} bytes").into());
    }
    Trust::with(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(text)
}

pub(super) fn at_least<T>(least: T, option: &str, value: &OsString) -> Result<T, Failure>
where
    T: FromStr<Err: Display> + PartialOrd + Display,
{
    let value: T = number(option, value)?;
    if value < least {
        return Err(format!("{option}: must be at least {least}").into());
    }
    Ok(value)
}
