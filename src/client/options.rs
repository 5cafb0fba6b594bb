//! The settings of a client.

use std::fmt;
use std::time::Duration;

use crate::protocol::caller::CallerLimits;

use super::source::Source;

/// The settings of a [`Client`](super::Client). The defaults are those of the specification.
///
/// ```
/// use std::time::Duration;
/// use switchboard::client::ClientOptions;
///
/// let options = ClientOptions { request_timeout: Duration::from_secs(5), ..ClientOptions::default() };
/// assert!(options.reconnect);
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// Whether a connection that was lost is opened again.
    ///
    /// Default true.
    pub reconnect: bool,
    /// The pause before the first attempt. Each further one is 1.5 times as long, up to 30 s, with a random variation of 20 %.
    ///
    /// Default 1 s.
    pub reconnect_interval: Duration,
    /// Attempts before `connection:failed`, since the last connection that was stable.
    ///
    /// Default 10.
    pub max_reconnect_attempts: u32,
    /// A connection is stable if it lives this long after `server:connected`. Then the count of attempts starts again.
    ///
    /// Default 5 s, as in reconnecting-websocket; a server that accepts connections and drops them is not tried forever.
    pub stable_after: Duration,
    /// How long a call may take. Then it ends with `TIMEOUT`.
    ///
    /// Default 30 s.
    pub request_timeout: Duration,
    /// How long one attempt to connect may take, upgrade included.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Most calls without an answer. Further calls wait until one has ended.
    ///
    /// Default 1 024.
    pub max_pending: usize,
    /// The token to send in `Authorization: Bearer`.
    ///
    /// Default none.
    pub token: Option<String>,
    /// Asked for the token at each attempt, when the server reports that the present one expires, and after close 4401; used
    /// instead of [`token`](ClientOptions::token).
    ///
    /// Default none.
    pub token_source: Option<Source>,
    /// Further headers of the upgrade, such as a cookie: names and values. Those of the handshake itself are not allowed, and
    /// `Authorization` only without a token.
    ///
    /// Default none.
    pub headers: Vec<(String, String)>,
    /// Certificates, in PEM, of authorities that are trusted for `wss://` besides those of the system.
    ///
    /// Default none.
    #[cfg(feature = "backend")]
    pub ca_certificates: Option<String>,
    /// The limits of each connection.
    pub limits: CallerLimits,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            reconnect: true,
            reconnect_interval: Duration::from_secs(1),
            max_reconnect_attempts: 10,
            stable_after: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_pending: 1024,
            token: None,
            token_source: None,
            headers: Vec::new(),
            #[cfg(feature = "backend")]
            ca_certificates: None,
            limits: CallerLimits::default(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    /// Shows neither the token nor the headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("reconnect", &self.reconnect)
            .field("reconnect_interval", &self.reconnect_interval)
            .field("max_reconnect_attempts", &self.max_reconnect_attempts)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
