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
    // The server's own pages, behind a proxy.
    assert_eq!(refusal(&[("Host", b"box.example"), ("Origin", b"https://box.example")], &named), None);
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
    assert_eq!(with("localhost:3001", "http://localhost:3001", &open), None);
    assert_eq!(with("localhost:3001", "http://127.0.0.1:5173", &open), None);
    assert_eq!(with("10.0.0.5:3001", "http://localhost:3001", &open), Some(Refusal::Origin));
    assert_eq!(with("10.0.0.5", "ftp://10.0.0.5", &open), Some(Refusal::Origin));
    let hosts = ["box.example".to_owned()];
    let named = AccessRules { allow_hosts: &hosts, ..open };
    assert_eq!(with("box.example", "https://box.example", &named), None);
    assert_eq!(with("other.example", "", &named), Some(Refusal::Host));
    let any = ["*".to_owned()];
    let any = AccessRules { allow_origins: &any, ..open };
    assert_eq!(with("evil.example", "null", &any), None);
}

#[test]
fn a_setting_covers_every_spelling_of_its_origin() {
    for (allowed, origin, covered) in [
        ("https://app.example", "https://app.example", true),
        (" HTTPS://App.Example:443/ ", "https://app.example", true),
        ("https://app.example.", "https://app.example", true),
        ("https://app.example", "https://app.example:8443", false),
        ("https://app.example", "http://app.example", false),
        ("http://app.example:8080/", "http://app.example:8080", true),
        ("https://*.app.example", "https://a.b.app.example", true),
        ("https://*.app.example", "https://app.example", false),
        ("https://*.app.example", "https://evilapp.example", false),
        ("https://*.app.example", "https://a.app.example.evil.example", false),
        ("https://*.app.example", "https://a.app.example:8443", false),
        ("http://[0:0::1]:80", "http://[::1]", true),
        ("vscode-webview://*", "vscode-webview://0abc", true),
        ("vscode-webview://*", "vscode-webviewx://0abc", false),
        ("vscode-webview://*", "https://vscode-webview", false),
        ("chrome-extension://abc/", "chrome-extension://abc", true),
        ("chrome-extension://abc", "chrome-extension://abcd", false),
        ("file://", "file://", true),
        ("null", "null", true),
        ("https://app.example", "null", false),
        ("*", "anything at all", true),
    ] {
        let origins = [allowed.to_owned()];
        let rules = AccessRules { allow_origins: &origins, ..LOCAL };
        let refused = refusal(&[("Origin", origin.as_bytes())], &rules);
        assert_eq!(refused.is_none(), covered, "{allowed} and {origin}");
        assert_eq!(check_allowed_origin(allowed), Ok(()), "{allowed}");
    }
    for (allowed, host, covered) in [
        ("App.Example.:443", "app.example:9", true),
        ("*.app.example", "a.app.example.", true),
        ("*.app.example", "app.example", false),
        ("::ffff:10.0.0.1", "[::ffff:a00:1]", true),
    ] {
        let hosts = [allowed.to_owned()];
        let rules = AccessRules { allow_hosts: &hosts, ..LOCAL };
        assert_eq!(refusal(&[("Host", host.as_bytes())], &rules).is_none(), covered, "{allowed} and {host}");
        assert_eq!(check_allowed_host(allowed), Ok(()), "{allowed}");
    }
}

#[test]
fn a_setting_that_can_never_match_is_refused_with_the_form_that_can() {
    let origin = |text: &str| check_allowed_origin(text).map_err(|never| never.to_string());
    for (text, expected) in [
        ("app.example", "it has no scheme: write https://app.example"),
        ("*.app.example", "it has no scheme: write https://*.app.example"),
        ("//app.example/", "it has no scheme: write https://app.example/"),
        ("https://app.example/chat", "it has a path: write https://app.example"),
        ("https://app.example?x", "it has a path: write https://app.example"),
        ("https://me:pw@app.example", "it has a user: write https://app.example"),
        ("me:pw@app.example/x", "it has no scheme: write https://app.example"),
        ("wss://app.example", "the origin of a page is http:// or https://: write https://app.example"),
        ("https://b\u{fc}cher.example", "browsers send this name in another form, which begins with xn--"),
        ("https://a*.example", "* can only be the first label of a name, as in *.app.example"),
        ("https://a.*.example", "* can only be the first label of a name, as in *.app.example"),
        ("https://app.example:99999", "it is not a name or an address of a host"),
        ("https://127.1", "it is not a name or an address of a host"),
        ("https://", "it is not a name or an address of a host"),
        ("https:///", "it is not a name or an address of a host"),
        ("", "it is empty"),
        ("https:/app.example", "it has no scheme: write https://app.example"),
        ("http:app.example:81", "it has no scheme: write http://app.example:81"),
        ("*://app.example", "it has no scheme: write https://app.example"),
        ("localhost:5173", "it has no scheme: write http://localhost:5173"),
        ("[::1]:5173", "it has no scheme: write http://[::1]:5173"),
        ("10.0.0.7", "it has no scheme: write http://10.0.0.7"),
        ("\"https://app.example\"", "it is in quotation marks: write https://app.example"),
        ("'app.example'", "it is in quotation marks: write https://app.example"),
        ("\"\"", "it is in quotation marks"),
        (
            "https://app.example,https://b.example",
            "it contains a space or a comma: each name is a setting of its own",
        ),
        (
            "https://app.example https://b.example",
            "it contains a space or a comma: each name is a setting of its own",
        ),
    ] {
        assert_eq!(origin(text), Err(expected.to_owned()), "{text}");
    }
    let host = |text: &str| check_allowed_host(text).map_err(|never| never.to_string());
    for (text, expected) in [
        ("http://x", "it is a URL, not a host: write x"),
        ("https://me:pw@app.example:8443/x", "it is a URL, not a host: write app.example"),
        ("app.example/chat", "it has a path: write app.example"),
        ("*", "* can only be the first label of a name, as in *.app.example"),
        ("", "it is empty"),
        ("'app.example'", "it is in quotation marks: write app.example"),
        ("app.example, b.example", "it contains a space or a comma: each name is a setting of its own"),
    ] {
        assert_eq!(host(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn a_public_url_is_a_host_and_an_origin() {
    for (url, host, origin) in [
        ("https://app.example", "app.example", "https://app.example"),
        ("https://app.example:8443/chat/", "app.example", "https://app.example:8443"),
        ("wss://app.example", "app.example", "https://app.example"),
        ("http://[::2]/", "[::2]", "http://[::2]"),
    ] {
        assert_eq!(read_public_url(url), Ok((host.to_owned(), origin.to_owned())), "{url}");
    }
    for url in
        ["app.example", "*", "null", "https://*.app.example", "ftp://app.example", "https://me@a.example"]
    {
        assert!(read_public_url(url).is_err(), "{url}");
    }
}

#[test]
fn the_log_says_which_option_allows_what_was_refused() {
    let advice = |name: &str, value: &str, refusal| advice(&head(&[(name, value.as_bytes())]), refusal);
    assert_eq!(
        advice("Host", "Box.example:3001", Refusal::Host).unwrap(),
        "Host \"Box.example:3001\" is not allowed; --allow-host Box.example (allow_hosts) allows it"
    );
    assert_eq!(
        advice("Origin", "https://app.example", Refusal::Origin).unwrap(),
        "Origin \"https://app.example\" is not allowed; --allow-origin https://app.example (allow_origins) allows it"
    );
    assert_eq!(advice("Origin", "a\u{1b}b", Refusal::Origin).unwrap(), "Origin \"a\\u{1b}b\" is not allowed");
    assert!(advice("Origin", &"x".repeat(10_000), Refusal::Origin).unwrap().len() < 300);
    assert_eq!(advice("Origin", "https://app.example", Refusal::Token), None);
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
