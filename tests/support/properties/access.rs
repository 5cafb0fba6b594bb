//! The rules of `Host` and `Origin`, compared with a naive implementation that spells every name in one form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switchboard::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::Choices;

/// A `Host` and an `Origin` pass exactly if a naive implementation allows them. A setting that is accepted matches the name that
/// it describes; one that is refused matches nothing, and what is proposed instead is accepted. A public URL allows its pages.
///
/// The bytes are: the bind, then lines with an allowed host, an allowed origin, a `Host` and an `Origin`; an empty setting is none.
pub fn access(data: &[u8]) {
    let mut choices = Choices::new(data);
    let loopback = choices.byte() & 1 == 0;
    let text = String::from_utf8_lossy(choices.rest());
    let mut lines = text.split('\n');
    let [allowed_host, allowed_origin, host, origin] =
        [(); 4].map(|()| lines.next().unwrap_or_default().trim_ascii());
    let list = |setting: &str| if setting.is_empty() { vec![] } else { vec![setting.to_owned()] };
    let (hosts, origins) = (list(allowed_host), list(allowed_origin));
    let rules = AccessRules { loopback, allow_hosts: &hosts, allow_origins: &origins, token: None };
    verdicts_are_right(host, origin, &rules, verdicts(host, origin, &rules));

    host_setting_is_judged(
        allowed_host,
        handshake::check_allowed_host(allowed_host).map_err(|never| never.instead),
    );
    let verdict = handshake::check_allowed_origin(allowed_origin).map_err(|never| {
        let instead = never.instead.as_deref().unwrap_or_default();
        assert!(
            never.to_string().starts_with(never.reason) && never.to_string().ends_with(instead),
            "{never}"
        );
        never.instead
    });
    origin_setting_is_judged(allowed_origin, verdict);
    public_url_is_right(allowed_origin, handshake::read_public_url(allowed_origin).ok());
}

pub fn verdicts(host: &str, origin: &str, rules: &AccessRules<'_>) -> (bool, bool) {
    let headers = vec![("host", host.as_bytes()), ("origin", origin.as_bytes())];
    let head = Head { method: "GET", http_1_1: true, query: None, headers };
    for refusal in [Refusal::Host, Refusal::Origin] {
        // The log gets one short line.
        let advice = handshake::advice(&head, refusal).expect("there is one Host and one Origin");
        assert!(advice.len() < 3000 && !advice.contains(char::is_control), "{advice:?}");
    }
    (handshake::check_host(&head, rules).is_ok(), handshake::check_origin(&head, rules).is_ok())
}

pub fn verdicts_are_right(host: &str, origin: &str, rules: &AccessRules<'_>, seen: (bool, bool)) {
    let expected = (host_is_allowed(host, rules), origin_is_allowed(origin, host, rules));
    assert_eq!(seen, expected, "Host {host:?}, Origin {origin:?}: {rules:?}");
}

/// A setting for hosts is accepted exactly if the host that it describes passes.
pub fn host_setting_is_judged(setting: &str, verdict: Result<(), Option<String>>) {
    let witness = setting.replacen('*', "x", 1);
    let rules = [setting.to_owned()];
    let rules = AccessRules { loopback: true, allow_hosts: &rules, ..AccessRules::default() };
    let witness = if witness.parse::<Ipv6Addr>().is_ok() { format!("[{witness}]") } else { witness };
    match verdict {
        Ok(()) => assert!(verdicts(&witness, "", &rules).0, "{setting:?} is accepted and matches nothing"),
        Err(instead) => {
            let matches = !is_loopback_host(&witness) && verdicts(&witness, "", &rules).0;
            assert!(!matches, "{setting:?} is refused and matches {witness:?}");
            if let Some(instead) = instead {
                assert!(
                    handshake::check_allowed_host(&instead).is_ok(),
                    "{setting:?}: {instead:?} is refused too"
                );
            }
        }
    }
}

/// A setting for origins is accepted exactly if the origin that it describes passes.
pub fn origin_setting_is_judged(setting: &str, verdict: Result<(), Option<String>>) {
    let witness = setting.replacen('*', "x", 1);
    let witness = match witness.split_once("://") {
        Some((_, "")) | None => witness.as_str(),
        Some(_) => witness.strip_suffix('/').unwrap_or(&witness),
    };
    let rules = [setting.to_owned()];
    let rules = AccessRules { loopback: false, allow_origins: &rules, ..AccessRules::default() };
    let passes = verdicts("server.example", witness, &rules).1;
    match verdict {
        Ok(()) => assert!(passes, "{setting:?} is accepted and does not match {witness:?}"),
        Err(instead) => {
            assert!(!passes, "{setting:?} is refused and matches {witness:?}");
            if let Some(instead) = instead {
                let accepted = handshake::check_allowed_origin(&instead);
                assert!(accepted.is_ok(), "{setting:?}: {instead:?} is refused too");
            }
        }
    }
}

/// The host and the origin of a public URL are accepted settings. Pages at the URL may connect there, and no others.
pub fn public_url_is_right(url: &str, read: Option<(String, String)>) {
    let Some((host, origin)) = read else { return };
    let place = naive_site(&origin).unwrap_or_else(|| panic!("{url:?}: {origin:?} is not an origin"));
    assert!(place.0 == "http" || place.0 == "https", "{url:?}: {origin:?}");
    let (hosts, origins) = ([host.clone()], [origin.clone()]);
    let rules = AccessRules { loopback: true, allow_hosts: &hosts, allow_origins: &origins, token: None };
    assert_eq!(verdicts(&host, &origin, &rules), (true, true), "{url:?}");
    let other = format!("{}://other.example", place.0);
    // Pages at an allowed host are its own, on whichever port the URL is.
    let is_allowed = naive_name(&host) == "other.example";
    assert_eq!(verdicts("other.example", &other, &rules), (is_allowed, is_allowed), "{url:?}");
}

fn is_loopback_host(host: &str) -> bool {
    naive_authority(host).is_some_and(|(name, _)| is_this_machine(&name))
}

pub fn host_is_allowed(host: &str, rules: &AccessRules<'_>) -> bool {
    let Some((name, _)) = naive_authority(host) else { return false };
    if is_this_machine(&name) || is_listed(&name, rules) {
        return true;
    }
    // Beyond loopback an address is allowed: DNS rebinding needs a name.
    !rules.loopback && (rules.allow_hosts.is_empty() || is_address(&name))
}

pub fn origin_is_allowed(origin: &str, host: &str, rules: &AccessRules<'_>) -> bool {
    if rules.allow_origins.iter().any(|allowed| covers(allowed, origin)) {
        return true;
    }
    let (Some(site), Some((host, port))) = (naive_site(origin), naive_authority(host)) else { return false };
    let (scheme, name, own_port) = &site;
    let at_host = match scheme.as_str() {
        "http" => *name == host && *own_port == Some(port.unwrap_or(80)),
        "https" => *name == host && *own_port == Some(port.unwrap_or(443)),
        _ => false,
    };
    let known = is_this_machine(&host) || is_address(&host) || is_listed(&host, rules);
    at_host && known || is_this_machine(name) && (rules.loopback || is_this_machine(&host))
}

fn is_listed(name: &str, rules: &AccessRules<'_>) -> bool {
    rules.allow_hosts.iter().any(|setting| {
        let setting = setting.trim_ascii().to_lowercase();
        let bare = if setting.parse::<Ipv6Addr>().is_ok() { format!("[{setting}]") } else { setting };
        let Some((setting, _)) = naive_authority(&bare) else { return false };
        is_setting_name(&setting) && name_covers(&setting, name)
    })
}

fn covers(setting: &str, origin: &str) -> bool {
    let setting = setting.trim_ascii();
    if setting == "*" || setting.eq_ignore_ascii_case("null") && origin.eq_ignore_ascii_case("null") {
        return true;
    }
    // Several settings in one, or one that kept the quotation marks of a shell.
    let is_quoted = |mark| setting.strip_prefix(mark).is_some_and(|rest| rest.ends_with(mark));
    if setting.contains(|char: char| char == ',' || char.is_whitespace()) || is_quoted('"') || is_quoted('\'')
    {
        return false;
    }
    let whole = match setting.split_once("://") {
        Some((_, "")) | None => setting,
        Some(_) => setting.strip_suffix('/').unwrap_or(setting),
    };
    let (Some((scheme, name, port)), Some(site)) = (naive_site(whole), naive_site(origin)) else {
        return false;
    };
    if scheme == "ws" || scheme == "wss" || scheme != site.0 {
        return false;
    }
    let is_web = scheme == "http" || scheme == "https";
    if is_web && name != "*" && !is_setting_name(&name) {
        return false;
    }
    if !is_web && name == "*" {
        return true;
    }
    if !is_web && name.strip_prefix("*.").unwrap_or(&name).contains('*') {
        return false;
    }
    port == site.2 && (name == "*" || name_covers(&name, &site.1))
}

fn name_covers(setting: &str, name: &str) -> bool {
    match setting.strip_prefix("*.") {
        Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => setting == name,
    }
}

/// Names of letters, digits, `-` and `_`, addresses, and `*.` before a name.
fn is_setting_name(name: &str) -> bool {
    let labels: Vec<&str> = name.strip_prefix("*.").unwrap_or(name).split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let last = labels.last().copied().unwrap_or_default();
    let is_number = last.chars().all(|c| c.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
    let length = labels.iter().map(|label| label.len() + 1).sum::<usize>() - 1;
    is_address(name) || labels.iter().all(is_label) && !is_number && length <= 253
}

type Place = (String, String, Option<u16>);

/// Scheme, host and port, each in one spelling. The default port is written out.
fn naive_site(origin: &str) -> Option<Place> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let mut letters = scheme.chars();
    let begins = letters.next().is_some_and(|first| first.is_ascii_lowercase());
    if !begins || !letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    if authority.chars().any(|c| !c.is_ascii() || c <= ' ' || c == '\x7f' || "/?#@\\".contains(c)) {
        return None;
    }
    let split = naive_authority(authority);
    match scheme.as_str() {
        "http" => split
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, port)| (scheme, name, Some(port.unwrap_or(80)))),
        "https" => split
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, port)| (scheme, name, Some(port.unwrap_or(443)))),
        _ => {
            let (name, port) = split.unwrap_or_else(|| (naive_name(authority), None));
            Some((scheme, name, port))
        }
    }
}

/// The host of `host:port` or `[address]:port` in one spelling, and the port.
pub fn naive_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (name, rest) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (inner, rest) = inner.split_once(']')?;
            (format!("[{inner}]"), rest)
        }
        None => match authority.split_once(':') {
            Some((name, port)) => (name.to_owned(), &authority[name.len()..=name.len() + port.len()]),
            None => (authority.to_owned(), ""),
        },
    };
    let port = match rest.strip_prefix(':') {
        _ if rest.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    Some((naive_name(&name), port))
}

/// One spelling of a name: in lower case, an address in its canonical form, without a dot at the end.
fn naive_name(name: &str) -> String {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

/// A name or address that never leaves the machine.
fn is_this_machine(name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    let plain =
        |label: &&str| label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if labels.last() == Some(&"localhost") && labels.iter().all(plain) {
        return true;
    }
    match name.parse() {
        Ok(IpAddr::V4(address)) => address.octets()[0] == 127,
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => Ipv4Addr::octets(&mapped)[0] == 127,
            None => address == Ipv6Addr::LOCALHOST,
        },
        Err(_) => false,
    }
}
