//! The reader of base URLs, compared with a naive reader of URLs as browsers read them.

use std::net::{Ipv4Addr, Ipv6Addr};

use switchboard::backend::credentials::Origin;

/// Where a URL leads: scheme, host, port.
pub type Place = (String, String, u16);

/// A URL that has an origin leads where browsers go with it, in every spelling of it. Its path does not matter.
///
/// The bytes are the URL.
pub fn origin(data: &[u8]) {
    let url = String::from_utf8_lossy(data);
    let Ok(origin) = url.parse::<Origin>() else { return };
    let text = origin.to_string();
    assert_eq!(text.parse::<Origin>().as_ref(), Ok(&origin), "{url:?}: an origin is its own origin");
    place_is(&text, &url);
    for spelling in [url.to_ascii_uppercase(), url.to_ascii_lowercase(), format!("{url}/@a.example:1")] {
        // It can be too long now.
        if let Ok(other) = spelling.parse::<Origin>() {
            assert_eq!(other, origin, "{url:?} and {spelling:?}");
        }
    }
}

/// The origin is where the naive reader goes.
pub fn place_is(origin: &str, url: &str) {
    let (seen, expected) = (naive(origin), naive(url));
    assert!(expected.is_some() && seen == expected, "{url:?}: {origin} is {seen:?}, expected {expected:?}");
}

/// The URL standard, as far as scheme, host and port are concerned: white space around the text and line breaks within are left out, a
/// backslash is a slash, and the host begins after the last `@`.
fn naive(url: &str) -> Option<Place> {
    let url = url.trim_matches(|c: char| c <= ' ').replace(['\t', '\n', '\r'], "").replace('\\', "/");
    let (scheme, rest) = url.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = if scheme == "https" { 443 } else { 80 };
    let authority = rest.trim_start_matches('/').split(['/', '?', '#']).next()?;
    let host_and_port = authority.rsplit('@').next()?;
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (host_and_port, ""),
    };
    let port = if port.is_empty() { own_port } else { port.parse().ok()? };
    // A dot at the end says that a name is complete, which every name in a base URL is.
    let host = host.to_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host.parse::<Ipv4Addr>().map_or_else(|_| host.to_owned(), |address| address.to_string()),
    };
    Some((scheme, host, port))
}
