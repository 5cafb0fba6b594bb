//! The handlers of the family.

use std::sync::Arc;

use crate::backend::shared::db::Db;
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{Page, RequestContext};

use super::super::settings;
use super::config::ImagegenConfig;
use super::files::{self, Folder};
use super::job::Batch;
use super::picture::Format;
use super::providers::{self, ImageProvider};
use super::store::{self, NewEntry};
use super::worker::Signals;

const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_MODEL_BYTES: usize = 256;
const MIN_SIDE: i64 = 64;
/// Sides are multiples of this: diffusion models work on blocks of 8 x 8 pixels.
const SIDE_STEP: i64 = 8;
const DEFAULT_SIDE: i64 = 1024;
const MAX_STEPS: i64 = 1000;
const MAX_CFG_SCALE: f64 = 100.0;
const MAX_SEED: i64 = u32::MAX as i64;
const DEFAULT_GROUP: &str = "default";

/// What the handlers share.
pub(super) struct Imagegen {
    pub(super) db: Db,
    pub(super) config: Arc<ImagegenConfig>,
    pub(super) signals: Arc<Signals>,
}

impl Imagegen {
    pub(super) async fn create_group(
        &self,
        payload: Payload,
        cx: &RequestContext,
    ) -> Result<Payload, WireError> {
        let (client, max) = (cx.client_id, i64::from(self.config.max_groups));
        let db = self.db.on_behalf_of(cx.party());
        let created = db.write(move |change| {
            let name = Fields::decode(&payload)?.required_text("name", 1..=MAX_NAME_BYTES)?;
            store::create_group(change, &name, &client.to_string(), max)
        });
        created.await
    }

    pub(super) async fn create_entry(
        &self,
        payload: Payload,
        cx: &RequestContext,
    ) -> Result<Payload, WireError> {
        let client = cx.client_id;
        self.signals.joined(cx);
        let default = settings::text(&self.db, "imagegen.defaultProvider").await?.text;
        let config = self.config.clone();
        let db = self.db.on_behalf_of(cx.party());
        let created = db.write(move |change| {
            let fields = Fields::decode(&payload)?;
            let (provider, batch, batch_count) = read_entry(&fields, &default, &config)?;
            let group = fields.id("groupId")?.unwrap_or_else(|| DEFAULT_GROUP.to_owned());
            let group = store::group_seq(change.connection, &fields, &group)?;
            let client = client.to_string();
            let entry = NewEntry { client, group, provider: provider.name, batch, batch_count };
            store::create_entry(change, &entry, i64::from(config.max_queued))
        });
        let entry = created.await?;
        self.signals.queued();
        Ok(entry)
    }

    pub(super) async fn cancel_entry(
        &self,
        payload: Payload,
        cx: &RequestContext,
    ) -> Result<Payload, WireError> {
        let id = Fields::decode(&payload)?.required_id("id")?;
        let db = self.db.on_behalf_of(cx.party());
        let cancelled = db.write(move |change| {
            let fields = Fields::decode(&payload)?;
            store::cancel_entry(change, &fields, &fields.required_id("id")?)
        });
        let entry = cancelled.await?;
        self.signals.cancelled(&id);
        Ok(entry)
    }
}

/// Reads the provider of an entry, its batch and the number of batches. `default` is the provider of an entry that names none.
fn read_entry(
    fields: &Fields<'_>,
    default: &str,
    config: &ImagegenConfig,
) -> Result<(&'static ImageProvider, Batch, i64), WireError> {
    let name = if fields.has("provider") {
        fields.required_one_of("provider", &providers::names())?
    } else {
        default
    };
    let provider = providers::find(name).ok_or_else(|| fields.wrong("provider", "provider", name))?;
    let count = |name, max: u32| fields.integer(name, 1..=i64::from(max.max(1)));
    let model = fields.text("model", 1..=MAX_MODEL_BYTES)?;
    let batch = Batch {
        prompt: fields.required_text("prompt", 1..=config.max_prompt_bytes)?,
        negative_prompt: fields
            .text("negativePrompt", 0..=config.max_prompt_bytes)?
            .filter(|text| !text.is_empty()),
        model: model.or_else(|| provider.default_model.map(str::to_owned)),
        width: side(fields, "width", config)?,
        height: side(fields, "height", config)?,
        size: u32_of(count("batchSize", config.max_batch_size)?.unwrap_or(1)),
        steps: fields.integer("steps", 1..=MAX_STEPS)?,
        cfg_scale: fields.number("cfgScale", 0.0..=MAX_CFG_SCALE)?,
        seed: fields.integer("seed", 0..=MAX_SEED)?,
        params: fields.object_json("params", config.max_params_bytes)?.unwrap_or("{}").to_owned(),
    };
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&batch.params) {
        return Err(fields.wrong("params", "object in Unicode", &error.to_string()));
    }
    Ok((provider, batch, count("batchCount", config.max_batch_count)?.unwrap_or(1)))
}

/// Reads a side of an image, in pixels.
fn side(fields: &Fields<'_>, name: &str, config: &ImagegenConfig) -> Result<u32, WireError> {
    let range = MIN_SIDE..=i64::from(config.max_side).max(MIN_SIDE);
    let expected = format!("multiple of {SIDE_STEP} in {}..={}", range.start(), range.end());
    match fields.integer(name, range)? {
        Some(pixels) if pixels % SIDE_STEP != 0 => Err(fields.wrong(name, &expected, &pixels.to_string())),
        pixels => Ok(u32_of(pixels.unwrap_or(DEFAULT_SIDE.min(i64::from(config.max_side))))),
    }
}

/// Converts a number that was checked to be in a range of `u32`.
fn u32_of(number: i64) -> u32 {
    debug_assert!(u32::try_from(number).is_ok(), "{number} was checked");
    u32::try_from(number).unwrap_or_default()
}

/// Returns the page of an image. The path is built from a known id, never from the text of the request.
pub(super) async fn page(db: &Db, folder: &Folder, id: &str, max_bytes: usize) -> Option<Page> {
    if !files::is_id(id) {
        return None;
    }
    let image = id.to_owned();
    let mime_type = db.read(move |view| store::mime_type(view, &image)).await.ok()??;
    let format = Format::from_mime_type(&mime_type)?;
    let path = folder.path_of(id, format);
    let (file, length) = tokio::task::spawn_blocking(move || files::open(&path, max_bytes)).await.ok()??;
    let page = Page::file(format.mime_type(), file, length)
        .etag(id)
        // An image never changes. It is private because a token can be required.
        .header("cache-control", "private, max-age=31536000, immutable")
        .header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox");
    Some(page)
}
