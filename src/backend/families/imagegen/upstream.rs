//! One batch of images from a provider over the network: retries, the answer. In: a [`Batch`], an address and a key. Out:
//! images that were checked. 429 and 5xx are tried again.
//!
//! Dropping the future closes the connection to the provider.

use hyper::Method;
use hyper::header::AUTHORIZATION;
use tokio::time::{sleep, timeout};

use crate::protocol::handshake::base64;

use super::config::ImagegenConfig;
use super::job::{self, Batch, Made, Provider};
use crate::backend::shared::http::{self, Timeouts};
use crate::backend::shared::provider::{Access, Failure, check_status, retry_pause, unreachable};

/// What a response may have beside its images, in bytes.
const MAX_JSON_BYTES: usize = 1 << 20;

/// Has a provider make a batch.
///
/// # Errors
/// With what a client is told of it.
pub(super) async fn make(
    batch: &Batch,
    access: &Access,
    config: &ImagegenConfig,
) -> Result<Vec<Made>, Failure> {
    let limit = config.generation_timeout;
    let made = match timeout(limit, with_retries(batch, access, config)).await {
        Ok(made) => made,
        Err(_) => Err(Failure::new(format!("no images within {} ms", limit.as_millis()))),
    };
    made.map_err(|failure| access.in_words_of_ours(batch.provider.as_str(), failure))
}

async fn with_retries(batch: &Batch, access: &Access, config: &ImagegenConfig) -> Result<Vec<Made>, Failure> {
    let mut retries = 0;
    loop {
        let failure = match attempt(batch, access, config).await {
            Ok(made) => return Ok(made),
            Err(failure) => failure,
        };
        let Some(pause) = retry_pause(&failure, retries, config.retry_pause, config.max_retry_pause) else {
            return Err(failure);
        };
        retries += 1;
        sleep(pause).await;
    }
}

async fn attempt(batch: &Batch, access: &Access, config: &ImagegenConfig) -> Result<Vec<Made>, Failure> {
    let (path, body) = match batch.provider {
        Provider::Automatic1111 => ("/sdapi/v1/txt2img", job::automatic1111_json(batch)),
        _ => ("/images/generations", job::openai_json(batch, access.is_own)),
    };
    let outgoing = access.outgoing(Method::POST, path, "application/json", body, |key| {
        let value = match batch.provider {
            // Its `--api-auth user:password` is HTTP's basic authentication.
            Provider::Automatic1111 if key.contains(':') => format!("Basic {}", base64(key.as_bytes())),
            _ => format!("Bearer {key}"),
        };
        (AUTHORIZATION, value)
    })?;
    // The whole answer comes at once when the images are made; how long that takes is limited from outside.
    let limit = config.generation_timeout.saturating_mul(2);
    let timeouts = Timeouts { connect: config.connect_timeout, head: limit, idle: limit };
    // Base64 is a third longer than what it stands for, and some break it into lines.
    let longest = config.max_image_bytes.saturating_mul(batch.size as usize).saturating_mul(7) / 5;
    let max_bytes = longest.saturating_add(MAX_JSON_BYTES).min(config.max_response_bytes);
    let mut response = http::send(outgoing, timeouts, max_bytes).await.map_err(unreachable)?;
    check_status(&mut response).await?;
    let body = response.text().await.map_err(unreachable)?;
    let (batch, max_bytes) = (batch.clone(), config.max_image_bytes);
    let read = tokio::task::spawn_blocking(move || match batch.provider {
        Provider::Automatic1111 => job::read_automatic1111(&body, &batch, max_bytes),
        _ => job::read_openai(&body, &batch, max_bytes),
    });
    read.await.unwrap_or_else(|_| Err(Failure::new("Internal error")))
}
