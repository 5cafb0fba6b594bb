//! The API of the AUTOMATIC1111 web UI, `/sdapi/v1/txt2img`. Input: a [`Batch`], a response. Output: the JSON to send, images.
//! Pure: no sockets, no clock.

use serde_json::{Value, json};

use crate::backend::shared::provider::{Failure, Host};
use crate::protocol::handshake::base64;

use super::dialect::Dialect;
use super::job::{Batch, GeneratedImage, check_count, params, parse, picture};

pub(super) const DIALECT: Dialect =
    Dialect { path: "/sdapi/v1/txt2img", needs_key: false, authorization, request: request_json, read };

/// Its option `--api-auth user:password` is HTTP's basic authentication.
fn authorization(key: &str) -> String {
    if key.contains(':') { format!("Basic {}", base64(key.as_bytes())) } else { format!("Bearer {key}") }
}

fn request_json(batch: &Batch, _: Host) -> String {
    let mut body = params(batch);
    body.insert("prompt".to_owned(), json!(batch.prompt));
    body.insert("negative_prompt".to_owned(), json!(batch.negative_prompt.as_deref().unwrap_or_default()));
    body.insert("width".to_owned(), json!(batch.width));
    body.insert("height".to_owned(), json!(batch.height));
    body.insert("batch_size".to_owned(), json!(batch.size));
    body.insert("n_iter".to_owned(), json!(1));
    body.insert("seed".to_owned(), json!(batch.seed.unwrap_or(-1)));
    // A grid of all images would be one more image in the response.
    body.insert("do_not_save_grid".to_owned(), json!(true));
    if let Some(steps) = batch.steps {
        body.insert("steps".to_owned(), json!(steps));
    }
    if let Some(cfg_scale) = batch.cfg_scale {
        body.insert("cfg_scale".to_owned(), json!(cfg_scale));
    }
    if let Some(model) = &batch.model {
        let settings = body.entry("override_settings").or_insert_with(|| json!({}));
        if let Some(settings) = settings.as_object_mut() {
            settings.insert("sd_model_checkpoint".to_owned(), json!(model));
        }
    }
    Value::Object(body).to_string()
}

/// The images are `images[]`. Their seeds are in `info`, which is JSON in a string. Extensions can add images, such as a grid
/// before or masks after the requested ones; `info.index_of_first_image` is the index of the first requested one.
fn read(body: &str, batch: &Batch, max_bytes: usize) -> Result<Vec<GeneratedImage>, Failure> {
    let response = parse(body)?;
    let info = response.get("info").and_then(Value::as_str).unwrap_or_default();
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    let images = response.get("images").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let first = info.get("index_of_first_image").and_then(Value::as_u64).unwrap_or_default();
    let images = usize::try_from(first).ok().and_then(|first| images.get(first..)).unwrap_or_default();
    let images = images.get(..batch.size as usize).unwrap_or(images);
    check_count(images.len(), batch)?;
    let seeds = info.get("all_seeds").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let images = images.iter().enumerate().map(|(n, image)| {
        let text = image.as_str().ok_or_else(|| Failure::new("an image that is not a string"))?;
        let counted = batch.seed.and_then(|seed| seed.checked_add(i64::try_from(n).ok()?));
        let seed = seeds.get(n).and_then(Value::as_i64).or(counted);
        Ok(GeneratedImage { picture: picture(text, max_bytes)?, seed })
    });
    images.collect()
}

#[cfg(test)]
mod tests {
    use super::super::job::sample::{JPEG, batch, value};
    use super::*;

    #[test]
    fn a_request_has_the_members_that_the_api_requires() {
        let mut entry_batch = batch();
        let body = value(&request_json(&entry_batch, Host::Own));
        for (name, expected) in [
            ("prompt", json!("a lake")),
            ("negative_prompt", json!("people")),
            ("width", json!(1536)),
            ("height", json!(1024)),
            ("batch_size", json!(2)),
            ("steps", json!(20)),
            ("cfg_scale", json!(7.5)),
            ("seed", json!(41)),
            ("sampler_name", json!("Euler a")),
        ] {
            assert_eq!(body[name], expected, "{name}");
        }
        assert!(body.get("override_settings").is_none());
        entry_batch.model = Some("xl".to_owned());
        (entry_batch.seed, entry_batch.params) =
            (None, r#"{"override_settings":{"CLIP_stop_at_last_layers":2}}"#.to_owned());
        let body = value(&request_json(&entry_batch, Host::Own));
        let settings = json!({"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "xl"});
        assert_eq!((&body["seed"], &body["override_settings"]), (&json!(-1), &settings));
    }

    #[test]
    fn seeds_come_from_the_info_or_are_counted() {
        let entry_batch = batch();
        let seeds = |images: Value, info: Value| -> Result<Vec<Option<i64>>, Failure> {
            let response = json!({"images": images, "parameters": {}, "info": info}).to_string();
            Ok(read(&response, &entry_batch, 100)?.iter().map(|image| image.seed).collect())
        };
        let two = json!([JPEG, format!("data:image/jpeg;base64,{JPEG}")]);
        assert_eq!(seeds(two.clone(), json!("{\"all_seeds\":[5,9]}")), Ok(vec![Some(5), Some(9)]));
        assert_eq!(seeds(two.clone(), json!("{\"all_seeds\":[5]}")), Ok(vec![Some(5), Some(42)]));
        for unusable in [Value::Null, json!("{"), json!({"all_seeds": [1, 2]}), json!("{\"all_seeds\":7}")] {
            assert_eq!(seeds(two.clone(), unusable), Ok(vec![Some(41), Some(42)]));
        }
        let grid = json!(["grid", JPEG, JPEG, "mask"]);
        let info = json!("{\"index_of_first_image\":1,\"all_seeds\":[1,2]}");
        assert_eq!(seeds(grid.clone(), info), Ok(vec![Some(1), Some(2)]));
        for wrong in [json!([]), json!([JPEG]), json!([7, 8]), Value::Null] {
            assert!(seeds(wrong, Value::Null).is_err());
        }
        assert!(seeds(grid, json!("{\"index_of_first_image\":9}")).is_err());
    }
}
