//! The handlers of the family.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::backend::shared::db::Db;
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::provider::{Access, Host, no_key};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::server::{Party, Places, RequestContext};

use super::super::analytics::{AiCall, Recorder};
use super::super::{chat, credentials};
use super::config::AiConfig;
use super::exchange::{ChatAnswer, ChatRequest, Chunk, Failure, Finish, Message, Usage};
use super::models::{self, Model};
use super::providers::{self, AiProvider, Engine, PROVIDERS};
use super::upstream::Upstream;

/// How long a provider's list of models is kept.
const LIST_LIFETIME: Duration = Duration::from_secs(300);
const MAX_MODEL_BYTES: usize = 256;
const MAX_MESSAGES: usize = 10_000;
const MAX_SYSTEM_BYTES: usize = 1 << 20;
const MAX_STOP_SEQUENCES: usize = 16;
const MAX_STOP_SEQUENCE_BYTES: usize = 256;
const MAX_REQUEST_ID_BYTES: usize = 128;
const ROLES: [&str; 3] = ["user", "assistant", "system"];

/// What the handlers share.
pub(super) struct Ai {
    db: Db,
    config: AiConfig,
    recorder: Recorder,
    /// One place for each request to a provider that is in progress.
    places: Places<Party>,
    /// By the provider's name.
    lists: Mutex<BTreeMap<&'static str, ModelList>>,
}

/// A provider's own list of models, and where and when it was read.
struct ModelList {
    read_at: Instant,
    base_url: String,
    models: Vec<Model>,
}

/// Records a request for the statistics when it ends. One without an answer counts as failed, also if its client left.
struct CallRecord<'a> {
    recorder: &'a Recorder,
    provider: &'static str,
    model: &'a str,
    started: Instant,
    answered: Option<(Usage, Option<f64>, Vec<String>)>,
}

impl CallRecord<'_> {
    fn succeed(mut self, answer: &ChatAnswer, finish: &Finish) {
        let cost_usd = models::cost_usd(self.provider, self.model, finish.usage);
        let tools = answer.tools.iter().map(|tool| tool.name.clone()).collect();
        self.answered = Some((finish.usage.unwrap_or_default(), cost_usd, tools));
    }
}

impl Drop for CallRecord<'_> {
    fn drop(&mut self) {
        let failed = self.answered.is_none();
        let (usage, cost_usd, tools) = self.answered.take().unwrap_or_default();
        self.recorder.ai_call(&AiCall {
            provider: self.provider,
            model: self.model,
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_tokens: usage.cache_read_tokens.unwrap_or_default(),
            cache_write_tokens: usage.cache_write_tokens.unwrap_or_default(),
            cost_usd,
            latency: self.started.elapsed(),
            failed,
            tools: &tools.iter().map(String::as_str).collect::<Vec<_>>(),
        });
    }
}

/// A decoded payload of `ai:chat` and `ai:chat-stream`.
struct Question {
    provider: &'static AiProvider,
    request: ChatRequest,
    request_id: String,
    /// The chat in which the exchange is stored, and the last user message.
    chat: Option<(String, Option<chat::Content>)>,
}

impl Ai {
    pub(super) fn new(db: Db, config: AiConfig, recorder: Recorder) -> Ai {
        let places = Places::new(config.max_concurrent);
        Ai { db, config, recorder, places, lists: Mutex::default() }
    }

    pub(super) fn max_duration(&self) -> Duration {
        self.config.max_duration
    }

    pub(super) async fn chat_stream(
        &self,
        payload: &Payload,
        cx: &RequestContext,
    ) -> Result<Payload, WireError> {
        let answered = self
            .chat(payload, cx, |request_id, chunk| {
                let event = Object::new().text("requestId", request_id).raw("chunk", &chunk.to_json());
                cx.emit("ai:stream-chunk", Payload::trusted(event.finish()));
            })
            .await;
        // A payload that cannot be decoded has no `requestId`.
        let request_id = request_id(payload).unwrap_or_else(|| cx.request_id());
        let event = Object::new().text("requestId", &request_id);
        match &answered {
            Ok(response) => {
                debug_assert!(response.as_str().is_some(), "a response is JSON");
                let response = response.as_str().unwrap_or("null");
                cx.emit("ai:stream-complete", Payload::trusted(event.raw("response", response).finish()));
            }
            Err(error) => {
                let error = error_json(error);
                cx.emit("ai:stream-error", Payload::trusted(event.raw("error", &error).finish()));
            }
        }
        answered
    }

    pub(super) async fn chat(
        &self,
        payload: &Payload,
        cx: &RequestContext,
        mut on_chunk: impl FnMut(&str, &Chunk) + Send,
    ) -> Result<Payload, WireError> {
        let started = Instant::now();
        let question = read_question(payload, cx)?;
        if let Some((chat, _)) = &question.chat {
            let chat = chat.clone();
            self.db.on_behalf_of(cx.party()).read(move |view| chat::has_chat(view, &chat)).await?;
        }
        let Question { provider, request, request_id, chat } = question;
        let name = provider.name;
        let record = CallRecord {
            recorder: &self.recorder,
            provider: name,
            model: &request.model,
            started,
            answered: None,
        };
        let asking = self.ask(provider, &request, cx.party(), |chunk| on_chunk(&request_id, chunk));
        let (answer, finish) = match timeout(self.config.max_duration, asking).await {
            Ok(answered) => answered?,
            Err(_) => {
                let limit = self.config.max_duration.as_millis();
                return Err(WireError::with_code(ErrorCode::Timeout, format!("no answer within {limit} ms")));
            }
        };
        record.succeed(&answer, &finish);
        if let Some((chat, user_message)) = chat {
            let exchange = stored_exchange(name, &request, user_message, &answer, &finish);
            let db = self.db.on_behalf_of(cx.party());
            db.write(move |change| chat::store(change, &chat, &exchange)).await?;
        }
        Ok(response(&request_id, name, &request, &answer, &finish, started.elapsed()))
    }

    async fn ask(
        &self,
        provider: &'static AiProvider,
        request: &ChatRequest,
        party: Party,
        mut on_chunk: impl FnMut(&Chunk) + Send,
    ) -> Result<(ChatAnswer, Finish), WireError> {
        let dialect = match provider.engine {
            Engine::BuiltIn(generate) => {
                let (chunks, finish) = generate(request);
                let mut answer = ChatAnswer::default();
                for chunk in &chunks {
                    answer.add(chunk, usize::MAX).map_err(wire)?;
                    on_chunk(chunk);
                }
                return Ok((answer, finish));
            }
            Engine::Network(dialect) => dialect,
        };
        let name = provider.name;
        let without_key = || WireError::new(no_key(name));
        self.usable_access(name).await?.ok_or_else(without_key)?;
        let _place = self.places.acquire(party).await;
        // Read again, because the key or the base URL can have changed during the wait.
        let access = self.usable_access(name).await?.ok_or_else(without_key)?;
        Upstream { name, dialect, access, config: &self.config }.ask(request, on_chunk).await.map_err(wire)
    }

    /// Lists models: a provider's own list if there is a key, else those of the data file. In a list of all providers, one
    /// whose list cannot be read is shown with the models of the data file.
    pub(super) async fn models(&self, payload: &Payload, party: Party) -> Result<Payload, WireError> {
        let fields = Fields::decode(payload)?;
        let only = if fields.has("provider") { Some(read_provider(&fields)?) } else { None };
        let mut listed = Vec::new();
        for provider in PROVIDERS.iter().filter(|provider| only.is_none_or(|only| only.name == provider.name))
        {
            match self.list(provider, party).await {
                Ok(Some(models)) => listed.extend(models.iter().map(Model::to_json)),
                Err(error) if only.is_some() => return Err(error),
                Ok(None) | Err(_) => {
                    let known = models::known().iter().filter(|model| model.provider == provider.name);
                    listed.extend(known.map(Model::to_json));
                }
            }
        }
        Ok(Payload::trusted(array(&listed)))
    }

    /// Returns the provider's own list; `None` if it has none, or needs a key and has none.
    async fn list(
        &self,
        provider: &'static AiProvider,
        party: Party,
    ) -> Result<Option<Vec<Model>>, WireError> {
        let Engine::Network(dialect) = provider.engine else { return Ok(None) };
        let name = provider.name;
        let Some(access) = self.usable_access(name).await? else { return Ok(None) };
        if let Some(models) = self.kept_list(name, &access) {
            return Ok(Some(models));
        }
        let _place = self.places.acquire(party).await;
        // Read again, as for a question. Another request can have read the list during the wait.
        let Some(access) = self.usable_access(name).await? else { return Ok(None) };
        if let Some(models) = self.kept_list(name, &access) {
            return Ok(Some(models));
        }
        let base_url = access.base_url.clone();
        let upstream = Upstream { name, dialect, access, config: &self.config };
        let models = upstream.list_models().await.map_err(wire)?;
        let list = ModelList { read_at: Instant::now(), base_url, models: models.clone() };
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).insert(name, list);
        Ok(Some(models))
    }

    /// Returns a provider's list if it was read from the same address a short time ago.
    fn kept_list(&self, provider: &str, access: &Access) -> Option<Vec<Model>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let list = lists.get(provider).filter(|list| list.base_url == access.base_url)?;
        (list.read_at.elapsed() < LIST_LIFETIME).then(|| list.models.clone())
    }

    pub(super) async fn has_credentials(&self, payload: &Payload) -> Result<Payload, WireError> {
        let provider = read_provider(&Fields::decode(payload)?)?;
        let has = match provider.engine {
            Engine::BuiltIn(_) => true,
            Engine::Network(_) => self.access(provider.name).await?.usable_key().is_some(),
        };
        Ok(Payload::from(Value::Bool(has)))
    }

    /// Returns how to reach a provider; `None` if its own server is used and there is no key.
    async fn usable_access(&self, provider: &'static str) -> Result<Option<Access>, WireError> {
        let access = self.access(provider).await?;
        Ok(Some(access).filter(|access| access.key.is_some() || access.host == Host::Compatible))
    }

    async fn access(&self, provider: &'static str) -> Result<Access, WireError> {
        let AiConfig { api_keys, key_origins, .. } = &self.config;
        credentials::access(&self.db, "ai", provider, api_keys, key_origins).await
    }
}

fn read_provider(fields: &Fields<'_>) -> Result<&'static AiProvider, WireError> {
    let name = fields.required_one_of("provider", &providers::names())?;
    providers::find(name).ok_or_else(|| fields.wrong("provider", "provider", name))
}

/// Returns the payload's `requestId`, if it has a valid one.
fn request_id(payload: &Payload) -> Option<String> {
    Fields::decode(payload).ok()?.text("requestId", 1..=MAX_REQUEST_ID_BYTES).ok()?
}

fn read_question(payload: &Payload, cx: &RequestContext) -> Result<Question, WireError> {
    let fields = Fields::decode(payload)?;
    let provider = read_provider(&fields)?;
    let model = fields.required_text("model", 1..=MAX_MODEL_BYTES)?;
    let mut messages = Vec::new();
    let mut user_message = None;
    for message in fields.required_objects("messages", 1..=MAX_MESSAGES)? {
        let role = message.required_one_of("role", &ROLES)?;
        let content = chat::content(&message)?;
        let value = serde_json::from_str(message.required_json("content")?).map_err(|error| {
            message.wrong("content", "string or ContentBlock[] in Unicode", &error.to_string())
        })?;
        messages.push(Message { role, content: value });
        if role == "user" {
            user_message = Some(content);
        }
    }
    let request = ChatRequest {
        model,
        messages,
        system: fields.text("system", 0..=MAX_SYSTEM_BYTES)?.filter(|system| !system.is_empty()),
        temperature: fields.number("temperature", 0.0..=2.0)?,
        max_tokens: fields
            .integer("maxTokens", 1..=10_000_000)?
            .and_then(|tokens| u64::try_from(tokens).ok()),
        stop_sequences: fields
            .texts("stopSequences", 0..=MAX_STOP_SEQUENCES, 1..=MAX_STOP_SEQUENCE_BYTES)?
            .unwrap_or_default(),
        stream: fields.boolean("stream")?.unwrap_or(true),
    };
    let request_id = fields.text("requestId", 1..=MAX_REQUEST_ID_BYTES)?.unwrap_or_else(|| cx.request_id());
    let chat = fields.id("chatId")?.map(|chat| (chat, user_message));
    Ok(Question { provider, request, request_id, chat })
}

/// Returns the last user message and the answer, as a chat stores them.
fn stored_exchange(
    provider: &str,
    request: &ChatRequest,
    user_message: Option<chat::Content>,
    answer: &ChatAnswer,
    finish: &Finish,
) -> Vec<chat::NewMessage> {
    let question = user_message.map(|content| chat::NewMessage::new("user", content));
    let content = chat::Content { text: answer.text.clone(), blocks: answer.blocks() };
    let mut answered = chat::NewMessage::new("assistant", content);
    answered.provider = Some(provider.to_owned());
    answered.model = Some(request.model.clone());
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    answered.usage = finish.usage.map(|usage| (tokens(usage.input_tokens), tokens(usage.output_tokens)));
    question.into_iter().chain([answered]).collect()
}

fn response(
    request_id: &str,
    provider: &str,
    request: &ChatRequest,
    answer: &ChatAnswer,
    finish: &Finish,
    took: Duration,
) -> Payload {
    let cost = models::cost_usd(provider, &request.model, finish.usage);
    let response = Object::new()
        .text("requestId", request_id)
        .text("provider", provider)
        .text("model", &request.model)
        .text("content", &answer.text)
        .text("stopReason", finish.stop_reason.as_str())
        .raw("usage", &finish.usage.unwrap_or_default().to_json())
        .number("costUsd", cost)
        .raw("latencyMs", &took.as_millis().to_string());
    Payload::trusted(response.finish())
}

fn wire(failure: Failure) -> WireError {
    let error = WireError::new(failure.message);
    match failure.retry_after {
        Some(pause) => error.details(Payload::trusted(
            Object::new().raw("retryAfterMs", &pause.as_millis().to_string()).finish(),
        )),
        None => error,
    }
}

fn error_json(error: &WireError) -> String {
    let object = Object::new().text("code", error.code.as_str()).text("message", &error.message);
    match error.details.as_str() {
        Some(details) => object.raw("details", details).finish(),
        None => object.finish(),
    }
}
