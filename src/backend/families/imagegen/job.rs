//! What a provider is asked for and what it answers. Pure: no sockets, no clock.

use serde_json::{Map, Value, json};

use super::pattern;
use super::picture::{Kind, Picture, decode_base64};
use crate::backend::shared::provider::Failure;

/// Who makes images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    OpenAi,
    Automatic1111,
    Pattern,
}

impl Provider {
    /// Their names, in the order of the variants.
    pub(super) const NAMES: [&str; 3] = ["openai", "automatic1111", "pattern"];
    const ALL: [Provider; 3] = [Provider::OpenAi, Provider::Automatic1111, Provider::Pattern];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Provider::OpenAi => "openai",
            Provider::Automatic1111 => "automatic1111",
            Provider::Pattern => "pattern",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.as_str() == name)
    }

    /// The model of an entry that names none; `None` for the one that the provider has loaded.
    pub(super) fn default_model(self) -> Option<&'static str> {
        match self {
            Provider::OpenAi => Some("gpt-image-1"),
            Provider::Automatic1111 | Provider::Pattern => None,
        }
    }
}

/// One batch of an entry.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) provider: Provider,
    pub(super) prompt: String,
    pub(super) negative_prompt: Option<String>,
    pub(super) model: Option<String>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// How many images.
    pub(super) size: u32,
    pub(super) steps: Option<i64>,
    pub(super) cfg_scale: Option<f64>,
    /// The seed of the batch's first image; the next ones count on.
    pub(super) seed: Option<i64>,
    /// Further members for the provider.
    pub(super) params: String,
}

/// An image that a provider made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) picture: Picture,
    pub(super) seed: Option<i64>,
}

/// The built-in provider's images. `luck` is the seed of a batch that has none.
pub(super) fn draw(batch: &Batch, luck: u32) -> Vec<Made> {
    let first = batch.seed.unwrap_or(i64::from(luck));
    let images = (0..i64::from(batch.size)).map(|n| {
        let seed = first.saturating_add(n);
        let bytes = pattern::draw(&batch.prompt, seed, batch.width, batch.height).into_bytes();
        let picture = Picture { bytes, kind: Kind::Svg, size: Some((batch.width, batch.height)) };
        Made { picture, seed: Some(seed) }
    });
    images.collect()
}

/// The JSON of a request to the images API of OpenAI. `is_own` says that it goes to OpenAI's own server: that one always
/// answers with base64 for its newer models and refuses to be asked for it; compatible servers want to be asked.
pub(super) fn openai_json(batch: &Batch, is_own: bool) -> String {
    let mut body = params(batch);
    let model = batch.model.as_deref().unwrap_or_default();
    body.insert("model".to_owned(), json!(model));
    body.insert("prompt".to_owned(), json!(batch.prompt));
    body.insert("n".to_owned(), json!(batch.size));
    body.insert("size".to_owned(), json!(format!("{}x{}", batch.width, batch.height)));
    if model.starts_with("dall-e") || !is_own && !model.contains("gpt-image") {
        body.insert("response_format".to_owned(), json!("b64_json"));
    }
    Value::Object(body).to_string()
}

/// The images in the answer of OpenAI's API: `data[].b64_json`.
///
/// # Errors
/// When there are none, more than were asked for, or one is none.
pub(super) fn read_openai(body: &str, batch: &Batch, max_bytes: usize) -> Result<Vec<Made>, Failure> {
    let answer = parse(body)?;
    let data = answer.get("data").and_then(Value::as_array);
    let data = data.ok_or_else(|| Failure::new("an answer without images"))?;
    check_count(data.len(), batch)?;
    let images = data.iter().map(|image| match image.get("b64_json").and_then(Value::as_str) {
        Some(text) => Ok(Made { picture: picture(text, max_bytes)?, seed: None }),
        None => Err(Failure::new("an image without b64_json: an address is not followed")),
    });
    images.collect()
}

/// The JSON of a request to `/sdapi/v1/txt2img`.
pub(super) fn automatic1111_json(batch: &Batch) -> String {
    let mut body = params(batch);
    body.insert("prompt".to_owned(), json!(batch.prompt));
    body.insert("negative_prompt".to_owned(), json!(batch.negative_prompt.as_deref().unwrap_or_default()));
    body.insert("width".to_owned(), json!(batch.width));
    body.insert("height".to_owned(), json!(batch.height));
    body.insert("batch_size".to_owned(), json!(batch.size));
    body.insert("n_iter".to_owned(), json!(1));
    body.insert("seed".to_owned(), json!(batch.seed.unwrap_or(-1)));
    // A grid of all images would come as one more image.
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

/// The images in the answer of `/sdapi/v1/txt2img`: `images[]`, and in `info`, which is JSON in a string, their seeds. Where
/// extensions add images, a grid in front or masks behind, `info.index_of_first_image` says where those asked for begin.
///
/// # Errors
/// As [`read_openai`].
pub(super) fn read_automatic1111(body: &str, batch: &Batch, max_bytes: usize) -> Result<Vec<Made>, Failure> {
    let answer = parse(body)?;
    let info = answer.get("info").and_then(Value::as_str).unwrap_or_default();
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    let images = answer.get("images").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let first = info.get("index_of_first_image").and_then(Value::as_u64).unwrap_or_default();
    let images = usize::try_from(first).ok().and_then(|first| images.get(first..)).unwrap_or_default();
    let images = images.get(..batch.size as usize).unwrap_or(images);
    check_count(images.len(), batch)?;
    let seeds = info.get("all_seeds").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let made = images.iter().enumerate().map(|(n, image)| {
        let text = image.as_str().ok_or_else(|| Failure::new("an image that is no text"))?;
        let counted = batch.seed.and_then(|seed| seed.checked_add(i64::try_from(n).ok()?));
        let seed = seeds.get(n).and_then(Value::as_i64).or(counted);
        Ok(Made { picture: picture(text, max_bytes)?, seed })
    });
    made.collect()
}

fn params(batch: &Batch) -> Map<String, Value> {
    // They were read when the entry was made. What the entry says itself is written over them.
    serde_json::from_str(&batch.params).unwrap_or_default()
}

fn parse(body: &str) -> Result<Value, Failure> {
    serde_json::from_str(body).map_err(|error| Failure::new(format!("an answer that is no JSON: {error}")))
}

fn check_count(count: usize, batch: &Batch) -> Result<(), Failure> {
    if count == batch.size as usize {
        return Ok(());
    }
    Err(Failure::new(format!("{} images were asked for, {count} came", batch.size)))
}

fn picture(text: &str, max_bytes: usize) -> Result<Picture, Failure> {
    Picture::new(decode_base64(text, max_bytes).map_err(Failure::new)?).map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(provider: Provider) -> Batch {
        Batch {
            provider,
            prompt: "a lake".to_owned(),
            negative_prompt: Some("people".to_owned()),
            model: provider.default_model().map(str::to_owned),
            width: 1536,
            height: 1024,
            size: 2,
            steps: Some(20),
            cfg_scale: Some(7.5),
            seed: Some(41),
            params: r#"{"quality":"high","prompt":"not this","sampler_name":"Euler a"}"#.to_owned(),
        }
    }

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    /// A JPEG of no more than its first bytes.
    const JPEG: &str = "/9j/4AAC";

    #[test]
    fn openai_is_asked_in_its_own_words() {
        let mut asked = batch(Provider::OpenAi);
        let body = value(&openai_json(&asked, true));
        assert_eq!(body["model"], "gpt-image-1");
        assert_eq!((&body["prompt"], &body["quality"]), (&json!("a lake"), &json!("high")));
        assert_eq!((&body["n"], &body["size"]), (&json!(2), &json!("1536x1024")));
        assert!(body.get("response_format").is_none() && body.get("seed").is_none());
        for (model, is_own, asks) in [
            ("gpt-image-1.5", false, false),
            ("dall-e-3", true, true),
            ("dall-e-3", false, true),
            ("flux", false, true),
            ("of-tomorrow", true, false),
        ] {
            asked.model = Some(model.to_owned());
            let body = value(&openai_json(&asked, is_own));
            assert_eq!(body.get("response_format").is_some(), asks, "{model} {is_own}");
        }
    }

    #[test]
    fn automatic1111_is_asked_in_its_own_words() {
        let mut asked = batch(Provider::Automatic1111);
        let body = value(&automatic1111_json(&asked));
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
        asked.model = Some("xl".to_owned());
        (asked.seed, asked.params) =
            (None, r#"{"override_settings":{"CLIP_stop_at_last_layers":2}}"#.to_owned());
        let body = value(&automatic1111_json(&asked));
        let settings = json!({"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "xl"});
        assert_eq!((&body["seed"], &body["override_settings"]), (&json!(-1), &settings));
    }

    #[test]
    fn images_are_as_many_as_were_asked_for_or_it_is_a_failure() {
        let asked = batch(Provider::OpenAi);
        let openai = |images: &[&str]| {
            let data: Vec<Value> = images.iter().map(|text| json!({"b64_json": text})).collect();
            read_openai(&json!({"created": 1, "data": data}).to_string(), &asked, 100)
        };
        assert_eq!(openai(&[JPEG, JPEG]).unwrap().len(), 2);
        for wrong in [&[][..], &[JPEG], &[JPEG, JPEG, JPEG], &[JPEG, "!"], &[JPEG, "AAAA"]] {
            assert!(openai(wrong).is_err(), "{wrong:?}");
        }
        for wrong in [
            "",
            "null",
            "[]",
            r#"{"data":7}"#,
            r#"{"data":[7,8]}"#,
            r#"{"data":[{"url":"https://a"},{"url":"https://b"}]}"#,
        ] {
            assert!(read_openai(wrong, &asked, 100).is_err(), "{wrong}");
        }
        assert!(
            read_openai(&json!({"data": [{"b64_json": JPEG}, {"b64_json": JPEG}]}).to_string(), &asked, 5)
                .is_err()
        );
    }

    #[test]
    fn seeds_are_those_of_the_info_or_counted() {
        let asked = batch(Provider::Automatic1111);
        let seeds = |images: Value, info: Value| -> Result<Vec<Option<i64>>, Failure> {
            let answer = json!({"images": images, "parameters": {}, "info": info}).to_string();
            Ok(read_automatic1111(&answer, &asked, 100)?.iter().map(|made| made.seed).collect())
        };
        let two = json!([JPEG, format!("data:image/jpeg;base64,{JPEG}")]);
        assert_eq!(seeds(two.clone(), json!("{\"all_seeds\":[5,9]}")), Ok(vec![Some(5), Some(9)]));
        assert_eq!(seeds(two.clone(), json!("{\"all_seeds\":[5]}")), Ok(vec![Some(5), Some(42)]));
        for odd in [Value::Null, json!("{"), json!({"all_seeds": [1, 2]}), json!("{\"all_seeds\":7}")] {
            assert_eq!(seeds(two.clone(), odd), Ok(vec![Some(41), Some(42)]));
        }
        let grid = json!(["grid", JPEG, JPEG, "mask"]);
        let info = json!("{\"index_of_first_image\":1,\"all_seeds\":[1,2]}");
        assert_eq!(seeds(grid.clone(), info), Ok(vec![Some(1), Some(2)]));
        for wrong in [json!([]), json!([JPEG]), json!([7, 8]), Value::Null] {
            assert!(seeds(wrong, Value::Null).is_err());
        }
        assert!(seeds(grid, json!("{\"index_of_first_image\":9}")).is_err());
    }

    #[test]
    fn drawn_images_count_their_seeds_on() {
        let asked = batch(Provider::Pattern);
        let seeds: Vec<_> = draw(&asked, 9).iter().map(|made| made.seed).collect();
        assert_eq!(seeds, [Some(41), Some(42)]);
        let seeds: Vec<_> = draw(&Batch { seed: None, ..asked }, 9).iter().map(|made| made.seed).collect();
        assert_eq!(seeds, [Some(9), Some(10)]);
    }
}
