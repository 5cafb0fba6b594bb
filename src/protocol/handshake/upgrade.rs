//! The server's side of the upgrade (RFC 6455, section 4.2).

use super::access::{AccessRules, check_host, check_origin, check_token};
use super::head::{Head, Refusal};
use super::sha1::sha1;

/// The subprotocol that a client names beside `bearer.<token>`, and the only one that a server selects.
pub const SUBPROTOCOL: &str = "switchboard.v1";

/// An upgrade that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The value of `Sec-WebSocket-Protocol`, if the response has one.
    pub subprotocol: Option<&'static str>,
    /// Whether the client has sent the token, or none is needed.
    pub authenticated: bool,
}

/// Checks a request for an upgrade.
///
/// # Errors
/// With why it is refused.
pub fn check(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<Accepted, Refusal> {
    if !head.lists("upgrade", "websocket") {
        return Err(Refusal::NotAnUpgrade);
    }
    if head.method != "GET" || !head.http_1_1 {
        return Err(Refusal::Broken("not a GET of HTTP/1.1"));
    }
    if !head.lists("connection", "upgrade") {
        return Err(Refusal::Broken("Connection does not name upgrade"));
    }
    // A proxy might read as a body what we read as frames.
    let body = head.values("transfer-encoding").next().is_some()
        || head.values("content-length").any(|length| length.trim_ascii() != b"0");
    if body {
        return Err(Refusal::Broken("an upgrade has no body"));
    }
    let version = head.single("sec-websocket-version").map_err(|()| Refusal::Version)?;
    if version.map(<[u8]>::trim_ascii) != Some(b"13") {
        return Err(Refusal::Version);
    }
    let Ok(Some(key)) = head.single("sec-websocket-key") else {
        return Err(Refusal::Broken("Sec-WebSocket-Key is missing or duplicated"));
    };
    let key = key.trim_ascii();
    if !is_key(key) {
        return Err(Refusal::Broken("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    check_host(head, rules)?;
    check_origin(head, rules)?;
    let authenticated = check_token(head, rules)?;
    Ok(Accepted {
        accept: accept_key(key),
        subprotocol: head.subprotocols().any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL),
        authenticated,
    })
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    base64(&sha1(&[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()))
}

/// 22 characters of base64 and two of padding: 16 bytes.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, padding)) = key.split_last_chunk::<2>() else { return false };
    digits.len() == 22
        && padding == b"=="
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}
