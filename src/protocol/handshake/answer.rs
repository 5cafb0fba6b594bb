//! The client's side of the upgrade (RFC 6455, section 4.1).

use super::head::Head;
use super::upgrade::accept_key;

/// Checks a server's response with status 101 to a client that sent `key`.
///
/// # Errors
/// With what is wrong. The connection is then not a WebSocket and must be closed.
pub fn check_answer(head: &Head<'_>, key: &str) -> Result<(), &'static str> {
    if !head.lists("upgrade", "websocket") {
        return Err("Upgrade is not websocket");
    }
    if !head.lists("connection", "upgrade") {
        return Err("Connection does not name upgrade");
    }
    let accept = head.single("sec-websocket-accept").map_err(|()| "Sec-WebSocket-Accept appears twice")?;
    if accept.map(<[u8]>::trim_ascii) != Some(accept_key(key.as_bytes()).as_bytes()) {
        return Err("Sec-WebSocket-Accept does not match the key");
    }
    if head.values("sec-websocket-extensions").next().is_some() {
        return Err("the server enabled an extension that was not offered");
    }
    Ok(())
}
