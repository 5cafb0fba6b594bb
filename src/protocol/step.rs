//! What [`Session`](super::session::Session) and [`Caller`](super::caller::Caller) return to the code that drives them.

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
