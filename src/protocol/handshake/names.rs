//! Names of hosts and origins. Input: texts of settings and of requests. Output: whether a request matches a setting, or why a
//! setting can never match.

// `core` has addresses only; `std::net` has sockets too.
use core::fmt;
use core::net::IpAddr;

/// A setting that no request can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeverMatches {
    /// Why, without the text of the setting: there can be a password in it.
    pub reason: &'static str,
    /// What was probably meant. It can match.
    pub instead: Option<String>,
}

impl fmt::Display for NeverMatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)?;
        self.instead.as_ref().map_or(Ok(()), |instead| write!(f, ": write {instead}"))
    }
}

impl std::error::Error for NeverMatches {}

/// The scheme, host and port of an origin. In a setting, the host can be `*`, or begin with `*.`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    scheme: &'a str,
    pub(super) host: &'a str,
    /// `None` for a scheme without a default port.
    port: Option<u16>,
}

impl<'a> Site<'a> {
    /// Reads the `Origin` of a request.
    pub(super) fn read(origin: &'a str) -> Option<Site<'a>> {
        let (scheme, authority) = split_scheme(origin)?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\\".contains(&byte);
        if !authority.bytes().all(is_plain) {
            return None;
        }
        let split = split_port(authority);
        match default_port(scheme) {
            Some(default) => {
                let (host, port) = split.filter(|(host, _)| !host.is_empty())?;
                Some(Site { scheme, host, port: port.or(Some(default)) })
            }
            None => {
                let (host, port) = split.unwrap_or((authority, None));
                Some(Site { scheme, host, port })
            }
        }
    }

    /// Whether this is the origin of the pages at an authority, the value of `Host`.
    pub(super) fn is_at(&self, authority: &str) -> bool {
        let default = default_port(self.scheme);
        default.is_some()
            && split_port(authority)
                .is_some_and(|(host, port)| same_name(self.host, host) && self.port == port.or(default))
    }

    fn covers(&self, other: &Site<'_>) -> bool {
        let is_any = complete(self.host) == "*";
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && (is_any || name_matches(self.host, other.host))
            && (self.port == other.port || is_any && default_port(self.scheme).is_none())
    }
}

/// Whether a setting like `https://app.example`, `https://*.app.example` or `vscode-webview://*` covers an origin. `*` covers
/// every origin, `null` that of pages from files.
pub(super) fn origin_matches(allowed: &str, origin: &str) -> bool {
    match read_origin(allowed) {
        Ok(Some(allowed)) => Site::read(origin).is_some_and(|site| allowed.covers(&site)),
        Ok(None) => allowed.trim_ascii() == "*" || origin.eq_ignore_ascii_case("null"),
        Err(_) => false,
    }
}

/// Whether a setting like `app.example` or `*.app.example` covers a host, which has no port.
pub(super) fn host_matches(allowed: &str, host: &str) -> bool {
    read_host(allowed).is_ok_and(|allowed| name_matches(allowed, host))
}

/// Checks an origin that is to be allowed. A slash at the end, the default port, and capitals change nothing.
///
/// # Errors
/// When no request can match it.
pub fn check_allowed_origin(origin: &str) -> Result<(), NeverMatches> {
    read_origin(origin).map(drop)
}

/// Checks a host that is to be allowed. A port, a dot at the end, and capitals change nothing.
///
/// # Errors
/// When no request can match it.
pub fn check_allowed_host(host: &str) -> Result<(), NeverMatches> {
    read_host(host).map(drop)
}

/// Returns the host and the origin of a URL at which browsers reach the server. Its path does not matter.
///
/// # Errors
/// When it is not such a URL.
pub fn read_public_url(url: &str) -> Result<(String, String), NeverMatches> {
    let origin = match split_scheme(url.trim_ascii()) {
        Some((scheme, rest)) => {
            format!("{}://{}", page_scheme(scheme).unwrap_or(scheme), authority_of(rest).trim_ascii_end())
        }
        None => url.to_owned(),
    };
    let never = |reason| Err(NeverMatches { reason, instead: None });
    match read_origin(&origin)? {
        Some(site) if default_port(site.scheme).is_none() => never("it is not an http:// or https:// URL"),
        Some(site) if !site.host.contains('*') => Ok((site.host.to_owned(), origin)),
        _ => never("it is not the URL of one host"),
    }
}

/// `None` for `*` and `null`.
fn read_origin(text: &str) -> Result<Option<Site<'_>>, NeverMatches> {
    let text = text.trim_ascii();
    if text == "*" || text.eq_ignore_ascii_case("null") {
        return Ok(None);
    }
    let never = |reason, instead: Option<String>| {
        // One mistake hides another one.
        let instead = instead.and_then(|instead| match read_origin(&instead) {
            Ok(_) => Some(instead),
            Err(further) => further.instead,
        });
        Err(NeverMatches { reason, instead })
    };
    if let Some(reason) = not_one(text) {
        return never(reason, unquoted(text).map(str::to_owned));
    }
    let Some((scheme, rest)) = split_scheme(text) else {
        return never("it has no scheme", Some(with_scheme(text)));
    };
    let authority = authority_of(rest);
    if !matches!(rest.get(authority.len()..), Some("" | "/")) {
        return never("it has a path", Some(format!("{scheme}://{authority}")));
    }
    if let Some((_, host)) = authority.rsplit_once('@') {
        return never("it has a user", Some(format!("{scheme}://{host}")));
    }
    if let Some(page_scheme) = page_scheme(scheme) {
        return never(
            "the origin of a page is http:// or https://",
            Some(format!("{page_scheme}://{authority}")),
        );
    }
    let site = text.get(..scheme.len() + "://".len() + authority.len()).and_then(Site::read);
    let Some(site) = site else { return never(wrong_name(authority), None) };
    // Other schemes have authorities of other forms: identifiers, or none.
    let is_name = match default_port(scheme) {
        Some(_) => is_host(site.host),
        None => !site.host.strip_prefix("*.").unwrap_or(site.host).contains('*'),
    };
    if is_name || complete(site.host) == "*" { Ok(Some(site)) } else { never(wrong_name(site.host), None) }
}

fn read_host(text: &str) -> Result<&str, NeverMatches> {
    let text = text.trim_ascii();
    let never = |reason, instead: Option<&str>| {
        let instead = instead.filter(|instead| is_host(instead)).map(str::to_owned);
        Err(NeverMatches { reason, instead })
    };
    if let Some(reason) = not_one(text) {
        return never(reason, unquoted(text));
    }
    if let Some((_, rest)) = split_scheme(text) {
        let authority = authority_of(rest);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return never("it is a URL, not a host", split_port(host).map(|(host, _)| host));
    }
    let authority = authority_of(text);
    if authority.len() < text.len() {
        return never("it has a path", split_port(authority).map(|(host, _)| host));
    }
    // An address of version 6 has colons, with brackets or without.
    let host = if address(text).is_some() { text } else { split_port(text).map_or(text, |(host, _)| host) };
    if is_host(host) { Ok(host) } else { never(wrong_name(host), None) }
}

/// What is wrong with a setting that is not one name.
fn not_one(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("it is empty"),
        _ if unquoted(text).is_some() => Some("it is in quotation marks"),
        _ if text.contains(|c: char| c == ',' || c.is_whitespace()) => {
            Some("it contains a space or a comma: each name is a setting of its own")
        }
        _ => None,
    }
}

/// Files of variables often keep the quotation marks of a shell.
fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].into_iter().find_map(|mark| text.strip_prefix(mark)?.strip_suffix(mark))
}

/// What was probably meant by an origin without `://`. Few servers at an address, or on this machine, have a certificate.
fn with_scheme(text: &str) -> String {
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if default_port(scheme).is_some() => (Some(scheme), rest),
        Some(("*", rest)) => (None, rest),
        _ => (None, text),
    };
    let rest = rest.trim_start_matches('/');
    let host = split_port(authority_of(rest)).map_or(rest, |(host, _)| host);
    let is_plain = host.eq_ignore_ascii_case("localhost") || address(host).is_some();
    format!("{}://{rest}", scheme.unwrap_or(if is_plain { "http" } else { "https" }))
}

/// Splits the scheme (RFC 3986, section 3.1) from what follows `://`.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some((scheme, rest))
}

fn authority_of(rest: &str) -> &str {
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

fn default_port(scheme: &str) -> Option<u16> {
    [("http", 80), ("https", 443)]
        .into_iter()
        .find_map(|(name, port)| scheme.eq_ignore_ascii_case(name).then_some(port))
}

/// The scheme of the pages at the address of a WebSocket.
fn page_scheme(scheme: &str) -> Option<&'static str> {
    [("ws", "http"), ("wss", "https")]
        .into_iter()
        .find_map(|(name, of_pages)| scheme.eq_ignore_ascii_case(name).then_some(of_pages))
}

fn wrong_name(name: &str) -> &'static str {
    if !name.is_ascii() {
        "browsers send this name in another form, which begins with xn--"
    } else if name.contains('*') {
        "* can only be the first label of a name, as in *.app.example"
    } else {
        "it is not a name or an address of a host"
    }
}

/// Splits `[::1]:3001` or `localhost:3001` (RFC 3986, section 3.2). Brackets are kept; an empty port counts as none.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at_checked(end)?;
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        None => None,
        Some("") => Some((host, None)),
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

pub(super) fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(complete(host)).parse().ok()
}

/// Whether a text is an address, a name, or `*.` before a name.
fn is_host(text: &str) -> bool {
    if address(text).is_some() {
        return true;
    }
    let name = complete(text.strip_prefix("*.").unwrap_or(text));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // Browsers read a name whose last label is a number as an address (URL standard, section 3.5), and write it in full.
    let is_number = |label: &str| match label.get(..2) {
        Some("0x" | "0X") => label.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit()),
        _ => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    name.len() <= 253 && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(is_number)
}

fn name_matches(allowed: &str, name: &str) -> bool {
    match allowed.strip_prefix('*') {
        Some(end) => {
            let (end, name) = (complete(end), complete(name));
            let tail = name.len().checked_sub(end.len()).filter(|rest| *rest > 0);
            tail.and_then(|start| name.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        }
        None => same_name(allowed, name),
    }
}

fn same_name(a: &str, b: &str) -> bool {
    match (address(a), address(b)) {
        (Some(a), Some(b)) => a == b,
        _ => complete(a).eq_ignore_ascii_case(complete(b)),
    }
}

/// A dot at the end says that a name is complete. All names here are.
pub(super) fn complete(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}
