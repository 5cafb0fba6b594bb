//! The settings of the family.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::credentials::{Origin, Token};
use super::sse::SseLimits;

/// The configuration of the family `ai`.
#[derive(Debug, Clone)]
pub struct AiConfig {
    /// API keys by the name of the provider. A stored credential takes precedence.
    ///
    /// Default none. The `switchboard` command takes `ANTHROPIC_API_KEY` and `OPENAI_API_KEY` from the environment.
    pub api_keys: BTreeMap<String, Token>,
    /// Further origins to which keys in `api_keys` are sent. Without one here, each is sent to its provider's own address only:
    /// clients can change base URLs, and would get the keys of the operator.
    ///
    /// Default none. The `switchboard` command takes them from `--key-origin`.
    pub key_origins: Vec<Origin>,
    /// Longest time to connect to a provider, TLS included. After it the request fails.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Longest silence of a provider within an answer. After it the request fails.
    ///
    /// Default 60 s: providers send a comment or a `ping` every few seconds while a model thinks.
    pub idle_timeout: Duration,
    /// Longest time from the request to the response. After it the request fails with `TIMEOUT`.
    ///
    /// Default 30 min. It replaces the server's deadline for handlers. Clients can have shorter deadlines.
    pub max_duration: Duration,
    /// The pause before a temporary failure is retried. The second pause is twice as long. If the provider names a time, that
    /// is used instead.
    ///
    /// Default 500 ms, as in the providers' own clients.
    pub retry_pause: Duration,
    /// Longest pause that a provider can ask for. If it asks for more, the request fails.
    ///
    /// Default 30 s.
    pub max_retry_pause: Duration,
    /// Longest response of a provider, in bytes. If it is longer, the request fails.
    ///
    /// Default 128 MiB: enough for the longest answer of a model with each token in its own event.
    pub max_response_bytes: usize,
    /// Longest answer, thinking included, in bytes. If it is longer, the request fails.
    ///
    /// Default 1 MiB, the limit of a message in a chat.
    pub max_answer_bytes: usize,
    /// Most concurrent requests to providers, lists of models included. Further ones wait, in turns for each client, within
    /// `max_duration`. One client holds at most all places but one, unless there is only one.
    ///
    /// Default 64.
    pub max_concurrent: usize,
    /// The limits of the streams of providers.
    pub sse: SseLimits,
}

impl Default for AiConfig {
    fn default() -> AiConfig {
        AiConfig {
            api_keys: BTreeMap::new(),
            key_origins: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_duration: Duration::from_secs(30 * 60),
            retry_pause: Duration::from_millis(500),
            max_retry_pause: Duration::from_secs(30),
            max_response_bytes: 128 << 20,
            max_answer_bytes: 1 << 20,
            max_concurrent: 64,
            sse: SseLimits::default(),
        }
    }
}
