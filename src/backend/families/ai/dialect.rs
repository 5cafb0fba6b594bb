//! What differs between the APIs of providers. Each API is a file with a constant [`Dialect`]. Pure: no sockets, no clock.

use crate::backend::shared::provider::Host;

use super::exchange::{ChatRequest, Chunk, Failure, Finish};

/// The API of a provider.
pub(super) struct Dialect {
    /// The path of chat requests, below the base URL.
    pub(super) chat_path: &'static str,
    /// The path of the list of models, below the base URL.
    pub(super) models_path: &'static str,
    /// The header that carries the key.
    pub(super) key_header: &'static str,
    /// The text before the key in that header.
    pub(super) key_prefix: &'static str,
    /// Further headers of every request.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// Writes the JSON of a chat request.
    pub(super) request: fn(&ChatRequest, Target) -> String,
    /// Reads a response that is a single JSON document, and adds its chunks.
    pub(super) read_whole: fn(&str, &mut Vec<Chunk>) -> Result<Finish, Failure>,
    /// Creates a reader for a response that is a stream of events.
    pub(super) stream: fn() -> Box<dyn StreamReader>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) host: Host,
    /// The most tokens that the model writes, if known.
    pub(super) max_output: Option<u64>,
}

/// Reads a provider's stream, event by event.
pub(super) trait StreamReader: Send {
    /// Reads the data of one event, and adds its chunks.
    fn handle(&mut self, data: &str, chunks: &mut Vec<Chunk>) -> Result<(), Failure>;
    /// Whether the provider has sent its last event.
    fn is_done(&self) -> bool;
    /// Returns how the answer ended, and adds the last chunks; an error if the stream was cut off.
    fn finish(&mut self, chunks: &mut Vec<Chunk>) -> Result<Finish, Failure>;
}

/// Reads a stream of these events.
#[cfg(test)]
pub(super) fn read_events(dialect: &Dialect, events: &[&str]) -> (Vec<Chunk>, Result<Finish, Failure>) {
    let (mut stream, mut chunks) = ((dialect.stream)(), Vec::new());
    for event in events {
        if let Err(failure) = stream.handle(event, &mut chunks) {
            return (chunks, Err(failure));
        }
    }
    let finish = stream.finish(&mut chunks);
    (chunks, finish)
}
