//! Which upgrades are accepted and which are refused, and the vectors of the RFCs.

use super::*;

const UPGRADE: [(&str, &[u8]); 5] = [
    ("Host", b"localhost:3001"),
    ("Upgrade", b"websocket"),
    ("Connection", b"keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", b"13"),
];

fn head<'a>(changes: &[(&'a str, &'a [u8])]) -> Head<'a> {
    let mut headers: Vec<(&str, &[u8])> = UPGRADE.to_vec();
    headers.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    Head { method: "GET", http_1_1: true, query: None, headers }
}

const LOCAL: AccessRules<'static> =
    AccessRules { loopback: true, allow_hosts: &[], allow_origins: &[], token: None };

fn refusal(changes: &[(&str, &[u8])], rules: &AccessRules<'_>) -> Option<Refusal> {
    check(&head(changes), rules).err()
}

/// RFC 6455, section 1.3; RFC 4648, section 10.
#[test]
fn the_vectors_of_the_rfcs_hold() {
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
}

#[test]
fn a_good_upgrade_is_accepted() {
    let accepted = check(&head(&[]), &LOCAL).unwrap();
    assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!((accepted.subprotocol, accepted.authenticated), (None, true));
    assert_eq!(refusal(&[("Upgrade", b"h2c, WebSocket")], &LOCAL), None);
    assert_eq!(refusal(&[("Content-Length", b"0")], &LOCAL), None);
}

#[test]
fn a_broken_upgrade_is_refused() {
    let broken = |changes: &[(&str, &[u8])]| matches!(refusal(changes, &LOCAL), Some(Refusal::Broken(_)));
    assert_eq!(refusal(&[("Upgrade", b"")], &LOCAL), Some(Refusal::NotAnUpgrade));
    assert!(broken(&[("Connection", b"keep-alive")]));
    assert!(broken(&[("Sec-WebSocket-Key", b"")]));
    assert!(broken(&[("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=")]));
    assert!(broken(&[("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25j!Q==")]));
    assert!(broken(&[
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
    ]));
    assert!(broken(&[("Content-Length", b"5")]));
    assert!(broken(&[("Transfer-Encoding", b"chunked")]));
    assert!(broken(&[("Host", b"")]));
    assert!(broken(&[("Host", b"localhost"), ("Host", b"localhost")]));
    for version in [&b""[..], b"8", b"13, 8"] {
        assert_eq!(refusal(&[("Sec-WebSocket-Version", version)], &LOCAL), Some(Refusal::Version));
    }
    let post = Head { method: "POST", ..head(&[]) };
    assert!(matches!(check(&post, &LOCAL), Err(Refusal::Broken(_))));
    let old = Head { http_1_1: false, ..head(&[]) };
    assert!(matches!(check(&old, &LOCAL), Err(Refusal::Broken(_))));
}

#[test]
fn on_loopback_host_and_origin_must_be_loopback_or_listed() {
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:3001",
        "127.9.9.9",
        "[::1]:3001",
        "app.localhost",
        "localhost.",
    ] {
        assert_eq!(refusal(&[("Host", host.as_bytes())], &LOCAL), None, "{host}");
        let origin = format!("http://{host}");
        assert_eq!(refusal(&[("Origin", origin.as_bytes())], &LOCAL), None, "{origin}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "notlocalhost",
        ":80",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:1]",
        "localhost:80x",
        "localhost:1:1",
    ] {
        assert_eq!(refusal(&[("Host", host.as_bytes())], &LOCAL), Some(Refusal::Host), "{host}");
        let origin = format!("https://{host}");
        assert_eq!(refusal(&[("Origin", origin.as_bytes())], &LOCAL), Some(Refusal::Origin), "{origin}");
    }
    for origin in
        ["null", "localhost", "http://", "http://localhost@evil.example", "http://evil.example/.localhost"]
    {
        assert_eq!(refusal(&[("Origin", origin.as_bytes())], &LOCAL), Some(Refusal::Origin), "{origin}");
    }
    let hosts = ["box.example".to_owned()];
    let origins = ["https://app.example".to_owned()];
    let named = AccessRules { allow_hosts: &hosts, allow_origins: &origins, ..LOCAL };
    assert_eq!(refusal(&[("Host", b"Box.example:80"), ("Origin", b"https://app.example")], &named), None);
    assert_eq!(refusal(&[("Origin", b"http://app.example")], &named), Some(Refusal::Origin));
}

#[test]
fn beyond_loopback_only_own_pages_and_listed_origins_connect() {
    let open = AccessRules { loopback: false, ..LOCAL };
    let with = |host: &'static str, origin: &'static str, rules: &AccessRules<'_>| {
        refusal(&[("Host", host.as_bytes()), ("Origin", origin.as_bytes())], rules)
    };
    assert_eq!(with("10.0.0.5:3001", "http://10.0.0.5:3001", &open), None);
    assert_eq!(with("10.0.0.5:3001", "http://10.0.0.6:3001", &open), Some(Refusal::Origin));
    assert_eq!(with("evil.example", "http://evil.example", &open), Some(Refusal::Origin));
    let hosts = ["box.example".to_owned()];
    let named = AccessRules { allow_hosts: &hosts, ..open };
    assert_eq!(with("box.example", "https://box.example", &named), None);
    assert_eq!(with("other.example", "", &named), Some(Refusal::Host));
    let any = ["*".to_owned()];
    let any = AccessRules { allow_origins: &any, ..open };
    assert_eq!(with("evil.example", "null", &any), None);
}

#[test]
fn a_token_is_accepted_in_each_place_and_a_wrong_one_is_refused() {
    let rules = AccessRules { token: Some("s3cret"), ..LOCAL };
    let authenticated = |changes: &[(&str, &[u8])]| check(&head(changes), &rules).map(|ok| ok.authenticated);
    assert_eq!(authenticated(&[]), Ok(false));
    assert_eq!(authenticated(&[("Authorization", b"Bearer s3cret")]), Ok(true));
    assert_eq!(authenticated(&[("Authorization", b"bearer  s3cret")]), Ok(true));
    assert_eq!(authenticated(&[("Authorization", b"Basic s3cret")]), Ok(false));
    for wrong in
        [&b"Bearer s3cres"[..], b"Bearer s3cret2", b"Bearer s3cre", b"Bearer ", b"Bearer s3crets3cret"]
    {
        assert_eq!(
            authenticated(&[("Authorization", wrong)]),
            // A scheme without a token sends none.
            if wrong == b"Bearer " { Ok(false) } else { Err(Refusal::Token) }
        );
    }
    let browser = head(&[("Sec-WebSocket-Protocol", b"switchboard.v1, bearer.s3cret")]);
    let accepted = check(&browser, &rules).unwrap();
    assert_eq!((accepted.subprotocol, accepted.authenticated), (Some("switchboard.v1"), true));
    let query = |query| check(&Head { query: Some(query), ..head(&[]) }, &rules).map(|ok| ok.authenticated);
    assert_eq!(query("a=b&token=s3c%72et"), Ok(true));
    assert_eq!(query("token=s3cret%"), Err(Refusal::Token));
    assert_eq!(query("xtoken=s3cret"), Ok(false));
}

#[cfg(feature = "pages")]
#[test]
fn a_page_needs_the_token_in_a_header_or_in_the_query() {
    let rules = AccessRules { token: Some("s3cret"), ..LOCAL };
    assert!(is_authorized(&head(&[("Authorization", b"Bearer s3cret")]), Some("s3cret")));
    assert!(!is_authorized(&head(&[]), Some("s3cret")));
    let in_query = Head { query: Some("token=s3cret"), ..head(&[]) };
    assert!(may_see(&in_query, &rules) && !is_authorized(&in_query, Some("s3cret")));
    assert!(may_see(&head(&[("Authorization", b"Bearer s3cret")]), &rules) && may_see(&head(&[]), &LOCAL));
    assert!(!may_see(&head(&[]), &rules));
    assert!(!may_see(&Head { query: Some("token=s3cres"), ..head(&[]) }, &rules));
    assert!(is_authorized(&head(&[]), None));
}

#[test]
fn an_empty_token_matches_no_other_token() {
    assert!(!same_token(b"", b"a"));
    assert!(!same_token(b"a", b""));
    assert!(!same_token(b"aa", b"a"));
    assert!(same_token(b"a", b"a"));
}
