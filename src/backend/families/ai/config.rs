//! The settings of the family.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::credentials::Token;
use super::sse::SseLimits;

/// How the family speaks to providers.
#[derive(Debug, Clone)]
pub struct AiConfig {
    /// Keys by provider's name, for those without a credential.
    ///
    /// Default none. The `switchboard` command takes `ANTHROPIC_API_KEY` and `OPENAI_API_KEY` from the environment.
    pub api_keys: BTreeMap<String, Token>,
    /// How long connecting to a provider may take, TLS included.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// How long a provider may be silent in mid-answer. Then the request fails.
    ///
    /// Default 60 s; providers send a comment or a `ping` every few seconds while a model thinks.
    pub idle_timeout: Duration,
    /// How long an answer may take in all, from the request to the response. Then it fails with `TIMEOUT`.
    ///
    /// Default 30 min. The server's own deadline for handlers does not apply; a client may wait less long.
    pub max_duration: Duration,
    /// The pause before a request that failed in passing is tried again; the second pause is twice as long. A provider that
    /// says how long to wait is obeyed.
    ///
    /// Default 500 ms, as in the providers' own clients.
    pub retry_pause: Duration,
    /// Longest pause that a provider may ask for. If it asks for more the request fails.
    ///
    /// Default 30 s.
    pub max_retry_pause: Duration,
    /// Longest response of a provider, in bytes. Past it the request fails.
    ///
    /// Default 128 MiB: an answer as long as models write, each token in an event of its own.
    pub max_response_bytes: usize,
    /// Longest answer, thinking included, in bytes. Past it the request fails.
    ///
    /// Default 1 MiB, which is what a chat's message may have.
    pub max_answer_bytes: usize,
    /// Most questions to providers at the same time. The next ones wait, within `max_duration`.
    ///
    /// Default 64.
    pub max_concurrent: usize,
    /// The limits of providers' streams.
    pub sse: SseLimits,
}

impl Default for AiConfig {
    fn default() -> AiConfig {
        AiConfig {
            api_keys: BTreeMap::new(),
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
