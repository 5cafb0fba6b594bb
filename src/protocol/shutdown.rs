//! The end of a session because the server stops, at once or after the requests in flight. Input: the decision to stop. Output:
//! `server:shutdown`, errors for requests that get no other response, and the close frame.

use super::connection::CloseCode;
use super::session::{Session, stopping, write_event};
use super::time::Now;

/// The reason of the close frame.
const REASON: &str = "server stopping";

impl<H> Session<H> {
    /// Begins to end because the server stops: sends `server:shutdown`. Requests in flight go on, and each further one gets
    /// `CONNECTION_CLOSED`. A client that has not authenticated is closed with 1001 at once.
    pub fn drain(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.is_open() {
            self.announce_stop(now, out);
        } else {
            self.close(now.at, CloseCode::Away, REASON, out);
        }
    }

    /// Whether the session has begun to [`drain`](Session::drain), and no close frame was sent or received.
    pub fn is_draining(&self) -> bool {
        self.drains && self.is_open()
    }

    /// Closes with 1001 if the session drains and nothing is in flight: no request is parked, no message is being decoded, and no
    /// verdict is awaited. The caller has answered or parked each request, and nothing waits to be sent: after the close frame
    /// [`Limits::close_timeout`](super::limits::Limits::close_timeout) runs.
    pub fn close_drained(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.is_draining() && self.in_flight() == 0 && !self.is_decoding() && !self.is_authenticating() {
            self.close(now.at, CloseCode::Away, REASON, out);
        }
    }

    /// Closes because the server stops: sends `server:shutdown` unless that was done, `CONNECTION_CLOSED` for each parked request,
    /// and close 1001.
    pub fn shut_down(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.is_open() {
            self.announce_stop(now, out);
        }
        for parked in self.parked.drain() {
            self.answer(now, parked.request, Err(stopping()), out);
        }
        self.close(now.at, CloseCode::Away, REASON, out);
    }

    fn announce_stop(&mut self, now: Now, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.drains, true) {
            write_event(out, "server:shutdown", Some(r#"{"reason":"Server stopping"}"#), now.unix_ms);
        }
    }
}
