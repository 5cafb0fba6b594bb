//! What differs between the APIs of providers. Each API is a file with a constant [`Dialect`]. Pure: no sockets, no clock.

use crate::backend::shared::provider::{Failure, Host};

use super::job::{Batch, GeneratedImage};

/// The API of a provider.
pub(super) struct Dialect {
    /// The path of requests, below the base URL.
    pub(super) path: &'static str,
    /// Whether the provider's own server refuses requests without a key.
    pub(super) needs_key: bool,
    /// Returns the header `Authorization` for a key.
    pub(super) authorization: fn(&str) -> String,
    /// Writes the JSON of a request.
    pub(super) request: fn(&Batch, Host) -> String,
    /// Reads the images of a response, each of at most so many bytes.
    pub(super) read: fn(&str, &Batch, usize) -> Result<Vec<GeneratedImage>, Failure>,
}
