//! OpenAI's Images API, which other servers implement too. Input: a [`Batch`], a response. Output: the JSON to send, images.
//! Pure: no sockets, no clock.

use serde_json::{Value, json};

use crate::backend::shared::provider::{Failure, Host};

use super::dialect::Dialect;
use super::job::{Batch, GeneratedImage, check_count, params, parse, picture};

pub(super) const DIALECT: Dialect = Dialect {
    path: "/images/generations",
    needs_key: true,
    authorization: |key| format!("Bearer {key}"),
    request: request_json,
    read,
};

fn request_json(batch: &Batch, host: Host) -> String {
    let mut body = params(batch);
    let model = batch.model.as_deref().unwrap_or_default();
    body.insert("model".to_owned(), json!(model));
    body.insert("prompt".to_owned(), json!(batch.prompt));
    body.insert("n".to_owned(), json!(batch.size));
    body.insert("size".to_owned(), json!(format!("{}x{}", batch.width, batch.height)));
    // For its newer models OpenAI always sends base64, and refuses this member. Compatible servers need it.
    if model.starts_with("dall-e") || host == Host::Compatible && !model.contains("gpt-image") {
        body.insert("response_format".to_owned(), json!("b64_json"));
    }
    Value::Object(body).to_string()
}

/// The images are `data[].b64_json`.
fn read(body: &str, batch: &Batch, max_bytes: usize) -> Result<Vec<GeneratedImage>, Failure> {
    let response = parse(body)?;
    let data = response.get("data").and_then(Value::as_array);
    let data = data.ok_or_else(|| Failure::new("a response without images"))?;
    check_count(data.len(), batch)?;
    let images = data.iter().map(|image| match image.get("b64_json").and_then(Value::as_str) {
        Some(text) => Ok(GeneratedImage { picture: picture(text, max_bytes)?, seed: None }),
        None => Err(Failure::new("an image without b64_json; URLs are not followed")),
    });
    images.collect()
}

#[cfg(test)]
mod tests {
    use super::super::job::sample::{JPEG, batch, value};
    use super::*;

    const MODEL: &str = "gpt-image-1";

    #[test]
    fn a_request_has_the_members_that_the_api_requires() {
        let mut entry_batch = Batch { model: Some(MODEL.to_owned()), ..batch() };
        let body = value(&request_json(&entry_batch, Host::Own));
        assert_eq!(body["model"], "gpt-image-1");
        assert_eq!((&body["prompt"], &body["quality"]), (&json!("a lake"), &json!("high")));
        assert_eq!((&body["n"], &body["size"]), (&json!(2), &json!("1536x1024")));
        assert!(body.get("response_format").is_none() && body.get("seed").is_none());
        for (model, host, has_format) in [
            ("gpt-image-1.5", Host::Compatible, false),
            ("dall-e-3", Host::Own, true),
            ("dall-e-3", Host::Compatible, true),
            ("flux", Host::Compatible, true),
            ("a-newer-model", Host::Own, false),
        ] {
            entry_batch.model = Some(model.to_owned());
            let body = value(&request_json(&entry_batch, host));
            assert_eq!(body.get("response_format").is_some(), has_format, "{model} {host:?}");
        }
    }

    #[test]
    fn a_response_must_have_as_many_images_as_the_batch() {
        let entry_batch = batch();
        let read_images = |images: &[&str]| {
            let data: Vec<Value> = images.iter().map(|text| json!({"b64_json": text})).collect();
            read(&json!({"created": 1, "data": data}).to_string(), &entry_batch, 100)
        };
        assert_eq!(read_images(&[JPEG, JPEG]).unwrap().len(), 2);
        for wrong in [&[][..], &[JPEG], &[JPEG, JPEG, JPEG], &[JPEG, "!"], &[JPEG, "AAAA"]] {
            assert!(read_images(wrong).is_err(), "{wrong:?}");
        }
        for wrong in [
            "",
            "null",
            "[]",
            r#"{"data":7}"#,
            r#"{"data":[7,8]}"#,
            r#"{"data":[{"url":"https://a"},{"url":"https://b"}]}"#,
        ] {
            assert!(read(wrong, &entry_batch, 100).is_err(), "{wrong}");
        }
        assert!(
            read(&json!({"data": [{"b64_json": JPEG}, {"b64_json": JPEG}]}).to_string(), &entry_batch, 5)
                .is_err()
        );
    }
}
