//! The upgrade, compared with a naive implementation of RFC 6455, section 4.2.1, and with the crates `sha1` and
//! `data-encoding`.

use data_encoding::{BASE64, Specification};
use sha1::{Digest, Sha1};
use switchboard::protocol::handshake::{self, Accepted, AccessRules, Head, Refusal, SUBPROTOCOL};

use super::{Choices, access};

const TOKEN: &str = "s3cret";
/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request is accepted exactly if a naive implementation accepts it as an upgrade by RFC 6455 and allows its `Host`,
/// `Origin` and token. Otherwise it is refused for a rule that it breaks. The accept key is the one that the other crates
/// compute. The same head as a server's response is accepted exactly if a naive implementation of RFC 6455, section 4.1,
/// accepts it. As a request for a page it is allowed exactly if it sends the token. The token for an authenticator is the one that a
/// naive implementation finds.
///
/// The bytes are: the rules, then the head of a request for `httparse`.
pub fn upgrade(data: &[u8]) {
    accept_key_is(data, &handshake::accept_key(data));
    let mut choices = Choices::new(data);
    let setup = choices.byte();
    let names = |bit: u8, name: &str| if setup & bit == 0 { vec![] } else { vec![name.to_owned()] };
    let (mut hosts, mut origins) = (names(2, "box.example"), names(4, "https://app.example"));
    origins.extend(names(8, "*"));
    hosts.extend(names(32, "*.box.example"));
    origins.extend(names(64, "https://*.app.example"));
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
    credential_is_right(&head, handshake::sent_token(&head));
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
        && values(head, "sec-websocket-extensions").is_empty()
        && matches!(values(head, "sec-websocket-protocol").as_slice(), [] | [_])
        && values(head, "sec-websocket-protocol").iter().all(|selected| trim(selected) == SUBPROTOCOL);
    assert_eq!(verdict.is_ok(), passes, "{verdict:?}: {head:?}");
}

/// Checks the token that an authenticator is given.
pub fn credential_is_right(head: &Head<'_>, sent: Option<Vec<u8>>) {
    let naive = sent_token(head, &values(head, "authorization"), &lists(head, "sec-websocket-protocol"));
    assert_eq!(sent, naive, "{head:?}");
    assert_eq!(handshake::sends_token(head), naive.is_some(), "{head:?}");
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
    let host_passes =
        hosts.first().is_some_and(|host| is_utf8(host) && access::host_is_allowed(trim(host), rules));
    let origins = values("origin");
    let origin_passes = match origins.as_slice() {
        [] => true,
        [origin] => {
            let host = hosts.first().map_or("", String::as_str);
            is_utf8(origin) && access::origin_is_allowed(trim(origin), trim(host), rules)
        }
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

fn is_utf8(latin1: &str) -> bool {
    String::from_utf8(latin1.chars().map(|c| c as u8).collect()).is_ok()
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
