//! One batch of images from a provider over the network, with retries. Input: a [`Batch`], an address and a key. Output:
//! checked images. 429 and 5xx are retried. Dropping the future closes the connection to the provider.

use hyper::Method;
use hyper::header::AUTHORIZATION;
use tokio::time::{sleep, timeout};

use crate::backend::shared::http::{self, Timeouts};
use crate::backend::shared::provider::{Access, Failure, check_status, retry_pause, unreachable};

use super::config::ImagegenConfig;
use super::dialect::Dialect;
use super::job::{Batch, GeneratedImage};

/// What a response can have besides its images, in bytes.
const MAX_JSON_BYTES: usize = 1 << 20;

/// A provider's server.
pub(super) struct Upstream<'a> {
    pub(super) dialect: &'static Dialect,
    pub(super) access: Access,
    pub(super) config: &'a ImagegenConfig,
}

impl Upstream<'_> {
    /// Generates the images of a batch.
    ///
    /// # Errors
    /// When there are no valid images in time. The message contains the provider's name and never the key.
    pub(super) async fn generate(&self, batch: &Batch) -> Result<Vec<GeneratedImage>, Failure> {
        let limit = self.config.generation_timeout;
        let generated = match timeout(limit, self.with_retries(batch)).await {
            Ok(generated) => generated,
            Err(_) => Err(Failure::new(format!("no images within {} ms", limit.as_millis()))),
        };
        generated.map_err(|failure| self.access.redacted(failure))
    }

    async fn with_retries(&self, batch: &Batch) -> Result<Vec<GeneratedImage>, Failure> {
        let (first_pause, max_pause) = (self.config.retry_pause, self.config.max_retry_pause);
        let mut retries = 0;
        loop {
            let failure = match self.attempt(batch).await {
                Ok(generated) => return Ok(generated),
                Err(failure) => failure,
            };
            let Some(pause) = retry_pause(&failure, retries, first_pause, max_pause) else {
                return Err(failure);
            };
            retries += 1;
            sleep(pause).await;
        }
    }

    async fn attempt(&self, batch: &Batch) -> Result<Vec<GeneratedImage>, Failure> {
        let (config, dialect) = (self.config, self.dialect);
        let body = (dialect.request)(batch, self.access.host);
        let outgoing = self.access.outgoing(Method::POST, dialect.path, "application/json", body, |key| {
            (AUTHORIZATION, (dialect.authorization)(key))
        })?;
        // The provider is silent until the images are made. `generation_timeout` limits the whole attempt.
        let limit = config.generation_timeout.saturating_mul(2);
        let timeouts = Timeouts { connect: config.connect_timeout, head: limit, idle: limit };
        // Base64 is a third longer than the bytes, and some servers break it into lines.
        let longest = config.max_image_bytes.saturating_mul(batch.size as usize).saturating_mul(7) / 5;
        let max_bytes = longest.saturating_add(MAX_JSON_BYTES).min(config.max_response_bytes);
        let mut response = http::send(outgoing, timeouts, max_bytes).await.map_err(unreachable)?;
        check_status(&self.access, &mut response).await?;
        let body = response.text().await.map_err(unreachable)?;
        let (batch, max_bytes) = (batch.clone(), config.max_image_bytes);
        let read = tokio::task::spawn_blocking(move || (dialect.read)(&body, &batch, max_bytes));
        read.await.unwrap_or_else(|_| Err(Failure::new("Internal error")))
    }
}
