//! What [`Session`](super::session::Session) and [`Caller`](super::caller::Caller) return to the code that drives them.

use super::decode::Undecoded;
use super::error::ErrorCode;
use super::request::Request;

/// One step into the input.
#[derive(Debug)]
pub struct Step<A> {
    /// How many bytes of the input were used.
    pub consumed: usize,
    /// What the caller has to do.
    pub action: Option<A>,
}

/// What a deadline brought, besides the bytes to send.
#[derive(Debug)]
pub enum Due<T> {
    /// The time of a request is up.
    Expired(T),
    /// The other end is not answering: close the transport. Nothing else is due any more.
    Cut,
}

/// Counters since the last [`Session::take_tally`](super::session::Session::take_tally).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Data messages received.
    pub requests: u32,
    /// Error responses, by [`ErrorCode::index`].
    pub errors: [u32; ErrorCode::COUNTERS],
    /// Whether the session has closed because of too many refused messages.
    pub closed_for_refusals: bool,
    /// Whether the session has closed because of too many wrong tokens.
    pub closed_for_tokens: bool,
}

/// What the caller of a session has to do.
#[derive(Debug)]
pub enum Action {
    /// Call the handler, and answer.
    Request(Request),
    /// The client has authenticated: it may get events from now on.
    Authenticated,
    /// Decode a large message, and give the result to [`Session::handle_decoded`](super::session::Session::handle_decoded).
    Decode(Undecoded),
    /// Decide about the credential in the payload of a request on channel `auth`, and give the verdict to
    /// [`Session::handle_verdict`](super::session::Session::handle_verdict). Only after [`Session::ask_caller`](super::session::Session::ask_caller).
    Authenticate(Request),
}
