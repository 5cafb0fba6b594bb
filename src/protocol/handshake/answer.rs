//! The client's side of the upgrade (RFC 6455, section 4.1).

use super::head::Head;
use super::upgrade::{SUBPROTOCOL, accept_key};

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
    let subprotocol =
        head.single("sec-websocket-protocol").map_err(|()| "Sec-WebSocket-Protocol appears twice")?;
    if subprotocol.is_some_and(|selected| selected.trim_ascii() != SUBPROTOCOL.as_bytes()) {
        return Err("the server selected a subprotocol that was not offered");
    }
    Ok(())
}

/// The beginning of what a server sends after its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstFrame {
    /// More bytes are needed to tell.
    Incomplete,
    /// A close frame, with its code and reason: the client is refused.
    Close(Option<u16>, String),
    /// Anything else.
    Other,
}

/// Reads the first frame, as far as a client that was refused needs it.
pub fn first_frame(bytes: &[u8]) -> FirstFrame {
    match bytes {
        [] | [0x88] => FirstFrame::Incomplete,
        // RFC 6455, section 5.5: a control frame has at most 125 bytes.
        [0x88, length @ 0..=125, rest @ ..] => match rest.get(..usize::from(*length)) {
            None => FirstFrame::Incomplete,
            Some([high, low, reason @ ..]) => {
                let code = u16::from_be_bytes([*high, *low]);
                FirstFrame::Close(Some(code), String::from_utf8_lossy(reason).into_owned())
            }
            Some(_) => FirstFrame::Close(None, String::new()),
        },
        _ => FirstFrame::Other,
    }
}
