//! Where a base URL leads. In: the text of a URL. Out: its origin (scheme, host and port, in one spelling) and its path. Pure.
//!
//! The HTTP client connects to what is read here and to nothing else. So the origin that a key is checked against is the one
//! that the key is sent to, whatever the URL looks like to another reader.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;
/// Longest host, in bytes: the longest name in DNS.
const MAX_HOST_BYTES: usize = 253;

/// The scheme, host and port of a URL: who receives what is sent there.
///
/// Two spellings of the same address are equal: upper and lower case, a port that is the scheme's own, a dot at the end of the
/// host, forms of an IPv6 address. The path does not count.
///
/// ```
/// use switchboard::backend::credentials::Origin;
///
/// let origin: Origin = "https://API.example.:443/v1/".parse()?;
/// assert_eq!(origin.to_string(), "https://api.example");
/// assert_ne!(origin, "http://api.example".parse()?);
/// assert!("https://api.example@other.example".parse::<Origin>().is_err());
/// # Ok::<(), switchboard::backend::credentials::OriginError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    secure: bool,
    /// In lower case, an IPv6 address without brackets.
    host: String,
    port: u16,
}

/// Why a text is not a URL with an origin. It contains nothing of the text, in which there can be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginError(&'static str);

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for OriginError {}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(url: &str) -> Result<Origin, OriginError> {
        BaseUrl::parse(url).map(|url| url.origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

impl Origin {
    /// Whether the scheme is `https`.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Returns the name or address to connect to; an IPv6 address has no brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host as URLs have it, and the port if it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.secure) { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether no third party can read what is sent there: it uses TLS, or stays on this machine.
    pub(crate) fn is_private(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.secure
            || self.host == "localhost"
            || self.host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// A URL below which the paths of an API are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    pub(crate) origin: Origin,
    /// Without a slash at its end: empty, or `/v1` for example.
    pub(crate) path: String,
}

impl BaseUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is not an `http` or `https` URL with a host, or has a user, a password or a query.
    pub(crate) fn parse(url: &str) -> Result<BaseUrl, OriginError> {
        if url.len() > MAX_URL_BYTES {
            return Err(OriginError("expected a URL of at most 2048 bytes"));
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(OriginError("expected a URL of visible ASCII characters"));
        }
        let (secure, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(OriginError("expected http:// or https://")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.contains('@') {
            return Err(OriginError("expected a host, without user or password"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.contains('?') {
            return Err(OriginError("expected no query"));
        }
        let (host, port) = split_authority(authority)?;
        let origin = Origin { secure, host, port: port.unwrap_or(default_port(secure)) };
        Ok(BaseUrl { origin, path: rest.trim_end_matches('/').to_owned() })
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// Splits `host[:port]`, and returns the host in its one spelling.
fn split_authority(authority: &str) -> Result<(String, Option<u16>), OriginError> {
    const NO_HOST: OriginError =
        OriginError("expected a host: a name, an IPv4 address, or an IPv6 address in brackets");
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(NO_HOST)?;
            let address: Ipv6Addr = address.parse().map_err(|_| NO_HOST)?;
            (address.to_string(), port)
        }
        None => {
            let (name, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (name_of(name).ok_or(NO_HOST)?, port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, None)),
        Some("") => Ok((host, None)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port @ 1..) => Ok((host, Some(port))),
            _ => Err(OriginError("expected a port of 1..=65535")),
        },
        _ => Err(OriginError("expected a port of 1..=65535")),
    }
}

/// Returns a name or an IPv4 address in lower case and without the dot at its end; `None` if it is neither.
fn name_of(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_name = name.len() <= MAX_HOST_BYTES && name.split('.').all(is_label);
    let address = name.parse::<Ipv4Addr>().map(|address| address.to_string());
    address.ok().or(Some(name).filter(|_| is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> String {
        url.parse::<Origin>().expect(url).to_string()
    }

    #[test]
    fn spellings_of_one_address_are_one_origin() {
        for (origin_text, spellings) in [
            (
                "https://api.example",
                &[
                    "https://api.example",
                    "https://api.example/",
                    "https://api.example//",
                    "https://api.example/v1/",
                    "https://api.example/v1/..//%2e%2e/@other.example",
                    "https://api.example/:8080",
                    "https://api.example#@other.example",
                    "https://api.example/#?x",
                    "https://api.example:443",
                    "https://api.example:0443/v1",
                    "https://api.example:",
                    "https://api.example.",
                    "https://api.example.:443/v1",
                    "HTTPS://API.Example",
                ][..],
            ),
            (
                "http://api.example",
                &["http://api.example:80", "http://api.example:/v1", "hTTp://API.EXAMPLE."],
            ),
            ("http://api.example:443", &["http://api.example:443", "http://API.example.:443/"]),
            ("https://api.example:80", &["https://api.example:80"]),
            ("https://[::1]", &["https://[::1]", "https://[0:0::0:1]:443", "https://[0000:0::0001]/v1"]),
            (
                "http://[::ffff:127.0.0.1]:8080",
                &["http://[::ffff:127.0.0.1]:8080", "http://[::FFFF:7f00:1]:8080"],
            ),
            ("http://[2001:db8::a]", &["http://[2001:DB8:0:0::A]", "http://[2001:db8::a]:80/"]),
            ("http://127.0.0.1:7860", &["http://127.0.0.1:7860", "http://127.0.0.1.:07860/"]),
            ("http://a_b-c.d", &["http://a_b-c.d", "http://A_B-C.d/"]),
        ] {
            for spelling in spellings {
                assert_eq!(origin(spelling), origin_text, "{spelling}");
            }
            assert_eq!(origin(origin_text), origin_text, "an origin is its own origin");
        }
    }

    #[test]
    fn other_addresses_are_other_origins() {
        let urls = [
            "https://api.example",
            "http://api.example",
            "https://api.example:8443",
            "http://api.example:443",
            "https://api.example:80",
            "https://xapi.example",
            "https://api.example.other",
            "https://a.api.example",
            "https://apiexample",
            "https://127.0.0.1",
            "https://127.0.0.2",
            "https://127.1",
            "https://2130706433",
            "https://localhost",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://[::7f00:1]",
        ];
        for (index, one) in urls.iter().enumerate() {
            for other in &urls[index + 1..] {
                assert_ne!(origin(one), origin(other));
            }
        }
    }

    #[test]
    fn a_url_that_readers_could_understand_differently_has_no_origin() {
        for url in [
            "",
            "api.example",
            "//api.example",
            "ftp://api.example",
            "https:/api.example",
            "https:api.example",
            "https://",
            "https:///api.example",
            "https://:443",
            "https://.",
            "https://..",
            "https://api.example..",
            "https://api..example",
            "https://.api.example",
            "https://user@api.example",
            "https://user:password@api.example",
            "https://api.example@other.example",
            "https://api.example:443@other.example",
            "https://@api.example",
            "https://api.example\\@other.example",
            "https://api.example\\.other.example",
            "https://api.example;other.example",
            "https://api%2eexample",
            "https://api.example%00",
            "https://api.example,other.example",
            "https://api.example?",
            "https://api.example?@other.example",
            "https://api.example/v1?x=y",
            "https://api.example:0",
            "https://api.example:65536",
            "https://api.example:+443",
            "https://api.example:-1",
            "https://api.example:443:443",
            "https://api.example:4x",
            "https://api.example: 443",
            "https://[::1",
            "https://::1",
            "https://[::1]x",
            "https://[::1]:x",
            "https://[::1]]",
            "https://[::1%25lo]",
            "https://[127.0.0.1]",
            "https://[]",
            " https://api.example",
            "https://api.example\n",
            "https://api.ex\u{e4}mple",
            "https://api.ex\u{ff41}mple",
        ] {
            assert!(url.parse::<Origin>().is_err(), "{url:?}");
        }
        assert!(format!("https://{}", "a".repeat(MAX_HOST_BYTES)).parse::<Origin>().is_ok());
        assert!(format!("https://{}", "a".repeat(MAX_HOST_BYTES + 1)).parse::<Origin>().is_err());
        let path = "a".repeat(MAX_URL_BYTES - "https://a/".len());
        assert!(BaseUrl::parse(&format!("https://a/{path}")).is_ok());
        assert!(BaseUrl::parse(&format!("https://a/{path}a")).is_err());
    }

    #[test]
    fn only_tls_and_this_machine_are_private() {
        for (url, private) in [
            ("https://far.example", true),
            ("http://far.example", false),
            ("http://localhost", true),
            ("http://LOCALHOST.:8080", true),
            ("http://a.localhost", true),
            ("http://localhost.example", false),
            ("http://xlocalhost", false),
            ("http://127.9.9.9", true),
            ("http://127.1", false),
            ("http://[::1]:8080", true),
            ("http://[::2]", false),
            ("http://192.168.0.1", false),
        ] {
            assert_eq!(url.parse::<Origin>().unwrap().is_private(), private, "{url}");
        }
    }
}
