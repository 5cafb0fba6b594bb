//! One client's task. Input: a socket, the client's mailbox, a clock. Output: calls of handlers, and bytes. The
//! [`Session`](crate::protocol::session::Session) decides what the bytes mean; the driver only transports them.
//!
//! While bytes wait for the client nothing is read from it, so that its requests cannot pile up answers. An idle client
//! owns no buffer: the clients of a worker thread share one for reads and one for answers.
//!
//! `task` drives it all; `requests` reads and calls handlers, `decoding` takes large messages off the worker thread, `sending`
//! writes; `state` is what they share.

mod asking;
mod authenticating;
mod decoding;
mod in_flight;
mod requests;
mod sending;
mod state;
mod task;

pub(super) use state::Driver;
