//! Every limit of a connection, in one place. Nothing in the protocol or the server grows or waits without one.

use std::time::Duration;

/// What one client may take of the server. Each field says what happens at the limit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest message in either direction, in bytes. A larger one from the client closes with 1009; a larger
    /// response turns into `HANDLER_ERROR`; a larger event is not sent and reported to `on_error`.
    ///
    /// Default 16 MiB, as in Bun. Memory is taken as bytes arrive, never for what a header announces.
    pub max_message_bytes: usize,
    /// Most messages in one rate window. The next ones are answered with `RATE_LIMITED`. 0 refuses every message.
    ///
    /// Default 100, as in the specification.
    pub rate_max_requests: u32,
    /// Length of the rate window, which opens with the first message after the last one ended.
    ///
    /// Default 1 s, as in the specification.
    pub rate_window: Duration,
    /// Most requests of one client whose handlers wait at the same time. At the limit nothing more is read from that
    /// client until one ends; TCP then slows the client down.
    ///
    /// Default 256; HTTP/2 servers allow 100 to 256 streams.
    pub max_in_flight: usize,
    /// How long a handler may take unless its channel says otherwise. Then it is dropped and the request answered
    /// with `TIMEOUT`.
    ///
    /// Default 30 s, as the client of the specification waits.
    pub handler_timeout: Duration,
    /// Silence after which a ping is sent, and again after each further interval. `None` sends none: a client that
    /// says nothing for the whole `idle_timeout` is then closed however alive it is.
    ///
    /// Default 30 s: nginx drops a proxied connection after 60 s.
    pub ping_interval: Option<Duration>,
    /// Silence, pongs included, after which the connection closes with 1001 `idle timeout`.
    ///
    /// Default 120 s, as in the specification.
    pub idle_timeout: Duration,
    /// How long a client may take to authenticate when a token is set. Then it is closed with 1008.
    ///
    /// Default 10 s.
    pub auth_timeout: Duration,
    /// How long the other end may take to answer a close frame and to read what is left. Then the connection is cut.
    ///
    /// Default 5 s.
    pub close_timeout: Duration,
    /// Most bytes that may wait for a client behind the message that is being written, which may itself be as large
    /// as a message may be. Past it the client is closed with 1008 `slow consumer`. An event is never dropped
    /// silently. While anything waits, nothing is read from the client, so requests alone cannot fill it.
    ///
    /// Default 4 MiB.
    pub max_outbox_bytes: usize,
    /// How long a client may take none of the bytes that wait for it. Then it is closed with 1008 `slow consumer`.
    ///
    /// Default 30 s; nginx's `send_timeout` is 60 s.
    pub send_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_message_bytes: 16 << 20,
            rate_max_requests: 100,
            rate_window: Duration::from_secs(1),
            max_in_flight: 256,
            handler_timeout: Duration::from_secs(30),
            ping_interval: Some(Duration::from_secs(30)),
            idle_timeout: Duration::from_secs(120),
            auth_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_outbox_bytes: 4 << 20,
            send_timeout: Duration::from_secs(30),
        }
    }
}
