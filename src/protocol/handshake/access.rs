//! Which requests may connect: `Host`, `Origin` and the token.

use super::head::{Head, Refusal};
use super::names::{
    Site, address, check_allowed_host, check_allowed_origin, complete, host_matches, origin_matches,
    split_port,
};

/// The rules of one listener.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessRules<'a> {
    /// Whether the server listens on loopback addresses only.
    pub loopback: bool,
    /// Hosts that are allowed besides those that the address allows, like `app.example` or `*.app.example`.
    pub allow_hosts: &'a [String],
    /// Origins that are allowed besides the server's own, like `https://app.example`, `https://*.app.example` or
    /// `vscode-webview://*`; `*` for any.
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
    let (_, host) = host(head)?;
    let allowed = if rules.loopback {
        is_loopback(host) || is_listed(host, rules)
    } else {
        rules.allow_hosts.is_empty() || is_listed(host, rules) || is_loopback(host) || address(host).is_some()
    };
    if allowed { Ok(()) } else { Err(Refusal::Host) }
}

/// Checks `Origin`. A request without one is not from a browser and passes. So do the server's own pages: those at the
/// request's `Host`, unless that is a name which was let in only because none is listed. Any name can be made to point here
/// (DNS rebinding). Pages of this machine may connect to it.
///
/// # Errors
/// [`Refusal::Origin`], or [`Refusal::Broken`] if a host is needed and there is not exactly one.
pub fn check_origin(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<(), Refusal> {
    let Some(origin) = head.single("origin").map_err(|()| Refusal::Origin)? else { return Ok(()) };
    let origin = std::str::from_utf8(origin).map_err(|_| Refusal::Origin)?.trim_ascii();
    if rules.allow_origins.iter().any(|allowed| origin_matches(allowed, origin)) {
        return Ok(());
    }
    let site = Site::read(origin).ok_or(Refusal::Origin)?;
    let (authority, host) = host(head)?;
    let is_known = is_loopback(host) || address(host).is_some() || is_listed(host, rules);
    let is_own = is_known && site.is_at(authority);
    let is_local = is_loopback(site.host) && (rules.loopback || is_loopback(host));
    if is_own || is_local { Ok(()) } else { Err(Refusal::Origin) }
}

/// Describes a refusal for the log: what was refused, and the option that allows it. `None` for other refusals than those of
/// `Host` and `Origin`.
pub fn advice(head: &Head<'_>, refusal: Refusal) -> Option<String> {
    const MAX_SHOWN: usize = 200;
    let (name, option, field) = match refusal {
        Refusal::Host => ("Host", "--allow-host", "allow_hosts"),
        Refusal::Origin => ("Origin", "--allow-origin", "allow_origins"),
        _ => return None,
    };
    let sent = head.single(if refusal == Refusal::Host { "host" } else { "origin" }).ok()??;
    let text = String::from_utf8_lossy(sent);
    let text = text.trim_ascii();
    let setting = match refusal {
        Refusal::Host => split_port(text)
            .map(|(host, _)| host.trim_ascii())
            .filter(|host| check_allowed_host(host).is_ok()),
        _ => Some(text).filter(|origin| check_allowed_origin(origin).is_ok()),
    };
    let shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    let is_plain =
        |setting: &&str| setting.len() <= MAX_SHOWN && setting.bytes().all(|byte| byte.is_ascii_graphic());
    Some(match setting.filter(is_plain) {
        Some(setting) => format!("{name} \"{shown}\" is not allowed; {option} {setting} ({field}) allows it"),
        None => format!("{name} \"{shown}\" is not allowed"),
    })
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
pub fn sent_token(head: &Head<'_>) -> Option<Vec<u8>> {
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

/// The value of `Host`, and the host in it.
fn host<'a>(head: &Head<'a>) -> Result<(&'a str, &'a str), Refusal> {
    let Ok(Some(host)) = head.single("host") else {
        return Err(Refusal::Broken("Host is missing or duplicated"));
    };
    let authority = std::str::from_utf8(host).map_err(|_| Refusal::Host)?.trim_ascii();
    split_port(authority).map(|(host, _)| (authority, host)).ok_or(Refusal::Host)
}

fn is_listed(host: &str, rules: &AccessRules<'_>) -> bool {
    rules.allow_hosts.iter().any(|allowed| host_matches(allowed, host))
}

/// Whether a host can only be this machine. `localhost` and its subdomains never leave it (RFC 6761, section 6.3).
fn is_loopback(host: &str) -> bool {
    if let Some(address) = address(host) {
        return address.to_canonical().is_loopback();
    }
    let name = complete(host);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let last_label = name.rsplit_once('.').map_or(name, |(_, label)| label);
    plain && last_label.eq_ignore_ascii_case("localhost")
}
