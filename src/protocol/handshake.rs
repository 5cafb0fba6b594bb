//! The upgrade (RFC 6455, section 4) and who may connect. In: the head of an HTTP request that somebody else parsed.
//! Out: what to answer it with.

// `core` has addresses alone; `std::net` has sockets too.
use core::net::IpAddr;

/// The subprotocol a client names beside `bearer.<token>`, and the only one that is ever answered.
pub const SUBPROTOCOL: &str = "switchboard.v1";

/// The head of an HTTP request.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The method, `GET` for an upgrade.
    pub method: &'a str,
    /// Whether the version is HTTP/1.1. An upgrade exists in no other.
    pub http_1_1: bool,
    /// What follows the `?` of the target.
    pub query: Option<&'a str>,
    /// The fields, in order.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

/// Who may connect.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessRules<'a> {
    /// Whether the server listens on loopback addresses alone.
    pub loopback: bool,
    /// Hosts, without port, that a request may name besides those that the bind allows.
    pub allow_hosts: &'a [String],
    /// Origins that may connect besides those that the bind allows; `*` for any.
    pub allow_origins: &'a [String],
    /// The token that clients must know.
    pub token: Option<&'a str>,
}

/// An upgrade that may go ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The value of `Sec-WebSocket-Protocol`, if there is to be one.
    pub subprotocol: Option<&'static str>,
    /// Whether the client has shown the token, or none is needed.
    pub authenticated: bool,
}

/// Why a request is not upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not ask for a WebSocket: an ordinary request. 426 if there is nothing to serve.
    NotAnUpgrade,
    /// It asks for one and breaks RFC 6455, section 4.2.1. 400 `WebSocket upgrade failed`.
    Broken(&'static str),
    /// It asks for a version other than 13. 426 with `Sec-WebSocket-Version: 13` (section 4.4).
    Version,
    /// Its `Host` is not one that this server answers to. 403.
    Host,
    /// Its `Origin` may not connect. 403.
    Origin,
    /// It shows a token, and a wrong one. 401.
    Token,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Refusal::NotAnUpgrade | Refusal::Version => 426,
            Refusal::Broken(_) => 400,
            Refusal::Host | Refusal::Origin => 403,
            Refusal::Token => 401,
        }
    }

    /// The body of the answer, for a person.
    pub fn body(self) -> &'static str {
        match self {
            Refusal::NotAnUpgrade => "This is a WebSocket server",
            Refusal::Version => "WebSocket version 13 is needed",
            Refusal::Broken(_) => "WebSocket upgrade failed",
            Refusal::Host => "Host is not allowed",
            Refusal::Origin => "Origin is not allowed",
            Refusal::Token => "Token is wrong",
        }
    }
}

/// Judges an upgrade.
///
/// # Errors
/// With the answer that the request gets instead.
pub fn check(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<Accepted, Refusal> {
    if !has_token(head, "upgrade", "websocket") {
        return Err(Refusal::NotAnUpgrade);
    }
    if head.method != "GET" || !head.http_1_1 {
        return Err(Refusal::Broken("not a GET of HTTP/1.1"));
    }
    if !has_token(head, "connection", "upgrade") {
        return Err(Refusal::Broken("Connection does not name upgrade"));
    }
    // A body would be read as frames by one party and as a body by another.
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
        return Err(Refusal::Broken("Sec-WebSocket-Key is missing or twice there"));
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
        subprotocol: subprotocols(head).any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL),
        authenticated,
    })
}

/// Judges a server's answer with status 101 to a client that sent `key` (section 4.1).
///
/// # Errors
/// With what is wrong. Then the connection is no WebSocket, and has to be cut.
pub fn check_answer(head: &Head<'_>, key: &str) -> Result<(), &'static str> {
    if !has_token(head, "upgrade", "websocket") {
        return Err("Upgrade is not websocket");
    }
    if !has_token(head, "connection", "upgrade") {
        return Err("Connection does not name upgrade");
    }
    let accept = head.single("sec-websocket-accept").map_err(|()| "Sec-WebSocket-Accept is twice there")?;
    if accept.map(<[u8]>::trim_ascii) != Some(accept_key(key.as_bytes()).as_bytes()) {
        return Err("Sec-WebSocket-Accept does not fit the key");
    }
    if head.values("sec-websocket-extensions").next().is_some() {
        return Err("an extension was turned on that nobody asked for");
    }
    Ok(())
}

/// Judges the `Host` of any request. A page whose name was made to point at this machine (DNS rebinding) still sends
/// its own name.
///
/// # Errors
/// [`Refusal::Host`], or [`Refusal::Broken`] if there is not exactly one.
pub fn check_host(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<(), Refusal> {
    let host = host_name(head)?;
    let listed = rules.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    let allowed = if rules.loopback || !rules.allow_hosts.is_empty() {
        listed || is_loopback(host) || (!rules.loopback && is_address(host))
    } else {
        true
    };
    if allowed { Ok(()) } else { Err(Refusal::Host) }
}

/// Judges `Origin`. No origin is no browser, and passes.
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
        // The server's own pages. A name counts only if it was listed: any name can be made to point here.
        let host = host_name(head)?;
        let named = is_address(host) || rules.allow_hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
        let own = head.single("host").ok().flatten();
        named && own.is_some_and(|own| own.trim_ascii().eq_ignore_ascii_case(authority.as_bytes()))
    };
    if allowed { Ok(()) } else { Err(Refusal::Origin) }
}

/// Whether the request shows the token. Without one it may still be shown later, on channel `auth`.
fn check_token(head: &Head<'_>, rules: &AccessRules<'_>) -> Result<bool, Refusal> {
    let Some(token) = rules.token else { return Ok(true) };
    match shown_token(head) {
        None => Ok(false),
        Some(shown) if same_token(&shown, token.as_bytes()) => Ok(true),
        Some(_) => Err(Refusal::Token),
    }
}

/// Whether an ordinary request shows the token in `Authorization`, or none is needed.
pub fn is_authorized(head: &Head<'_>, token: Option<&str>) -> bool {
    match (token, bearer(head)) {
        (None, _) => true,
        (Some(token), Some(shown)) => same_token(shown, token.as_bytes()),
        (Some(_), None) => false,
    }
}

/// Whether a request for a page shows the token, or none is needed. `<img>` sends no header, so `?token=` counts too.
pub fn may_see(head: &Head<'_>, rules: &AccessRules<'_>) -> bool {
    matches!(check_token(head, rules), Ok(true))
}

/// Compares in a time that depends on the length of `shown` alone.
pub fn same_token(shown: &[u8], token: &[u8]) -> bool {
    let mut difference = u8::from(shown.len() != token.len());
    for (index, byte) in shown.iter().enumerate() {
        let expected = token.get(index % token.len().max(1)).copied().unwrap_or_default();
        difference |= std::hint::black_box(byte ^ expected);
    }
    difference == 0
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    base64(&sha1(&[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()))
}

impl<'a> Head<'a> {
    /// The values of a field, named in lower case.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// The value of a field that may stand only once.
    fn single(&self, name: &'static str) -> Result<Option<&'a [u8]>, ()> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(()),
        }
    }
}

/// Whether a comma-separated field names something, whatever the case.
fn has_token(head: &Head<'_>, field: &'static str, token: &str) -> bool {
    head.values(field)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn subprotocols<'a>(head: &Head<'a>) -> impl Iterator<Item = &'a str> {
    head.values("sec-websocket-protocol")
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim_ascii)
}

fn bearer<'a>(head: &Head<'a>) -> Option<&'a [u8]> {
    let value = head.values("authorization").next()?.trim_ascii();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn shown_token(head: &Head<'_>) -> Option<Vec<u8>> {
    if let Some(token) = bearer(head) {
        return Some(token.to_vec());
    }
    if let Some(token) = subprotocols(head).find_map(|name| name.strip_prefix("bearer.")) {
        return Some(token.as_bytes().to_vec());
    }
    let pairs = head.query?.split('&');
    pairs.filter_map(|pair| pair.strip_prefix("token=")).map(percent_decode).next()
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        let ahead = bytes.as_slice();
        let escape = ahead.first_chunk::<2>().and_then(|digits| {
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
        return Err(Refusal::Broken("Host is missing or twice there"));
    };
    std::str::from_utf8(host).ok().and_then(|host| without_port(host.trim_ascii())).ok_or(Refusal::Host)
}

/// The host of `[::1]:3001` or `localhost:3001` (RFC 3986, section 3.2). Brackets stay.
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
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

fn is_address(host: &str) -> bool {
    address(host).is_some()
}

/// Whether a host can only be this machine. `localhost` and its subdomains never leave it (RFC 6761, section 6.3).
fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let last_label = name.rsplit('.').next().unwrap_or_default();
    plain && last_label.eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|address| address.to_canonical().is_loopback())
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

/// SHA-1 (RFC 3174). Broken for signatures; here it only shows that the server speaks WebSocket.
pub fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        sha1_block(&mut state, block);
    }
    let mut digest = [0; 20];
    for (place, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *place = word.to_be_bytes();
    }
    digest
}

fn sha1_block(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for t in 16..80 {
        words[t] = (words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (t, word) in words.into_iter().enumerate() {
        let (f, k) = match t {
            0..20 => (b & c | !b & d, 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(word).wrapping_add(k);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests;
