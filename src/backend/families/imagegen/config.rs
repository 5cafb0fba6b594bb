//! The settings of the family.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::credentials::{Origin, Token};

/// The configuration of the family `imagegen`.
#[derive(Debug, Clone)]
pub struct ImagegenConfig {
    /// API keys by the name of the provider. A stored credential takes precedence.
    ///
    /// Default none. The `switchboard` command takes `OPENAI_API_KEY` from the environment.
    pub api_keys: BTreeMap<String, Token>,
    /// Further origins to which keys in `api_keys` are sent, as for `ai`.
    ///
    /// Default none. The `switchboard` command takes them from `--key-origin`.
    pub key_origins: Vec<Origin>,
    /// Longest time to connect to a provider, TLS included. After it the job fails.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Longest time for one batch, retries included. After it the job fails.
    ///
    /// Default 10 min: a batch of large images on a small machine.
    pub generation_timeout: Duration,
    /// The pause before a temporary failure is retried. The second pause is twice as long. If the provider names a time, that
    /// is used instead.
    ///
    /// Default 500 ms, as for `ai`.
    pub retry_pause: Duration,
    /// Longest pause that a provider can ask for. If it asks for more, the job fails.
    ///
    /// Default 30 s.
    pub max_retry_pause: Duration,
    /// Largest image of a provider, in bytes. If one is larger, the job fails.
    ///
    /// Default 32 MiB: twice the largest PNG of 2048 x 2048 pixels.
    pub max_image_bytes: usize,
    /// Longest response of a provider, in bytes. If it is longer, the job fails.
    ///
    /// Default 128 MiB, as for `ai`. It is held in memory; there is one worker, so there is one response at a time.
    pub max_response_bytes: usize,
    /// Largest total size of all image files, in bytes. A job whose images would exceed it fails.
    ///
    /// Default 16 GiB, like the database.
    pub max_total_bytes: u64,
    /// Most queued entries. Further ones are refused. One client can queue nine tenths of them, so that the others find room, or
    /// all but one if they are fewer than ten.
    ///
    /// Default 1 000.
    pub max_queued: u32,
    /// Most groups. Further ones are refused. One client can make nine tenths of them, as for the queue.
    ///
    /// Default 1 000: `imagegen:list-groups` returns all of them.
    pub max_groups: u32,
    /// Longest prompt, and longest negative prompt, in bytes. A longer one is refused.
    ///
    /// Default 32 KiB: OpenAI accepts 32 000 characters.
    pub max_prompt_bytes: usize,
    /// Longest `params`, in bytes of JSON. A longer one is refused.
    ///
    /// Default 64 KiB, like the metadata in other families.
    pub max_params_bytes: usize,
    /// Most images in a batch. An entry that asks for more is refused.
    ///
    /// Default 10, the limit of OpenAI.
    pub max_batch_size: u32,
    /// Most batches of an entry. An entry that asks for more is refused.
    ///
    /// Default 100.
    pub max_batch_count: u32,
    /// Longest side of an image, in pixels. An entry that asks for more is refused.
    ///
    /// Default 4 096.
    pub max_side: u32,
}

impl Default for ImagegenConfig {
    fn default() -> ImagegenConfig {
        ImagegenConfig {
            api_keys: BTreeMap::new(),
            key_origins: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            generation_timeout: Duration::from_secs(600),
            retry_pause: Duration::from_millis(500),
            max_retry_pause: Duration::from_secs(30),
            max_image_bytes: 32 << 20,
            max_response_bytes: 128 << 20,
            max_total_bytes: 16 << 30,
            max_queued: 1000,
            max_groups: 1000,
            max_prompt_bytes: 32 << 10,
            max_params_bytes: 64 << 10,
            max_batch_size: 10,
            max_batch_count: 100,
            max_side: 4096,
        }
    }
}
