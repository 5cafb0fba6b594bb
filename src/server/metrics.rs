//! Counters. Input: the counts of each client's task. Output: [`Stats`], and the same as text for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::error::ErrorCode;
use crate::protocol::session::{Ending, Tally};

/// A limit whose effects are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limited {
    /// A connection was cut before its HTTP request was complete: a newer one took its place
    /// ([`Config::max_handshakes`](super::Config::max_handshakes)).
    Handshakes,
    /// A client was closed before it had authenticated: a newer one took its place
    /// ([`Config::max_unauthenticated`](super::Config::max_unauthenticated)).
    Unauthenticated,
    /// A client was refused: the server is full ([`Config::max_connections`](super::Config::max_connections)).
    Connections,
    /// A client was refused: its address has too many
    /// ([`Config::max_connections_per_address`](super::Config::max_connections_per_address)).
    Address,
    /// An attempt was refused because of earlier wrong tokens
    /// ([`Config::max_wrong_tokens`](super::Config::max_wrong_tokens)).
    WrongTokens,
    /// A client was closed after too many refused messages, or frames without a message
    /// ([`Limits::rate_max_requests`](crate::protocol::limits::Limits::rate_max_requests)).
    Refusals,
    /// A client was closed because of the memory that it held or waited for
    /// ([`Config::max_buffered_bytes`](super::Config::max_buffered_bytes)).
    Memory,
    /// A client was closed because it read too slowly
    /// ([`Limits::soft_outbox_bytes`](crate::protocol::limits::Limits::soft_outbox_bytes)).
    SlowConsumers,
    /// A page was cut before it was sent: a newer one took its place.
    Pages,
    /// A client was refused: its identity has too many connections
    /// ([`Config::max_connections_per_identity`](super::Config::max_connections_per_identity)).
    Identity,
}

impl Limited {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limited; 10] = [
        Limited::Handshakes,
        Limited::Unauthenticated,
        Limited::Connections,
        Limited::Address,
        Limited::WrongTokens,
        Limited::Refusals,
        Limited::Memory,
        Limited::SlowConsumers,
        Limited::Pages,
        Limited::Identity,
    ];

    /// The value of the label `limit` in `/metrics`.
    pub fn as_str(self) -> &'static str {
        match self {
            Limited::Handshakes => "handshakes",
            Limited::Unauthenticated => "unauthenticated",
            Limited::Connections => "connections",
            Limited::Address => "address",
            Limited::WrongTokens => "wrong_tokens",
            Limited::Refusals => "refusals",
            Limited::Memory => "memory",
            Limited::SlowConsumers => "slow_consumers",
            Limited::Pages => "pages",
            Limited::Identity => "identity",
        }
    }
}

/// What has happened to a credential.
#[derive(Debug, Clone, Copy)]
pub(super) enum Credential {
    Accepted,
    Renewed,
    Refused,
}

/// The values of the label `result` of the counts of credentials.
const CREDENTIALS: [&str; 3] = ["accepted", "renewed", "refused"];

/// How connections end that are counted apart: who closed first, and the code. 0 is any other code.
const ENDED: [(&str, u16); 15] = [
    ("client", 1000),
    ("client", 1001),
    ("client", 1005),
    ("client", 0),
    ("server", 1000),
    ("server", 1001),
    ("server", 1002),
    ("server", 1007),
    ("server", 1008),
    ("server", 1009),
    ("server", 1013),
    ("server", 4401),
    ("server", 4403),
    ("server", 0),
    ("none", 1006),
];

/// The place of an ending in [`ENDED`].
fn kind(ending: &Ending) -> Option<usize> {
    let by = match ending.code {
        _ if ending.by_client => "client",
        1006 => "none",
        _ => "server",
    };
    let find = |code| ENDED.iter().position(|known| *known == (by, code));
    find(ending.code).or_else(|| find(0))
}

/// The statuses of refusals that are counted.
const REFUSED: [u16; 7] = [400, 401, 403, 426, 429, 500, 503];

#[derive(Default)]
pub(super) struct Metrics {
    pub(super) connections: AtomicU64,
    pub(super) events_sent: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    requests: AtomicU64,
    errors: [AtomicU64; ErrorCode::COUNTERS],
    limited: [AtomicU64; Limited::ALL.len()],
    refused: [AtomicU64; REFUSED.len()],
    ended: [AtomicU64; ENDED.len()],
    credentials: [AtomicU64; CREDENTIALS.len()],
}

/// The counters of a server since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Time since the server was made.
    pub uptime_ms: u64,
    /// Clients that are connected now.
    pub clients: usize,
    /// Clients that have connected, in total.
    pub connections: u64,
    /// Messages received.
    pub requests: u64,
    /// Error responses sent, by [`ErrorCode::index`]. The last counter is that of all codes of the app.
    pub errors: [u64; ErrorCode::COUNTERS],
    /// What limits have ended or refused, by `Limited as usize`.
    pub limited: [u64; Limited::ALL.len()],
    /// Clients and requests for pages that were refused, in the order of [`Stats::REFUSED`].
    pub refused: [u64; REFUSED.len()],
    /// Connections that have ended, in the order of [`Stats::ENDED`].
    pub ended: [u64; ENDED.len()],
    /// Credentials of clients that were accepted, renewed and refused.
    pub credentials: [u64; CREDENTIALS.len()],
    /// Events sent, once for each client.
    pub events_sent: u64,
    /// Bytes received after the upgrade.
    pub bytes_in: u64,
    /// Bytes sent after the upgrade.
    pub bytes_out: u64,
}

impl Metrics {
    pub(super) fn add(&self, tally: Tally) {
        if tally.requests > 0 {
            self.requests.fetch_add(tally.requests.into(), Ordering::Relaxed);
        }
        for (total, count) in self.errors.iter().zip(tally.errors) {
            if count > 0 {
                total.fetch_add(count.into(), Ordering::Relaxed);
            }
        }
        if tally.closed_for_refusals {
            self.limited(Limited::Refusals);
        }
        if tally.closed_for_tokens {
            self.limited(Limited::WrongTokens);
        }
    }

    /// Counts an effect of a limit.
    pub(super) fn limited(&self, limit: Limited) {
        if let Some(count) = self.limited.get(limit as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a refused request.
    pub(super) fn refused(&self, status: u16) {
        if let Some(at) = REFUSED.iter().position(|known| *known == status)
            && let Some(count) = self.refused.get(at)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection that has ended.
    pub(super) fn ended(&self, ending: &Ending) {
        if let Some(count) = kind(ending).and_then(|kind| self.ended.get(kind)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a credential of a client.
    pub(super) fn credential(&self, credential: Credential) {
        if let Some(count) = self.credentials.get(credential as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self, uptime_ms: u64, clients: usize) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            uptime_ms,
            clients,
            connections: read(&self.connections),
            requests: read(&self.requests),
            errors: self.errors.each_ref().map(read),
            limited: self.limited.each_ref().map(read),
            refused: self.refused.each_ref().map(read),
            ended: self.ended.each_ref().map(read),
            credentials: self.credentials.each_ref().map(read),
            events_sent: read(&self.events_sent),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
        }
    }
}

impl Stats {
    /// Error responses with this code. Codes of the app are counted together.
    pub fn errors_with(&self, code: ErrorCode) -> u64 {
        self.errors[code.index()]
    }

    /// The statuses of refusals that are counted. A client that is refused after its upgrade counts with the status that it would
    /// have got before; see [`Refused::status`](super::Refused::status).
    pub const REFUSED: [u16; 7] = REFUSED;

    /// Requests that were refused with a status.
    pub fn refused_with(&self, status: u16) -> u64 {
        let counts = REFUSED.iter().zip(self.refused);
        counts.filter(|(known, _)| **known == status).map(|(_, count)| count).sum()
    }

    /// How connections end that are counted apart: `client` or `server`, which closed first, or `none` for a connection that was
    /// lost, and the close code. 0 is any other code.
    pub const ENDED: [(&'static str, u16); ENDED.len()] = ENDED;

    /// Connections that have ended in a way of [`Stats::ENDED`].
    ///
    /// ```
    /// # let stats = switchboard::Server::new(switchboard::Config::default()).stats();
    /// assert_eq!(stats.ended_with("server", 1008), 0);
    /// ```
    pub fn ended_with(&self, by: &str, code: u16) -> u64 {
        let counts = ENDED.iter().zip(self.ended);
        counts.filter(|(known, _)| **known == (by, code)).map(|(_, count)| count).sum()
    }

    /// What a limit has ended or refused.
    pub fn limited_by(&self, limit: Limited) -> u64 {
        self.limited[limit as usize]
    }

    /// The counters in the text format of Prometheus, version 0.0.4.
    #[cfg(feature = "pages")]
    pub(super) fn prometheus(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "# HELP switchboard_{name} {help}\n# TYPE switchboard_{name} {kind}\nswitchboard_{name} {value}\n"
            );
        };
        metric("uptime_seconds", "gauge", "Time since the server was made.", self.uptime_ms / 1000);
        metric("clients", "gauge", "Clients that are connected.", self.clients as u64);
        metric("connections_total", "counter", "Clients that have connected.", self.connections);
        metric("requests_total", "counter", "Messages received.", self.requests);
        metric("events_sent_total", "counter", "Events sent, once for each client.", self.events_sent);
        metric("bytes_in_total", "counter", "Bytes received after the upgrade.", self.bytes_in);
        metric("bytes_out_total", "counter", "Bytes sent after the upgrade.", self.bytes_out);
        text.push_str("# HELP switchboard_errors_total Error responses sent.\n");
        text.push_str("# TYPE switchboard_errors_total counter\n");
        for (code, count) in ErrorCode::labels().zip(self.errors) {
            let _ = writeln!(text, "switchboard_errors_total{{code=\"{code}\"}} {count}");
        }
        text.push_str("# HELP switchboard_refused_total Clients and requests for pages that were refused.\n");
        text.push_str("# TYPE switchboard_refused_total counter\n");
        for (status, count) in REFUSED.into_iter().zip(self.refused) {
            let _ = writeln!(text, "switchboard_refused_total{{status=\"{status}\"}} {count}");
        }
        text.push_str("# HELP switchboard_ended_total Connections that have ended, by who closed first.\n");
        text.push_str("# TYPE switchboard_ended_total counter\n");
        for ((by, code), count) in ENDED.into_iter().zip(self.ended) {
            let code = if code == 0 { "other".to_owned() } else { code.to_string() };
            let _ = writeln!(text, "switchboard_ended_total{{by=\"{by}\",code=\"{code}\"}} {count}");
        }
        text.push_str("# HELP switchboard_credentials_total Credentials that clients have sent.\n");
        text.push_str("# TYPE switchboard_credentials_total counter\n");
        for (result, count) in CREDENTIALS.into_iter().zip(self.credentials) {
            let _ = writeln!(text, "switchboard_credentials_total{{result=\"{result}\"}} {count}");
        }
        text.push_str("# HELP switchboard_limited_total Clients, requests and pages that a limit has ended or refused.\n");
        text.push_str("# TYPE switchboard_limited_total counter\n");
        for (limit, count) in Limited::ALL.into_iter().zip(self.limited) {
            let _ = writeln!(text, "switchboard_limited_total{{limit=\"{}\"}} {count}", limit.as_str());
        }
        text
    }
}
