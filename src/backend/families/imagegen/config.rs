//! The settings of the family.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::credentials::Token;

/// How the family works, and how much of it.
#[derive(Debug, Clone)]
pub struct ImagegenConfig {
    /// Keys by provider's name, for those without a credential.
    ///
    /// Default none. The `switchboard` command takes `OPENAI_API_KEY` from the environment.
    pub api_keys: BTreeMap<String, Token>,
    /// How long connecting to a provider may take, TLS included.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// How long a provider may take for one batch, retries included. Then the job fails.
    ///
    /// Default 10 min: a batch of large images on a small machine.
    pub generation_timeout: Duration,
    /// The pause before a request that failed in passing is tried again; the second pause is twice as long. A provider that
    /// says how long to wait is obeyed.
    ///
    /// Default 500 ms, as for `ai`.
    pub retry_pause: Duration,
    /// Longest pause that a provider may ask for. If it asks for more the job fails.
    ///
    /// Default 30 s.
    pub max_retry_pause: Duration,
    /// Largest image of a provider, in bytes. With a larger one the job fails.
    ///
    /// Default 32 MiB: twice what a PNG of 2048 x 2048 pixels can need.
    pub max_image_bytes: usize,
    /// Longest response of a provider, in bytes. Past it the job fails.
    ///
    /// Default 128 MiB, as for `ai`: it is held in memory, once, for there is one worker.
    pub max_response_bytes: usize,
    /// What all image files may have together, in bytes. A job whose images do not fit fails.
    ///
    /// Default 16 GiB, as the database.
    pub max_total_bytes: u64,
    /// Most entries that wait. The next one is refused.
    ///
    /// Default 1 000.
    pub max_queued: u32,
    /// Most groups. The next one is refused.
    ///
    /// Default 1 000: `imagegen:list-groups` shows them all.
    pub max_groups: u32,
    /// Longest prompt, and longest negative prompt, in bytes.
    ///
    /// Default 32 KiB: OpenAI takes 32 000 characters.
    pub max_prompt_bytes: usize,
    /// Longest `params`, in bytes of JSON.
    ///
    /// Default 64 KiB, as the metadata of other families.
    pub max_params_bytes: usize,
    /// Most images in a batch.
    ///
    /// Default 10, as many as OpenAI makes at once.
    pub max_batch_size: u32,
    /// Most batches of an entry.
    ///
    /// Default 100.
    pub max_batch_count: u32,
    /// Longest side of an image, in pixels.
    ///
    /// Default 4 096.
    pub max_side: u32,
}

impl Default for ImagegenConfig {
    fn default() -> ImagegenConfig {
        ImagegenConfig {
            api_keys: BTreeMap::new(),
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
