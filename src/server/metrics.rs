//! Counters. Input: the counts of each client's task. Output: [`Stats`], and the same as text for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::error::ErrorCode;
use crate::protocol::session::Tally;

#[derive(Default)]
pub(super) struct Metrics {
    pub(super) connections: AtomicU64,
    pub(super) events_sent: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    requests: AtomicU64,
    errors: [AtomicU64; 7],
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
    /// Error responses sent, by `ErrorCode as usize`.
    pub errors: [u64; 7],
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
    }

    pub(super) fn stats(&self, uptime_ms: u64, clients: usize) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            uptime_ms,
            clients,
            connections: read(&self.connections),
            requests: read(&self.requests),
            errors: self.errors.each_ref().map(read),
            events_sent: read(&self.events_sent),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
        }
    }
}

impl Stats {
    /// Error responses with this code.
    pub fn errors_with(&self, code: ErrorCode) -> u64 {
        self.errors[code as usize]
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
        for (code, count) in ErrorCode::ALL.into_iter().zip(self.errors) {
            let _ = writeln!(text, "switchboard_errors_total{{code=\"{code}\"}} {count}");
        }
        text
    }
}
