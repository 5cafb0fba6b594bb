//! The upgrade, compared with a naive implementation of RFC 6455, section 4.2.1, and with the crates `sha1` and
//! `data-encoding`.

use std::net::IpAddr;

use data_encoding::{BASE64, Specification};
use sha1::{Digest, Sha1};
use switchboard::protocol::handshake::{self, Accepted, AccessRules, Head, Refusal, SUBPROTOCOL};

use super::Choices;

const TOKEN: &str = "s3cret";
/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request is accepted exactly if a naive implementation accepts it as an upgrade by RFC 6455 and allows its `Host`,
/// `Origin` and token. Otherwise it is refused for a rule that it breaks. The accept key is the one that the other crates
/// compute. The same head as a server's response is accepted exactly if a naive implementation of RFC 6455, section 4.1,
/// accepts it. As a request for a page it is allowed exactly if it sends the token.
///
/// The bytes are: the rules, then the head of a request for `httparse`.
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
        assert!(!refusal.body().is_empty(), "{refusal:?} has no body");
    }
    #[cfg(feature = "client")]
    answer_verdict_is_right(&head, handshake::check_answer(&head, KEY));
    #[cfg(feature = "pages")]
    let tokens = (handshake::is_authorized(&head, rules.token), handshake::may_see(&head, &rules));
    #[cfg(feature = "pages")]
    token_verdict_is_right(&head, rules.token, tokens);
}

/// The values of a field, and the parts of its lists.
fn values(head: &Head<'_>, name: &str) -> Vec<String> {
    let named = head.headers.iter().filter(|(field, _)| field.to_ascii_lowercase() == name);
    named.map(|(_, value)| latin1(value)).collect()
}

fn lists(head: &Head<'_>, name: &str) -> Vec<String> {
    let values = values(head, name);
    // A subprotocol list that is not UTF-8 is ignored.
    let readable = values.iter().filter(|value| name != "sec-websocket-protocol" || is_utf8(value));
    readable.flat_map(|value| value.split(',')).map(|part| trim(part).to_owned()).collect()
}

fn names(head: &Head<'_>, list: &str, word: &str) -> bool {
    lists(head, list).iter().any(|part| part.to_ascii_lowercase() == word)
}

pub fn answer_verdict_is_right(head: &Head<'_>, verdict: Result<(), &'static str>) {
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

/// Checks the verdicts on `Authorization` alone and on all places of the token.
pub fn token_verdict_is_right(head: &Head<'_>, token: Option<&str>, (authorized, may_see): (bool, bool)) {
    let Some(token) = token else { return assert!(authorized && may_see) };
    let header = bearer(&values(head, "authorization")).map(|sent| sent == token);
    assert_eq!(authorized, header == Some(true), "{head:?}");
    let sent = sent_token(head, &values(head, "authorization"), &lists(head, "sec-websocket-protocol"));
    assert_eq!(may_see, sent.is_some_and(|sent| sent == token.as_bytes()), "{head:?}");
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
    let host_passes = hosts.first().is_some_and(|host| host_is_allowed(host, rules));
    let origins = values("origin");
    let origin_passes = match origins.as_slice() {
        [] => true,
        [origin] => origin_is_allowed(origin, hosts.first().map_or("", String::as_str), rules),
        _ => false,
    };
    let sent = sent_token(head, &values("authorization"), &lists("sec-websocket-protocol"));
    let token_passes = match (rules.token, &sent) {
        (Some(token), Some(sent)) => sent == token.as_bytes(),
        _ => true,
    };

    let context = || format!("{rules:?} {head:?}");
    match verdict {
        Ok(accepted) => {
            assert!(asks && version_13 && whole, "accepted, but not by RFC 6455: {}", context());
            assert!(host_passes, "accepted from a foreign Host: {}", context());
            assert!(origin_passes, "accepted from a foreign Origin: {}", context());
            assert!(token_passes, "accepted with a wrong token: {}", context());
            let authenticated = rules.token.is_none() || sent.is_some();
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
    assert!(!passes, "{verdict:?}, but every rule is kept: {}", context());
}

/// One character per byte, so that values that are not UTF-8 can be compared.
fn latin1(value: &[u8]) -> String {
    value.iter().copied().map(char::from).collect()
}

fn trim(value: &str) -> &str {
    value.trim_matches(|c: char| c.is_ascii_whitespace())
}

/// "a base64-encoded value that, when decoded, is 16 bytes in length": the four unused bits can have any value.
fn is_16_bytes(key: &str) -> bool {
    let mut lenient = Specification::new();
    lenient.symbols.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    lenient.padding = Some('=');
    lenient.check_trailing_bits = false;
    let lenient = lenient.encoding().expect("the alphabet of RFC 4648 is valid");
    let latin1: Vec<u8> = key.chars().map(|c| c as u8).collect();
    // The crate also accepts concatenated base64 texts, each with its padding; a key is only one.
    let one = !key.trim_end_matches('=').contains('=');
    one && lenient.decode(&latin1).is_ok_and(|bytes| bytes.len() == 16)
}

fn host_is_allowed(host: &str, rules: &AccessRules<'_>) -> bool {
    let (true, Some(name)) = (is_utf8(host), name_of(trim(host))) else { return false };
    if rules.allow_hosts.iter().any(|allowed| allowed.to_ascii_lowercase() == name) || is_this_machine(&name)
    {
        return true;
    }
    // Beyond loopback an address is allowed: DNS rebinding needs a name.
    !rules.loopback && (rules.allow_hosts.is_empty() || address(&name).is_some())
}

fn origin_is_allowed(origin: &str, host: &str, rules: &AccessRules<'_>) -> bool {
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

/// The host in `host:port` or `[address]:port`, in lower case, if the port is a number or absent.
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

/// The token in `Authorization`, the subprotocols or the query: the first of them that is present.
fn sent_token(head: &Head<'_>, authorization: &[String], subprotocols: &[String]) -> Option<Vec<u8>> {
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
