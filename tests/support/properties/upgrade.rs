//! The upgrade against RFC 6455, section 4.2.1, read naively, and against other people's SHA-1 and base64.

use std::net::IpAddr;

use data_encoding::{BASE64, Specification};
use sha1::{Digest, Sha1};
use switchboard::protocol::handshake::{self, Accepted, AccessRules, Head, Refusal, SUBPROTOCOL};

use super::Choices;

const TOKEN: &str = "s3cret";
/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request is accepted exactly if it is an upgrade by RFC 6455 and its `Host`, `Origin` and token may pass, each
/// judged by a naive reading; otherwise it is refused for a rule that it breaks. A foreign page never passes on
/// loopback, a wrong token nowhere. The accept key is the one that other people's code computes. The same head, taken
/// for a server's answer to a client, is accepted exactly if RFC 6455, section 4.1, read naively, lets it pass; and
/// taken for a request for a page, it may see it exactly if it shows the token.
///
/// The bytes are: the rules, then the head of a request, as `httparse` reads it.
pub fn upgrade(data: &[u8]) {
    accept_key_is(data, &handshake::accept_key(data));
    let mut choices = Choices::new(data);
    let setup = choices.byte();
    let names = |bit: u8, name: &str| if setup & bit == 0 { vec![] } else { vec![name.to_owned()] };
    let (hosts, mut origins) = (names(2, "box.example"), names(4, "https://app.example"));
    origins.extend(names(8, "*"));
    let rules = AccessRules {
        loopback: setup & 1 == 0,
        allow_hosts: &hosts,
        allow_origins: &origins,
        token: (setup & 16 != 0).then_some(TOKEN),
    };

    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = request.parse(choices.rest()) else { return };
    let target = request.path.unwrap_or_default();
    let head = Head {
        method: request.method.unwrap_or_default(),
        http_1_1: request.version == Some(1),
        query: target.split_once('?').map(|(_, query)| query),
        headers: request.headers.iter().map(|header| (header.name, header.value)).collect(),
    };
    let verdict = handshake::check(&head, &rules);
    verdict_is_right(&head, &rules, &verdict);
    if let Err(refusal) = verdict {
        assert_eq!(refusal.status(), status(refusal));
        assert!(!refusal.body().is_empty(), "{refusal:?} says nothing");
    }
    #[cfg(feature = "client")]
    answer_is_judged_right(&head, handshake::check_answer(&head, KEY));
    let tokens = (handshake::is_authorized(&head, rules.token), handshake::may_see(&head, &rules));
    token_is_judged_right(&head, rules.token, tokens);
}

/// The values of a field, and the parts of its lists.
fn values(head: &Head<'_>, name: &str) -> Vec<String> {
    let named = head.headers.iter().filter(|(field, _)| field.to_ascii_lowercase() == name);
    named.map(|(_, value)| latin1(value)).collect()
}

fn lists(head: &Head<'_>, name: &str) -> Vec<String> {
    let values = values(head, name);
    // A field of ASCII that is not even UTF-8 says nothing.
    let readable = values.iter().filter(|value| name != "sec-websocket-protocol" || is_utf8(value));
    readable.flat_map(|value| value.split(',')).map(|part| trim(part).to_owned()).collect()
}

fn names(head: &Head<'_>, list: &str, word: &str) -> bool {
    lists(head, list).iter().any(|part| part.to_ascii_lowercase() == word)
}

pub fn answer_is_judged_right(head: &Head<'_>, verdict: Result<(), &'static str>) {
    let fits = match values(head, "sec-websocket-accept").as_slice() {
        [accept] => trim(accept) == ACCEPT,
        _ => false,
    };
    let passes = names(head, "upgrade", "websocket")
        && names(head, "connection", "upgrade")
        && fits
        && values(head, "sec-websocket-extensions").is_empty();
    assert_eq!(verdict.is_ok(), passes, "{verdict:?}: {head:?}");
}

/// What is said of `Authorization` alone, and of all places of the token.
pub fn token_is_judged_right(head: &Head<'_>, token: Option<&str>, (authorized, may_see): (bool, bool)) {
    let Some(token) = token else { return assert!(authorized && may_see) };
    let header = bearer(&values(head, "authorization")).map(|shown| shown == token);
    assert_eq!(authorized, header == Some(true), "{head:?}");
    let shown = shown_token(head, &values(head, "authorization"), &lists(head, "sec-websocket-protocol"));
    assert_eq!(may_see, shown.is_some_and(|shown| shown == token.as_bytes()), "{head:?}");
}

/// RFC 9110, section 15.5.
fn status(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::NotAnUpgrade | Refusal::Version => 426,
        Refusal::Broken(_) => 400,
        Refusal::Host | Refusal::Origin => 403,
        Refusal::Token => 401,
    }
}

pub fn accept_key_is(key: &[u8], accept: &str) {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    assert_eq!(accept, BASE64.encode(&digest), "for {key:02x?}");
}

pub fn verdict_is_right(head: &Head<'_>, rules: &AccessRules<'_>, verdict: &Result<Accepted, Refusal>) {
    let values = |name: &str| values(head, name);
    let lists = |name: &str| lists(head, name);
    let names = |list: &str, word: &str| names(head, list, word);

    let asks = names("upgrade", "websocket");
    let keys = values("sec-websocket-key");
    let version_13 = values("sec-websocket-version").iter().map(|value| trim(value)).eq(["13"]);
    let has_body = !values("transfer-encoding").is_empty()
        || values("content-length").iter().any(|length| trim(length) != "0");
    let hosts = values("host");
    let whole = head.method == "GET"
        && head.http_1_1
        && names("connection", "upgrade")
        && keys.len() == 1
        && keys.iter().all(|key| is_16_bytes(trim(key)))
        && hosts.len() == 1
        && !has_body;
    let host_passes = hosts.first().is_some_and(|host| host_may_pass(host, rules));
    let origins = values("origin");
    let origin_passes = match origins.as_slice() {
        [] => true,
        [origin] => origin_may_pass(origin, hosts.first().map_or("", String::as_str), rules),
        _ => false,
    };
    let shown = shown_token(head, &values("authorization"), &lists("sec-websocket-protocol"));
    let token_passes = match (rules.token, &shown) {
        (Some(token), Some(shown)) => shown == token.as_bytes(),
        _ => true,
    };

    let context = || format!("{rules:?} {head:?}");
    match verdict {
        Ok(accepted) => {
            assert!(asks && version_13 && whole, "accepted, but not by RFC 6455: {}", context());
            assert!(host_passes, "accepted from a foreign Host: {}", context());
            assert!(origin_passes, "accepted from a foreign Origin: {}", context());
            assert!(token_passes, "accepted with a wrong token: {}", context());
            let authenticated = rules.token.is_none() || shown.is_some();
            assert_eq!(accepted.authenticated, authenticated, "{}", context());
            let named = lists("sec-websocket-protocol").iter().any(|name| name == SUBPROTOCOL);
            assert_eq!(accepted.subprotocol, named.then_some(SUBPROTOCOL), "{}", context());
            accept_key_is(trim(&keys[0]).as_bytes(), &accepted.accept);
            return;
        }
        Err(Refusal::NotAnUpgrade) => assert!(!asks, "{}", context()),
        Err(Refusal::Version) => assert!(asks && !version_13, "{}", context()),
        Err(Refusal::Broken(_)) => assert!(asks && !whole, "{}", context()),
        Err(Refusal::Host) => assert!(asks && version_13 && !host_passes, "{}", context()),
        Err(Refusal::Origin) => assert!(host_passes && !origin_passes, "{}", context()),
        Err(Refusal::Token) => assert!(origin_passes && !token_passes, "{}", context()),
    }
    let passes = asks && version_13 && whole && host_passes && origin_passes && token_passes;
    assert!(!passes, "{verdict:?}, but nothing is wrong: {}", context());
}

/// One character a byte, so that what is not UTF-8 stays comparable.
fn latin1(value: &[u8]) -> String {
    value.iter().copied().map(char::from).collect()
}

fn trim(value: &str) -> &str {
    value.trim_matches(|c: char| c.is_ascii_whitespace())
}

/// "a base64-encoded value that, when decoded, is 16 bytes in length": the four bits left over may be anything.
fn is_16_bytes(key: &str) -> bool {
    let mut lenient = Specification::new();
    lenient.symbols.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    lenient.padding = Some('=');
    lenient.check_trailing_bits = false;
    let lenient = lenient.encoding().expect("it is the alphabet of RFC 4648");
    let latin1: Vec<u8> = key.chars().map(|c| c as u8).collect();
    // The crate also reads one base64 text behind another, each with its padding; a key is one.
    let one = !key.trim_end_matches('=').contains('=');
    one && lenient.decode(&latin1).is_ok_and(|bytes| bytes.len() == 16)
}

fn host_may_pass(host: &str, rules: &AccessRules<'_>) -> bool {
    let (true, Some(name)) = (is_utf8(host), name_of(trim(host))) else { return false };
    if rules.allow_hosts.iter().any(|allowed| allowed.to_ascii_lowercase() == name) || is_this_machine(&name)
    {
        return true;
    }
    // Beyond loopback an address is never a name that somebody else points here.
    !rules.loopback && (rules.allow_hosts.is_empty() || address(&name).is_some())
}

fn origin_may_pass(origin: &str, host: &str, rules: &AccessRules<'_>) -> bool {
    if !is_utf8(origin) {
        return false;
    }
    let origin = trim(origin).to_ascii_lowercase();
    if rules.allow_origins.iter().any(|allowed| *allowed == origin || allowed == "*") {
        return true;
    }
    let Some((_, authority)) = origin.split_once("://") else { return false };
    if rules.loopback {
        return name_of(authority).is_some_and(|name| is_this_machine(&name));
    }
    let host = trim(host).to_ascii_lowercase();
    let Some(name) = name_of(&host) else { return false };
    authority == host && (address(&name).is_some() || rules.allow_hosts.contains(&name))
}

fn is_utf8(latin1: &str) -> bool {
    String::from_utf8(latin1.chars().map(|c| c as u8).collect()).is_ok()
}

/// The host in `host:port` or `[address]:port`, in lower case, if nothing but a number stands behind it.
fn name_of(authority: &str) -> Option<String> {
    let bracketed = authority.strip_prefix('[').map(|rest| rest.split_once(']'));
    let (name, rest) = match bracketed {
        Some(literal) => literal.map(|(literal, rest)| (format!("[{literal}]"), rest))?,
        None => {
            let name: String = authority.chars().take_while(|c| *c != ':').collect();
            let rest = &authority[name.len()..];
            (name, rest)
        }
    };
    let port = rest.strip_prefix(':').unwrap_or_default();
    let whole = rest.is_empty() || rest.starts_with(':');
    (whole && port.chars().all(|c| c.is_ascii_digit())).then(|| name.to_ascii_lowercase())
}

/// A name or address that never leaves the machine.
fn is_this_machine(name: &str) -> bool {
    let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    let plain =
        |label: &&str| label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if labels.last() == Some(&"localhost") && labels.iter().all(plain) {
        return true;
    }
    match address(name) {
        Some(IpAddr::V4(address)) => address.octets()[0] == 127,
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.octets()[0] == 127,
            None => u128::from(address) == 1,
        },
        None => false,
    }
}

fn address(name: &str) -> Option<IpAddr> {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse().ok()
}

fn bearer(authorization: &[String]) -> Option<String> {
    let (scheme, token) = trim(authorization.first()?).split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| trim(token).to_owned())
}

/// The token that counts: of `Authorization`, of the subprotocols, of the query, the first that there is.
fn shown_token(head: &Head<'_>, authorization: &[String], subprotocols: &[String]) -> Option<Vec<u8>> {
    let header = bearer(authorization);
    let subprotocol = || subprotocols.iter().find_map(|name| Some(name.strip_prefix("bearer.")?.to_owned()));
    if let Some(token) = header.or_else(subprotocol) {
        return Some(token.chars().map(|c| c as u8).collect());
    }
    let query = head.query?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    let mut parts = query.split('%');
    let mut token = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                token.push(byte);
                token.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                token.push(b'%');
                token.extend_from_slice(part.as_bytes());
            }
        }
    }
    Some(token)
}
