//! What a provider is asked for and what it returns, the same for all providers. Pure: no sockets, no clock.

use serde_json::{Map, Value};

use crate::backend::shared::provider::Failure;

use super::picture::{Picture, decode_base64};

/// One batch of an entry.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    pub(super) model: Option<String>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The number of images.
    pub(super) size: u32,
    pub(super) steps: Option<i64>,
    pub(super) cfg_scale: Option<f64>,
    /// The seed of the first image. Each further image has the next number.
    pub(super) seed: Option<i64>,
    /// Further members of the request, as a JSON object.
    pub(super) params: String,
}

/// An image that a provider made.
#[derive(Debug)]
pub(super) struct GeneratedImage {
    pub(super) picture: Picture,
    pub(super) seed: Option<i64>,
}

/// Returns the entry's own `params`, which the other members overwrite.
pub(super) fn params(batch: &Batch) -> Map<String, Value> {
    let params = serde_json::from_str(&batch.params);
    debug_assert!(params.is_ok(), "they were checked when the entry was created");
    params.unwrap_or_default()
}

/// Parses a response.
///
/// # Errors
/// When it is not JSON.
pub(super) fn parse(body: &str) -> Result<Value, Failure> {
    serde_json::from_str(body).map_err(|error| Failure::new(format!("invalid JSON: {error}")))
}

/// Checks that a response has as many images as the batch.
///
/// # Errors
/// When it has more or fewer.
pub(super) fn check_count(count: usize, batch: &Batch) -> Result<(), Failure> {
    if count == batch.size as usize {
        return Ok(());
    }
    Err(Failure::new(format!("{count} images in the response, {} expected", batch.size)))
}

/// Decodes an image from base64.
///
/// # Errors
/// When it is malformed, too large, or not in a supported format.
pub(super) fn picture(text: &str, max_bytes: usize) -> Result<Picture, Failure> {
    Picture::new(decode_base64(text, max_bytes).map_err(Failure::new)?).map_err(Failure::new)
}

/// What the tests of the providers share.
#[cfg(test)]
pub(super) mod sample {
    use super::*;

    /// The first bytes of a JPEG.
    pub(crate) const JPEG: &str = "/9j/4AAC";

    pub(crate) fn batch() -> Batch {
        Batch {
            prompt: "a lake".to_owned(),
            negative_prompt: Some("people".to_owned()),
            model: None,
            width: 1536,
            height: 1024,
            size: 2,
            steps: Some(20),
            cfg_scale: Some(7.5),
            seed: Some(41),
            params: r#"{"quality":"high","prompt":"not this","sampler_name":"Euler a"}"#.to_owned(),
        }
    }

    pub(crate) fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }
}
