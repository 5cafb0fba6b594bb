//! Server configuration.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::handshake::{self, Network};
use crate::protocol::limits::Limits;
use crate::protocol::uuid::Uuid;

/// A client's id. The server makes it when the client connects, and sends it in `server:connected`.
pub type ClientId = Uuid;

/// Longest duration that is used; a longer one is forever too. A time with this added to it is still a valid time.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// What hyper needs.
const MIN_HEAD_BYTES: usize = 8 << 10;
/// Enough for a short request, and for an error response.
const MIN_MESSAGE_BYTES: usize = 256;

/// The settings of a [`Server`](super::Server). Every field has a default that is safe on a developer's machine.
///
/// ```
/// use switchboard::Config;
/// let mut config = Config::default().port(0).on_connection(|id| println!("{id} connected"));
/// config.limits.rate_max_requests = 1000;
/// ```
#[derive(Clone)]
pub struct Config {
    /// The host to listen on: a name or an address. Every address that a name resolves to is bound.
    ///
    /// Default `localhost`. An address that is not loopback can be reached from other machines, so it needs a
    /// [`token`](Config::token) or [`insecure`](Config::insecure).
    pub host: String,
    /// The port; 0 lets the system choose one.
    ///
    /// Default 3001.
    pub port: u16,
    /// How many ports are tried, in ascending order, while they are in use.
    ///
    /// Default 10, as in the specification.
    pub max_port_attempts: u16,
    /// Whether a port that is in use is an error, instead of a reason to try the next one.
    ///
    /// Default false.
    pub exact_port: bool,
    /// Hosts that are accepted in `Host` besides those that the address allows, like `app.example`, or `*.app.example` for its
    /// subdomains.
    ///
    /// Default none. On loopback, `localhost`, its subdomains and loopback addresses are always allowed.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages may connect besides those that are always allowed: `https://app.example`, `https://*.app.example` for
    /// its subdomains, `vscode-webview://*` for all of a scheme, `null` for files. With `*` every page that a user opens can
    /// use this server.
    ///
    /// Default none. Always allowed are the server's own pages, whose origin is the request's `Host`, if that is a loopback name,
    /// an address or one of [`allow_hosts`](Config::allow_hosts); and pages of this machine, on loopback.
    pub allow_origins: Vec<String>,
    /// The URL at which browsers reach the server, like `https://app.example` behind a proxy. Its host and its origin are allowed,
    /// as if they were in [`allow_hosts`](Config::allow_hosts) and [`allow_origins`](Config::allow_origins).
    ///
    /// Default none.
    pub public_url: Option<String>,
    /// The token that clients must send before anything else.
    ///
    /// Default none.
    pub token: Option<String>,
    /// Lets a server without a token listen on addresses that are not loopback.
    ///
    /// Default false.
    pub insecure: bool,
    /// Most clients at the same time. Further ones get 503.
    ///
    /// Default 10 000.
    pub max_connections: usize,
    /// Most clients of one address at the same time; IPv6 addresses count by their /64 network. Further ones get 429.
    ///
    /// Default `usize::MAX`, so only `max_connections` counts: many people can share an address. Behind a proxy, name it in
    /// [`trusted_proxies`](Config::trusted_proxies) before you set this.
    pub max_connections_per_address: usize,
    /// Most clients with one identity at the same time, such as the tabs of a user. Further ones get 429; one that offers
    /// `switchboard.v1`, or sends its credential on channel `auth`, is closed with 1013 instead. It needs an authenticator:
    /// see [`Server::authenticate`](super::Server::authenticate).
    ///
    /// Default `usize::MAX`, so only `max_connections` counts: what a user may have depends on the app. What is shared in turns
    /// is shared by identity even so.
    pub max_connections_per_identity: usize,
    /// Most upgraded clients that must still authenticate. They do not count among
    /// [`max_connections`](Config::max_connections). At the limit, the oldest one of the address that has most is closed
    /// with 1008.
    ///
    /// Default 256.
    pub max_unauthenticated: usize,
    /// Most wrong tokens from one address before further attempts have to wait, each for another
    /// [`wrong_token_pause`](Config::wrong_token_pause). An attempt during the pause is refused: 429, or close 1008. If
    /// the token has 16 bytes or more, the right one is accepted even then: it cannot be guessed, and others at the same
    /// address could keep its owner out.
    ///
    /// Default 10.
    pub max_wrong_tokens: u32,
    /// The pause after a wrong token, once an address has sent [`max_wrong_tokens`](Config::max_wrong_tokens).
    ///
    /// Default 1 s: a random token of 16 characters is out of reach.
    pub wrong_token_pause: Duration,
    /// Proxies, as addresses or networks like `10.0.0.0/8`, whose `X-Forwarded-For` names the client's address.
    ///
    /// Default none.
    pub trusted_proxies: Vec<String>,
    /// Makes all clients of an address share one rate window, which outlives their connections. Do not turn it on behind a
    /// proxy that is not in [`trusted_proxies`](Config::trusted_proxies): all clients would share its window.
    ///
    /// Default false.
    pub rate_by_address: bool,
    /// Makes all clients of an identity share one rate window, which outlives their connections. It goes before
    /// [`rate_by_address`](Config::rate_by_address), so with both a user does not share the window of others at the same
    /// address. It needs an authenticator: see [`Server::authenticate`](super::Server::authenticate).
    ///
    /// Default false.
    pub rate_by_identity: bool,
    /// On Linux, refuses upgrades, pages and `/metrics` on loopback to processes of other users of the machine, except root,
    /// with 403. It applies only while neither a token, an allowed host or origin, nor a proxy is configured, and not to requests
    /// of the embedder's own hyper server. Each connection costs a look into the kernel's list of sockets, which takes longer
    /// the more there are on the machine; connections that come meanwhile share the next one.
    ///
    /// Default false.
    pub same_user: bool,
    /// Most bytes that all clients together hold in messages being received, payloads of requests in flight and bytes that
    /// wait to be sent, as far as a client holds more than 64 KiB. Events are not counted: each is in memory once. A message
    /// that finds no room is not read until there is. Meanwhile clients that have had room for 5 s and neither complete
    /// their message nor take any of their answers are closed with 1008 or cut.
    ///
    /// Default 256 MiB: sixteen messages of the largest size.
    pub max_buffered_bytes: usize,
    /// How long a message can wait for room in [`max_buffered_bytes`](Config::max_buffered_bytes). Then its client is closed
    /// with 1013.
    ///
    /// Default 10 s.
    pub memory_timeout: Duration,
    /// Most groups that have members. [`Connection::join`](super::Connection::join) of a further one fails.
    ///
    /// Default 100 000, ten for each client at most: about 50 MiB.
    pub max_groups: usize,
    /// Most groups that one connection is in. [`Connection::join`](super::Connection::join) of a further one fails.
    ///
    /// Default 100.
    pub max_groups_per_connection: usize,
    /// Most connections whose HTTP request has not been answered yet. At the limit, the oldest one of the address that has
    /// most is cut, and the newcomer takes its place at once. The address is that of the connection: a proxy's, too.
    ///
    /// Default 1 024.
    pub max_handshakes: usize,
    /// How long a connection may take from its first byte to the response to its HTTP request. Then it is cut. An authenticator
    /// can take as long again.
    ///
    /// Default 10 s.
    pub handshake_timeout: Duration,
    /// Most calls of the authenticator of [`Server::authenticate`](super::Server::authenticate) at the same time. Further ones
    /// wait, in turns by address; one that waits and runs longer than `handshake_timeout` is dropped: its client gets 503, or
    /// `TIMEOUT` on channel `auth`.
    ///
    /// Default 64: more than a pool of database connections usually has.
    pub max_authentications: usize,
    /// Longest head of an HTTP request, in bytes; at least 8 KiB. A longer one gets 431.
    ///
    /// Default 16 KiB; nginx takes 8 KiB a line, hyper 400 KiB.
    pub max_head_bytes: usize,
    /// Most handlers of [`Server::on_get`](super::Server::on_get) that run at the same time. Further requests wait, in turns by
    /// address; after `handshake_timeout` they get 503. Sending a page takes none of these places.
    ///
    /// Default 32; a browser opens 6 connections to a server.
    #[cfg(feature = "pages")]
    pub max_pages: usize,
    /// Most requests for pages of [`Server::on_get`](super::Server::on_get) that are being answered at the same time, from the
    /// end of their heads until the page is sent. At the limit, the oldest one of the address that has most is cut. A page
    /// made of bytes is in memory until it is sent; see [`Page::file`](super::Page::file).
    ///
    /// Default 256.
    #[cfg(feature = "pages")]
    pub max_open_pages: usize,
    /// How long the handler of a page may take, and how long sending the page. Then the connection is cut.
    ///
    /// Default 60 s: 32 MiB at 5 Mbit/s.
    #[cfg(feature = "pages")]
    pub page_timeout: Duration,
    /// Serves `/healthz`: 200 while the server runs.
    ///
    /// Default false.
    #[cfg(feature = "pages")]
    pub serve_health: bool,
    /// Serves `/metrics` in the text format of Prometheus. If there is a token, requests must send it.
    ///
    /// Default false.
    #[cfg(feature = "pages")]
    pub serve_metrics: bool,
    /// Serves the console at `/`: a status page, visible to anyone who can connect. It asks for the token, if there is one.
    ///
    /// Default false.
    #[cfg(feature = "pages")]
    pub serve_console: bool,
    /// Serves the client in JavaScript: `/client.js` and `/react.js`, and their types `/client.d.ts` and `/react.d.ts`.
    ///
    /// Default false.
    #[cfg(feature = "pages")]
    pub serve_client: bool,
    /// The limits of each client.
    pub limits: Limits,
    /// Called with each client that is ready for requests and events. It must not block.
    pub on_connection: Option<Callback<ClientId>>,
    /// Called once for each client that `on_connection` was called with. It must not block.
    pub on_disconnection: Option<Callback<ClientId>>,
    /// Called with each failure that is not reported to any client. It must not block.
    pub on_error: Option<Callback<ServerError>>,
}

/// A function that the server calls. A panic in it is contained, and reported to `on_error`.
pub type Callback<T> = Arc<dyn Fn(T) + Send + Sync>;

/// A failure that is not reported to any client.
#[derive(Debug)]
pub enum ServerError {
    /// A handler panicked. Its client got `HANDLER_ERROR` `Internal error`; no other client is affected.
    HandlerPanicked {
        /// The channel of the request.
        channel: String,
    },
    /// A callback of [`Config`], or an observer, panicked.
    CallbackPanicked,
    /// An event is longer than `max_message_bytes`. It was not sent.
    EventTooBig {
        /// The event's channel.
        channel: String,
        /// Its length.
        bytes: usize,
    },
    /// A connection could not be accepted, for example because file descriptors ran out. The server tries again after a
    /// pause.
    Accept(io::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::HandlerPanicked { channel } => write!(f, "handler of {channel} panicked"),
            ServerError::CallbackPanicked => f.write_str("callback panicked"),
            ServerError::EventTooBig { channel, bytes } => {
                write!(f, "event on {channel} of {bytes} bytes is over the limit")
            }
            ServerError::Accept(error) => write!(f, "connection cannot be accepted: {error}"),
        }
    }
}

impl std::error::Error for ServerError {}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "localhost".to_owned(),
            port: 3001,
            max_port_attempts: 10,
            exact_port: false,
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            public_url: None,
            token: None,
            insecure: false,
            max_connections: 10_000,
            max_connections_per_address: usize::MAX,
            max_connections_per_identity: usize::MAX,
            max_unauthenticated: 256,
            max_wrong_tokens: 10,
            wrong_token_pause: Duration::from_secs(1),
            trusted_proxies: Vec::new(),
            rate_by_address: false,
            rate_by_identity: false,
            same_user: false,
            max_buffered_bytes: 256 << 20,
            memory_timeout: Duration::from_secs(10),
            max_groups: 100_000,
            max_groups_per_connection: 100,
            max_handshakes: 1_024,
            handshake_timeout: Duration::from_secs(10),
            max_authentications: 64,
            max_head_bytes: 16 << 10,
            #[cfg(feature = "pages")]
            max_pages: 32,
            #[cfg(feature = "pages")]
            max_open_pages: 256,
            #[cfg(feature = "pages")]
            page_timeout: Duration::from_secs(60),
            #[cfg(feature = "pages")]
            serve_health: false,
            #[cfg(feature = "pages")]
            serve_metrics: false,
            #[cfg(feature = "pages")]
            serve_console: false,
            #[cfg(feature = "pages")]
            serve_client: false,
            limits: Limits::default(),
            on_connection: None,
            on_disconnection: None,
            on_error: None,
        }
    }
}

impl Config {
    /// The same settings on another port.
    ///
    /// ```
    /// let config = switchboard::Config::default().port(8080);
    /// assert_eq!(config.port, 8080);
    /// ```
    pub fn port(mut self, port: u16) -> Config {
        self.port = port;
        self
    }

    /// The same settings on this port and no other: [`start`](super::Server::start) fails if it is in use.
    ///
    /// ```
    /// let config = switchboard::Config::default().port(8080).exact_port();
    /// assert!(config.exact_port);
    /// ```
    pub fn exact_port(mut self) -> Config {
        self.exact_port = true;
        self
    }

    /// The same settings on another host.
    ///
    /// ```
    /// let config = switchboard::Config::default().host("192.168.1.20").token("a long random text");
    /// assert_eq!(config.host, "192.168.1.20");
    /// ```
    pub fn host(mut self, host: impl Into<String>) -> Config {
        self.host = host.into();
        self
    }

    /// The same settings with a token that clients must send.
    ///
    /// ```
    /// let config = switchboard::Config::default().token("a long random text");
    /// assert!(config.token.is_some());
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Config {
        self.token = Some(token.into());
        self
    }

    /// The same settings with the URL at which browsers reach the server.
    ///
    /// ```
    /// let config = switchboard::Config::default().public_url("https://app.example");
    /// assert_eq!(config.public_url.as_deref(), Some("https://app.example"));
    /// ```
    pub fn public_url(mut self, url: impl Into<String>) -> Config {
        self.public_url = Some(url.into());
        self
    }

    /// The same settings with a function that is called with each client that is ready.
    ///
    /// ```
    /// let config = switchboard::Config::default().on_connection(|id| println!("{id} connected"));
    /// # let _ = config;
    /// ```
    pub fn on_connection(mut self, callback: impl Fn(ClientId) + Send + Sync + 'static) -> Config {
        self.on_connection = Some(Arc::new(callback));
        self
    }

    /// The same settings with a function that is called with each client that has left.
    ///
    /// ```
    /// let config = switchboard::Config::default().on_disconnection(|id| println!("{id} disconnected"));
    /// # let _ = config;
    /// ```
    pub fn on_disconnection(mut self, callback: impl Fn(ClientId) + Send + Sync + 'static) -> Config {
        self.on_disconnection = Some(Arc::new(callback));
        self
    }

    /// The same settings with a function that is called with each failure that is not reported to any client.
    ///
    /// ```
    /// let config = switchboard::Config::default().on_error(|error| eprintln!("{error}"));
    /// # let _ = config;
    /// ```
    pub fn on_error(mut self, callback: impl Fn(ServerError) + Send + Sync + 'static) -> Config {
        self.on_error = Some(Arc::new(callback));
        self
    }

    /// Limits every duration, so that the end of one can always be calculated, and allows the host and origin of the public URL.
    pub(super) fn bounded(mut self) -> Config {
        if let Some(Ok((host, origin))) = self.public_url.as_deref().map(handshake::read_public_url) {
            self.allow_hosts.push(host);
            self.allow_origins.push(origin);
        }
        let limits = &mut self.limits;
        let durations = [
            &mut limits.rate_window,
            &mut limits.handler_timeout,
            &mut limits.idle_timeout,
            &mut limits.auth_timeout,
            &mut limits.expiry_notice,
            &mut limits.close_timeout,
            &mut limits.soft_outbox_timeout,
            &mut limits.send_timeout,
            &mut self.wrong_token_pause,
            &mut self.memory_timeout,
            &mut self.handshake_timeout,
            #[cfg(feature = "pages")]
            &mut self.page_timeout,
        ];
        for duration in durations.into_iter().chain(&mut limits.ping_interval) {
            *duration = MAX_DURATION.min(*duration);
        }
        self
    }

    /// Rejects settings that cannot work.
    pub(super) fn check(&self) -> io::Result<()> {
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if self.token.as_deref() == Some("") {
            return invalid("the token is empty".to_owned());
        }
        let (limits, message) = (&self.limits, MIN_MESSAGE_BYTES);
        for (name, value, least) in [
            ("max_port_attempts", usize::from(self.max_port_attempts), 1),
            ("max_connections", self.max_connections, 1),
            ("max_connections_per_address", self.max_connections_per_address, 1),
            ("max_connections_per_identity", self.max_connections_per_identity, 1),
            ("max_unauthenticated", self.max_unauthenticated, 1),
            ("max_wrong_tokens", usize::from(self.max_wrong_tokens > 0), 1),
            ("max_handshakes", self.max_handshakes, 1),
            ("max_authentications", self.max_authentications, 1),
            ("max_head_bytes", self.max_head_bytes, MIN_HEAD_BYTES),
            #[cfg(feature = "pages")]
            ("max_pages", self.max_pages, 1),
            #[cfg(feature = "pages")]
            ("max_open_pages", self.max_open_pages, 1),
            ("max_message_bytes", limits.max_message_bytes, message),
            ("max_unauthenticated_message_bytes", limits.max_unauthenticated_message_bytes, message),
            ("rate_max_bytes", limits.rate_max_bytes, 1),
            ("max_in_flight", limits.max_in_flight, 1),
            ("max_auth_attempts", usize::from(limits.max_auth_attempts > 0), 1),
        ] {
            if value < least {
                return invalid(format!("{name} is {value}, at least {least} is needed"));
            }
        }
        for (name, duration) in [
            ("rate_window", limits.rate_window),
            ("handler_timeout", limits.handler_timeout),
            ("ping_interval", limits.ping_interval.unwrap_or(Duration::MAX)),
            ("idle_timeout", limits.idle_timeout),
            ("auth_timeout", limits.auth_timeout),
            ("send_timeout", limits.send_timeout),
            ("handshake_timeout", self.handshake_timeout),
            #[cfg(feature = "pages")]
            ("page_timeout", self.page_timeout),
        ] {
            // Timers have a precision of one millisecond.
            if duration < Duration::from_millis(1) {
                return invalid(format!("{name} is {duration:?}, at least 1 ms is needed"));
            }
        }
        self.check_names().or_else(invalid)?;
        if let Some(proxy) = self.trusted_proxies.iter().find(|proxy| proxy.parse::<Network>().is_err()) {
            return invalid(format!(
                "trusted_proxies: {proxy} is neither an address nor a network like 10.0.0.0/8"
            ));
        }
        Ok(())
    }
}

impl Config {
    /// Rejects hosts and origins that no request can match.
    fn check_names(&self) -> Result<(), String> {
        let host = |host: &String| {
            handshake::check_allowed_host(host).map_err(|never| format!("allow_hosts: {never}"))
        };
        self.allow_hosts.iter().try_for_each(host)?;
        let origin = |origin: &String| {
            handshake::check_allowed_origin(origin).map_err(|never| format!("allow_origins: {never}"))
        };
        self.allow_origins.iter().try_for_each(origin)?;
        let url = self.public_url.as_deref().map(handshake::read_public_url).transpose();
        url.map(drop).map_err(|never| format!("public_url: {never}"))
    }
}

impl fmt::Debug for Config {
    /// Shows where the server listens, and never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}
