//! The token of `serve --private`: made at the first start and kept in the data folder, where `call`, `listen` and `channels`
//! find it. Input: the data folder, or a URL. Output: the token. It never leaves this machine, on Linux not even to another
//! user of it, and an existing one is never overwritten.

use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;

use hyper::Uri;

use crate::backend::shared::below::{Folder, Replace};
use crate::protocol::handshake::base64;
#[cfg(target_os = "linux")]
use crate::protocol::socket_table::Socket;
use crate::protocol::uuid::Uuid;

use super::values::{Failure, MAX_TOKEN_FILE_BYTES, check_token};

/// The file in the data folder.
const FILE: &str = "switchboard.token";
const RANDOM_BYTES: usize = 32;

/// Returns the token of a data folder, which must exist. The first call makes the token.
///
/// # Errors
/// When it cannot be read or made, or other users can read it.
pub(super) fn make_or_read(data_dir: &Path) -> Result<String, Failure> {
    let name = data_dir.join(FILE).display().to_string();
    let folder = Folder::open(data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
    if let Some(token) = read(&folder, &name)? {
        return Ok(token);
    }
    make(&folder).map_err(|error| format!("{name}: {error}"))?;
    Ok(read(&folder, &name)?.ok_or_else(|| format!("{name}: it was removed"))?)
}

/// Returns the token for a server of this machine; `None` if the URL names another one, or no token was made.
///
/// # Errors
/// When there is a token that cannot be read, or that other users can read, or the server is of another user (Linux).
pub(super) fn find(url: &str, data_dir: &Path) -> Result<Option<String>, Failure> {
    let token = match Folder::open(data_dir) {
        Ok(folder) if is_this_machine(url) => read(&folder, &data_dir.join(FILE).display().to_string())?,
        _ => None,
    };
    if token.is_some() && has_foreign_listener(url) {
        return Err(format!(
            "{url}: another user of this machine listens there, so the token in {} is not sent",
            data_dir.join(FILE).display()
        )
        .into());
    }
    Ok(token)
}

/// Whether a process of another user, root excepted, listens on the port of a URL. What cannot be found out is no.
#[cfg(target_os = "linux")]
fn has_foreign_listener(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    let user = rustix::process::geteuid().as_raw();
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    tables.iter().any(|table| lists_foreign_listener(table, port, user))
}

/// Only Linux has a list of sockets with their users.
#[cfg(not(target_os = "linux"))]
fn has_foreign_listener(_: &str) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn lists_foreign_listener(table: &str, port: u16, user: u32) -> bool {
    table.lines().filter_map(Socket::parse).any(|socket| {
        // A socket that listens has no other end.
        let listens = socket.remote.port() == 0 && socket.local.port() == port;
        listens && socket.owner.is_some_and(|owner| owner != user && owner != 0)
    })
}

/// Whether the host of a URL is `localhost` or a loopback address. Other names could lead elsewhere, `*.localhost` too.
fn is_this_machine(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn read(folder: &Folder, name: &str) -> Result<Option<String>, Failure> {
    let mut file = match folder.open_file(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| format!("{name}: {error}"))?,
    };
    let metadata = file.metadata().map_err(|error| format!("{name}: {error}"))?;
    if !is_private(&metadata) {
        return Err(format!(
            "{name}: other users can read it or own it: remove it, and start the server again"
        )
        .into());
    }
    let mut text = String::new();
    let read = (&mut file).take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("{name}: {error}"))?;
    check_token(name, text.trim_ascii()).map(Some)
}

#[cfg(unix)]
fn is_private(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o077 == 0 && metadata.uid() == rustix::process::geteuid().as_raw()
}

/// There is no mode to check.
#[cfg(not(unix))]
fn is_private(_: &Metadata) -> bool {
    true
}

/// Writes a token under a temporary name, and names it once it is complete, unless there is one by then.
fn make(folder: &Folder) -> io::Result<()> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    // In a URL: RFC 4648, section 5.
    let token = base64(&random).replace('+', "-").replace('/', "_").replace('=', "");
    let temporary = format!("{FILE}.{}", Uuid::v4());
    let mut file = folder.create_file(&temporary, false)?;
    let written = file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all());
    let named = written.and_then(|()| folder.rename(&temporary, FILE, Replace::Refused));
    if named.is_err() {
        let _ = folder.remove_file(&temporary);
    }
    match named {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        named => named.and_then(|()| folder.sync()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_found_for_this_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        let find = |url: &str| find(url, folder.path()).map_err(|error| error.to_string());
        assert_eq!(find("ws://localhost:3001"), Ok(None));
        let token = make_or_read(folder.path()).unwrap();
        assert_eq!(token.len(), 43);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        assert_eq!(make_or_read(folder.path()).unwrap(), token);
        make(&Folder::open(folder.path()).unwrap()).unwrap();
        assert_eq!(make_or_read(folder.path()).unwrap(), token, "it is never overwritten");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        for (url, is_found) in [
            ("ws://localhost:3001", true),
            ("ws://LOCALHOST", true),
            ("wss://localhost/path", true),
            ("ws://127.0.0.1:1", true),
            ("ws://127.9.9.9", true),
            ("ws://[::1]:3001/", true),
            ("ws://[::ffff:127.0.0.1]", true),
            ("ws://192.168.1.20", false),
            ("ws://0.0.0.0", false),
            ("ws://localhost.example", false),
            ("ws://a.localhost", false),
            ("ws://127.0.0.1.example", false),
            ("ws://localhost@example", false),
            ("ws://example?localhost", false),
            ("ws://example#@localhost", false),
            ("localhost", true),
            ("", false),
        ] {
            assert_eq!(find(url), Ok(is_found.then(|| token.clone())), "{url}");
        }
        assert!(super::find("ws://localhost", &folder.path().join("missing")).unwrap().is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_listener_of_another_user_is_recognised() {
        // Port 3001 is 0BB9. The first socket listens, the second is a connection of it, the third listens on every address.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 5001 1\n\
            1: 0100007F:0BBA 0100007F:C000 01 00000000:00000000 00:00000000 00000000  1001        0 5002 1\n\
            2: 00000000:0BBB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5003 1\n";
        for (port, user, is_foreign) in [
            (3001, 1000, true),
            (3001, 1001, false),
            (3002, 1000, false),
            (3003, 1000, false),
            (1, 1000, false),
        ] {
            assert_eq!(lists_foreign_listener(table, port, user), is_foreign, "{port} {user}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_token_that_others_can_read_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let token = make_or_read(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        let refused = || {
            let (made, found) = (make_or_read(folder.path()), find("ws://localhost", folder.path()));
            let (made, found) = (made.unwrap_err().to_string(), found.unwrap_err().to_string());
            assert!(made == found && made.contains(FILE) && !made.contains(&token), "{made} {found}");
            made
        };
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(refused().contains("other users"), "{mode:o}");
        }
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(&file, &elsewhere).unwrap();
        std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(refused().contains("not a regular file"));
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&elsewhere, "").unwrap();
        std::fs::rename(&elsewhere, &file).unwrap();
        assert!(refused().contains("expected a token"));
    }
}
