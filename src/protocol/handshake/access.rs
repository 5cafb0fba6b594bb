//! Which requests may connect: `Host`, `Origin` and the token.

// `core` has addresses only; `std::net` has sockets too.
use core::net::IpAddr;

use super::head::{Head, Refusal};

/// The rules of one listener.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessRules<'a> {
    /// Whether the server listens on loopback addresses only.
    pub loopback: bool,
    /// Hosts, without port, that are allowed in addition to those that the bind address allows.
    pub allow_hosts: &'a [String],
    /// Origins that are allowed in addition to those that the bind address allows; `*` for any.
    pub allow_origins: &'a [String],
    /// The token that clients must send.
    pub token: Option<&'a str>,
}

/// Checks the `Host` of any request. A page whose name was made to point at this machine (DNS rebinding) still sends
/// its own name.
///
/// # Errors
/// [`Refusal::Host`], or [`Refusal::Broken`] if there is not exactly one.
pub fn check_host(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<(), Refusal> {
    let host = host_name(head)?;
    let allowed = if rules.loopback {
        is_loopback(host) || is_listed(host, rules)
    } else {
        rules.allow_hosts.is_empty() || is_listed(host, rules) || is_loopback(host) || address(host).is_some()
    };
    if allowed { Ok(()) } else { Err(Refusal::Host) }
}

/// Checks `Origin`. A request without one is not from a browser and passes.
///
/// # Errors
/// [`Refusal::Origin`], or [`Refusal::Broken`] if a host is needed and there is not exactly one.
pub fn check_origin(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<(), Refusal> {
    let Some(origin) = head.single("origin").map_err(|()| Refusal::Origin)? else { return Ok(()) };
    let origin = std::str::from_utf8(origin).map_err(|_| Refusal::Origin)?.trim_ascii();
    let listed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
    if rules.allow_origins.iter().any(listed) {
        return Ok(());
    }
    let Some((_, authority)) = origin.split_once("://") else { return Err(Refusal::Origin) };
    let allowed = if rules.loopback {
        without_port(authority).is_some_and(is_loopback)
    } else {
        // The server's own pages. A name counts only if it is listed: any name can be made to point here.
        let host = host_name(head)?;
        let own = head.single("host").ok().flatten();
        (address(host).is_some() || is_listed(host, rules))
            && own.is_some_and(|own| own.trim_ascii().eq_ignore_ascii_case(authority.as_bytes()))
    };
    if allowed { Ok(()) } else { Err(Refusal::Origin) }
}

/// Whether the request sends the token. A request without one can authenticate later, on channel `auth`.
pub(super) fn check_token(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<bool, Refusal> {
    let Some(token) = rules.token else { return Ok(true) };
    match sent_token(head) {
        None => Ok(false),
        Some(sent) if same_token(&sent, token.as_bytes()) => Ok(true),
        Some(_) => Err(Refusal::Token),
    }
}

/// Whether the request sends a token, right or wrong.
pub fn sends_token(head: &Head<'_>) -> bool {
    sent_token(head).is_some()
}

/// Whether the request sends a token that is not the right one.
pub fn sends_wrong_token(head: &Head<'_>, rules: &AccessRules<'_>) -> bool {
    check_token(head, rules).is_err()
}

/// Whether an ordinary request sends the token in `Authorization`, or none is needed.
#[cfg(feature = "pages")]
pub fn is_authorized(head: &Head<'_>, token: Option<&str>) -> bool {
    match (token, bearer(head)) {
        (None, _) => true,
        (Some(token), Some(sent)) => same_token(sent, token.as_bytes()),
        (Some(_), None) => false,
    }
}

/// Whether a request for a page sends the token, or none is needed. `<img>` cannot send a header, so `?token=` counts too.
#[cfg(feature = "pages")]
pub fn may_see(head: &Head<'_>, rules: &AccessRules<'_>) -> bool {
    matches!(check_token(head, rules), Ok(true))
}

/// Constant-time comparison: the time depends only on the length of `shown`.
pub fn same_token(shown: &[u8], token: &[u8]) -> bool {
    let mut difference = u8::from(shown.len() != token.len());
    for (index, byte) in shown.iter().enumerate() {
        // An empty token differs in length from everything that gets here.
        let expected = token.get(index % token.len().max(1)).copied().unwrap_or_default();
        difference |= std::hint::black_box(byte ^ expected);
    }
    difference == 0
}

fn bearer<'a>(head: &Head<'a>) -> Option<&'a [u8]> {
    let value = head.values("authorization").next()?.trim_ascii();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The token in `Authorization`, in a subprotocol `bearer.<token>`, or in the query: the first of them that is present.
fn sent_token(head: &Head<'_>) -> Option<Vec<u8>> {
    if let Some(token) = bearer(head) {
        return Some(token.to_vec());
    }
    if let Some(token) = head.subprotocols().find_map(|name| name.strip_prefix("bearer.")) {
        return Some(token.as_bytes().to_vec());
    }
    head.query?.split('&').find_map(|pair| pair.strip_prefix("token=")).map(percent_decode)
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        let escape = bytes.as_slice().first_chunk::<2>().and_then(|digits| {
            let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
            Some((high? << 4 | low?) as u8)
        });
        match (byte, escape) {
            (b'%', Some(value)) => {
                decoded.push(value);
                bytes.nth(1);
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

/// The name in `Host`, without the port.
fn host_name<'a>(head: &Head<'a>) -> Result<&'a str, Refusal> {
    let Ok(Some(host)) = head.single("host") else {
        return Err(Refusal::Broken("Host is missing or duplicated"));
    };
    std::str::from_utf8(host).ok().and_then(|host| without_port(host.trim_ascii())).ok_or(Refusal::Host)
}

fn is_listed(host: &str, rules: &AccessRules<'_>) -> bool {
    rules.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
}

/// The host of `[::1]:3001` or `localhost:3001` (RFC 3986, section 3.2). Brackets are kept.
fn without_port(authority: &str) -> Option<&str> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at_checked(end)?;
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(host)
}

fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// Whether a host can only be this machine. `localhost` and its subdomains never leave it (RFC 6761, section 6.3).
fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let last_label = name.rsplit_once('.').map_or(name, |(_, label)| label);
    plain && last_label.eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|address| address.to_canonical().is_loopback())
}
