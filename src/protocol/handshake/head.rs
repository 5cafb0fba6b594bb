//! The head of an HTTP request, and the reasons to refuse it.

/// The head of an HTTP request.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The method, `GET` for an upgrade.
    pub method: &'a str,
    /// Whether the version is HTTP/1.1, the only one that has upgrades.
    pub http_1_1: bool,
    /// The part of the target after the `?`.
    pub query: Option<&'a str>,
    /// The fields, in order.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Head<'a> {
    /// The values of a field. `name` is in lower case.
    pub(super) fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// The value of a field that may appear only once.
    pub(super) fn single(&self, name: &'static str) -> Result<Option<&'a [u8]>, ()> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(()),
        }
    }

    /// Whether a comma-separated field contains an item, whatever the case.
    pub(super) fn lists(&self, name: &'static str, item: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(item.as_bytes()))
    }

    /// The subprotocols that the client offers.
    pub(super) fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.values("sec-websocket-protocol")
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim_ascii)
    }
}

/// Why a request is not upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It does not ask for a WebSocket: an ordinary request. 426 if there is nothing to serve.
    NotAnUpgrade,
    /// It asks for a WebSocket but breaks RFC 6455, section 4.2.1. 400 `WebSocket upgrade failed`.
    Broken(&'static str),
    /// It asks for a version other than 13. 426 with `Sec-WebSocket-Version: 13` (section 4.4).
    Version,
    /// Its `Host` is not a name of this server. 403.
    Host,
    /// Its `Origin` is not allowed to connect. 403.
    Origin,
    /// It sends a wrong token. 401.
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

    /// The body of the response, for a person.
    pub fn body(self) -> &'static str {
        match self {
            Refusal::NotAnUpgrade => "This is a WebSocket server",
            Refusal::Version => "WebSocket version 13 is required",
            Refusal::Broken(_) => "WebSocket upgrade failed",
            Refusal::Host => "Host is not allowed",
            Refusal::Origin => "Origin is not allowed",
            Refusal::Token => "Token is wrong",
        }
    }
}
