//! The limits of a connection, in one place. Nothing in the protocol or the server grows or waits without a limit.

use std::time::Duration;

/// How much of the server one client can use. Each field documents what happens at the limit.
///
/// ```
/// use std::time::Duration;
/// use switchboard::{Config, Limits};
///
/// let limits = Limits { idle_timeout: Duration::from_secs(300), ..Limits::default() };
/// let config = Config { limits, ..Config::default() };
/// assert_eq!(config.limits.rate_max_requests, 100);
/// ```
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest message in either direction, in bytes. A larger one from the client closes with 1009; a larger
    /// response turns into `HANDLER_ERROR`; a larger event is not sent and reported to `on_error`.
    ///
    /// Default 16 MiB, as in Bun. Memory is taken as bytes arrive, never for what a header announces.
    pub max_message_bytes: usize,
    /// Largest message from a client that must still authenticate, in bytes. A larger one closes with 1009.
    ///
    /// Default 8 KiB: a request on channel `auth` with a long token.
    pub max_unauthenticated_message_bytes: usize,
    /// Most messages in one rate window. Further messages are answered with `RATE_LIMITED`, and are not decoded. 0 refuses
    /// every message. A client that has ten times this number refused in a row is closed with 1008.
    ///
    /// Default 100, as in the specification.
    pub rate_max_requests: u32,
    /// Most bytes of messages in one rate window. Once they have arrived, further messages in the window are answered with
    /// `RATE_LIMITED`. The message that passes the limit is still accepted.
    ///
    /// Default 64 MiB: four messages of the largest size.
    pub rate_max_bytes: usize,
    /// Length of the rate window, which opens with the first message after the last one ended.
    ///
    /// Default 1 s, as in the specification.
    pub rate_window: Duration,
    /// Most requests of one client in flight at the same time. At the limit nothing more is read from the client until a
    /// handler finishes; TCP then slows the client down.
    ///
    /// Default 256; HTTP/2 servers allow 100 to 256 streams.
    pub max_in_flight: usize,
    /// Most bytes of one client in payloads of requests in flight and in the message that is being received. At the limit
    /// nothing more is read from the client until a handler finishes. One message always fits.
    ///
    /// Default 32 MiB: two messages of the largest size.
    pub max_in_flight_bytes: usize,
    /// How long a handler can take, unless its channel has its own timeout. After that it is dropped and the request is
    /// answered with `TIMEOUT`.
    ///
    /// Default 30 s, as long as the specification's client waits.
    pub handler_timeout: Duration,
    /// Silence after which a ping is sent, and again after each further interval. `None` sends no pings: a client that
    /// sends nothing for the whole `idle_timeout` is then closed even if it is alive.
    ///
    /// Default 30 s: nginx drops a proxied connection after 60 s.
    pub ping_interval: Option<Duration>,
    /// Silence, pongs included, after which the connection closes with 1001 `idle timeout`.
    ///
    /// Default 120 s, as in the specification.
    pub idle_timeout: Duration,
    /// How long a client can take to authenticate on channel `auth`. After that it is closed with 1008, or with 4401 if it
    /// offered `switchboard.v1`.
    ///
    /// Default 10 s.
    pub auth_timeout: Duration,
    /// Most wrong tokens on channel `auth` of one connection; with an authenticator, since the last right one. The last of them
    /// closes it with 1008.
    ///
    /// Default 3.
    pub max_auth_attempts: u32,
    /// How long before its credential expires a client of `switchboard.v1` gets the event `auth:expiring`; at the latest, when half
    /// of the time for which the credential is valid has passed. It can send a new one on channel `auth` until it expires.
    ///
    /// Default 30 s: time to ask a slow server for a token, and once more.
    pub expiry_notice: Duration,
    /// How long the client can take to answer a close frame and to read the remaining bytes. After that the connection is
    /// cut.
    ///
    /// Default 5 s.
    pub close_timeout: Duration,
    /// Most bytes queued for a client after the message that is being written, which itself can be as large as any
    /// message. Past the limit the client is closed with 1008 `slow consumer`, once it has read the answers that are queued.
    /// An event is never dropped silently. While anything is queued, nothing is read from the client, so requests alone
    /// cannot fill the queue. An event is in memory once, however many clients it waits for.
    ///
    /// Default 128 MiB: eight events of the largest size at once. NATS has 64 MB, Redis 32 MB for subscribers.
    pub max_outbox_bytes: usize,
    /// Bytes that can be queued for a client for at most [`soft_outbox_timeout`](Limits::soft_outbox_timeout), unless it reads
    /// as much in that time.
    ///
    /// Default 8 MiB, as in Redis for subscribers.
    pub soft_outbox_bytes: usize,
    /// How long more than [`soft_outbox_bytes`](Limits::soft_outbox_bytes) can be queued for a client that reads fewer bytes
    /// than these in that time. After that it is closed with 1008 `slow consumer`. A client that reads is not slow: Redis
    /// closes it at this time in any case.
    ///
    /// Default 60 s, as in Redis for subscribers.
    pub soft_outbox_timeout: Duration,
    /// How long a client can accept none of its queued bytes. After that it is closed with 1008 `slow consumer`.
    ///
    /// Default 30 s; nginx's `send_timeout` is 60 s.
    pub send_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_message_bytes: 16 << 20,
            max_unauthenticated_message_bytes: 8 << 10,
            rate_max_requests: 100,
            rate_max_bytes: 64 << 20,
            rate_window: Duration::from_secs(1),
            max_in_flight: 256,
            max_in_flight_bytes: 32 << 20,
            handler_timeout: Duration::from_secs(30),
            ping_interval: Some(Duration::from_secs(30)),
            idle_timeout: Duration::from_secs(120),
            auth_timeout: Duration::from_secs(10),
            max_auth_attempts: 3,
            expiry_notice: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            max_outbox_bytes: 128 << 20,
            soft_outbox_bytes: 8 << 20,
            soft_outbox_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(30),
        }
    }
}
