//! The handlers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::backend::shared::db::Db;
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::provider::Access;
use crate::backend::shared::token::Token;
use crate::backend::shared::validate::Fields;
use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::server::RequestContext;

use super::super::analytics::{AiCall, Recorder};
use super::super::{chat, credentials, settings};
use super::config::AiConfig;
use super::exchange::{Answer, ChatRequest, Chunk, End, Failure, Message, Provider, Usage};
use super::models::{self, Model};
use super::{echo, upstream};

/// How long a provider's list of models is good for.
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
    places: Semaphore,
    lists: Mutex<BTreeMap<Provider, List>>,
}

/// A provider's list of models, and where and when it was read.
struct List {
    read_at: Instant,
    base_url: String,
    models: Vec<Model>,
}

/// A call that is counted when it ends, however it ends: with an answer, with an error, or because the client has left.
struct Call<'a> {
    recorder: &'a Recorder,
    request: &'a ChatRequest,
    started: Instant,
    answered: Option<(Usage, Option<f64>, Vec<String>)>,
}

impl<'a> Call<'a> {
    fn new(recorder: &'a Recorder, request: &'a ChatRequest, started: Instant) -> Call<'a> {
        Call { recorder, request, started, answered: None }
    }

    fn succeed(mut self, answer: &Answer, end: &End) {
        let cost_usd = models::cost_usd(self.request.provider, &self.request.model, end.usage);
        let tools = answer.tools.iter().map(|tool| tool.name.clone()).collect();
        self.answered = Some((end.usage.unwrap_or_default(), cost_usd, tools));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let failed = self.answered.is_none();
        let (usage, cost_usd, tools) = self.answered.take().unwrap_or_default();
        self.recorder.ai_call(&AiCall {
            provider: self.request.provider.as_str(),
            model: &self.request.model,
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

/// A request that was understood.
struct Question {
    request: ChatRequest,
    request_id: String,
    /// Where the exchange is stored, and its last user message.
    chat: Option<(String, Option<chat::Content>)>,
}

impl Ai {
    pub(super) fn new(db: Db, config: AiConfig, recorder: Recorder) -> Ai {
        let places = Semaphore::new(config.max_concurrent.clamp(1, Semaphore::MAX_PERMITS));
        Ai { db, config, recorder, places, lists: Mutex::default() }
    }

    pub(super) async fn chat_stream(
        &self,
        payload: &Payload,
        cx: &RequestContext,
    ) -> Result<Payload, WireError> {
        let answered = self
            .chat(payload, cx, |request_id, chunk| {
                let chunk = Object::new().text("requestId", request_id).raw("chunk", &chunk.to_json());
                cx.emit("ai:stream-chunk", Payload::trusted(chunk.finish()));
            })
            .await;
        // One that cannot be read has no id of its own.
        let request_id = request_id(payload).unwrap_or_else(|| cx.request_id());
        let told = Object::new().text("requestId", &request_id);
        match &answered {
            Ok(response) => {
                let response = response.as_str().unwrap_or("null");
                cx.emit("ai:stream-complete", Payload::trusted(told.raw("response", response).finish()));
            }
            Err(error) => {
                let error = error_json(error);
                cx.emit("ai:stream-error", Payload::trusted(told.raw("error", &error).finish()));
            }
        }
        answered
    }

    pub(super) async fn chat(
        &self,
        payload: &Payload,
        cx: &RequestContext,
        mut tell: impl FnMut(&str, &Chunk) + Send,
    ) -> Result<Payload, WireError> {
        let started = Instant::now();
        let question = read_question(payload, cx)?;
        if let Some((chat, _)) = &question.chat {
            let chat = chat.clone();
            self.db.read(move |view| chat::has_chat(view, &chat)).await?;
        }
        let Question { request, request_id, chat } = question;
        let call = Call::new(&self.recorder, &request, started);
        let answered =
            timeout(self.config.max_duration, self.ask(&request, |chunk| tell(&request_id, chunk)));
        let (answer, end) = match answered.await {
            Ok(answered) => answered?,
            Err(_) => {
                let limit = self.config.max_duration.as_millis();
                return Err(WireError::with_code(ErrorCode::Timeout, format!("no answer within {limit} ms")));
            }
        };
        call.succeed(&answer, &end);
        if let Some((chat, asked)) = chat {
            let exchange = stored_exchange(&request, asked, &answer, &end);
            let stored = self.db.write(cx.server(), move |change| chat::store(change, &chat, &exchange));
            stored.await?;
        }
        Ok(response(&request_id, &request, &answer, &end, started.elapsed()))
    }

    async fn ask(
        &self,
        request: &ChatRequest,
        mut tell: impl FnMut(&Chunk) + Send,
    ) -> Result<(Answer, End), WireError> {
        if request.provider == Provider::Echo {
            let (chunks, end) = echo::answer(request);
            let mut answer = Answer::default();
            for chunk in &chunks {
                answer.take(chunk, usize::MAX).map_err(wire)?;
                tell(chunk);
            }
            return Ok((answer, end));
        }
        let access = self.access(request.provider).await?;
        if access.key.is_none() && access.is_own {
            let name = request.provider.as_str();
            return Err(WireError::new(format!("{name}: there is no key: set the credential \"{name}\"")));
        }
        let _place = self.places.acquire().await.map_err(|_| WireError::new("the server stops"))?;
        upstream::ask(request, &access, &self.config, tell).await.map_err(wire)
    }

    /// The provider's own list where there is a key, else what the data file knows. Asked for all providers, one that
    /// does not answer is answered for by the data file.
    pub(super) async fn models(&self, payload: &Payload) -> Result<Payload, WireError> {
        let fields = Fields::decode(payload)?;
        let asked = if fields.has("provider") { Some(provider(&fields)?) } else { None };
        let mut shown = Vec::new();
        for provider in
            Provider::ALL.into_iter().filter(|provider| asked.is_none_or(|asked| asked == *provider))
        {
            match self.list(provider).await {
                Ok(Some(models)) => shown.extend(models.iter().map(Model::to_json)),
                Err(error) if asked.is_some() => return Err(error),
                Ok(None) | Err(_) => {
                    let known = models::known().iter().filter(|model| model.is_of(provider));
                    shown.extend(known.map(Model::to_json));
                }
            }
        }
        Ok(Payload::trusted(array(&shown)))
    }

    /// The provider's own list; `None` for one that needs a key and has none.
    async fn list(&self, provider: Provider) -> Result<Option<Vec<Model>>, WireError> {
        if provider == Provider::Echo {
            return Ok(None);
        }
        let access = self.access(provider).await?;
        if access.key.is_none() && access.is_own {
            return Ok(None);
        }
        if let Some(list) = self.lists.lock().unwrap_or_else(PoisonError::into_inner).get(&provider)
            && list.base_url == access.base_url
            && list.read_at.elapsed() < LIST_LIFETIME
        {
            return Ok(Some(list.models.clone()));
        }
        let models = upstream::list_models(provider, &access, &self.config).await.map_err(wire)?;
        let list = List { read_at: Instant::now(), base_url: access.base_url, models: models.clone() };
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).insert(provider, list);
        Ok(Some(models))
    }

    pub(super) async fn has_credentials(&self, payload: &Payload) -> Result<Payload, WireError> {
        let provider = provider(&Fields::decode(payload)?)?;
        let has = provider == Provider::Echo || self.key(provider).await?.is_some();
        Ok(Payload::from(Value::Bool(has)))
    }

    async fn access(&self, provider: Provider) -> Result<Access, WireError> {
        let setting = format!("ai.{}.baseUrl", provider.as_str());
        let base_url = settings::text(&self.db, &setting).await?;
        let is_own = base_url.is_default;
        Ok(Access { base_url: base_url.text, is_own, key: self.key(provider).await? })
    }

    async fn key(&self, provider: Provider) -> Result<Option<Token>, WireError> {
        let own = credentials::token(&self.db, provider.as_str()).await?;
        Ok(own.or_else(|| self.config.api_keys.get(provider.as_str()).cloned()))
    }
}

fn provider(fields: &Fields<'_>) -> Result<Provider, WireError> {
    let name = fields.required_one_of("provider", &Provider::NAMES)?;
    Provider::from_name(name).ok_or_else(|| fields.wrong("provider", "provider", name))
}

/// The payload's `requestId`, if it has a usable one.
fn request_id(payload: &Payload) -> Option<String> {
    Fields::decode(payload).ok()?.text("requestId", 1..=MAX_REQUEST_ID_BYTES).ok()?
}

fn read_question(payload: &Payload, cx: &RequestContext) -> Result<Question, WireError> {
    let fields = Fields::decode(payload)?;
    let provider = provider(&fields)?;
    let model = fields.required_text("model", 1..=MAX_MODEL_BYTES)?;
    let mut messages = Vec::new();
    let mut asked = None;
    for message in fields.required_objects("messages", 1..=MAX_MESSAGES)? {
        let role = message.required_one_of("role", &ROLES)?;
        let content = chat::content(&message)?;
        let value = serde_json::from_str(message.required_json("content")?).map_err(|error| {
            message.wrong("content", "string or ContentBlock[] in Unicode", &error.to_string())
        })?;
        messages.push(Message { role, content: value });
        if role == "user" {
            asked = Some(content);
        }
    }
    let request = ChatRequest {
        provider,
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
    let chat = fields.id("chatId")?.map(|chat| (chat, asked));
    Ok(Question { request, request_id, chat })
}

/// The last user message and the answer, as a chat stores them.
fn stored_exchange(
    request: &ChatRequest,
    asked: Option<chat::Content>,
    answer: &Answer,
    end: &End,
) -> Vec<chat::NewMessage> {
    let asked = asked.map(|content| chat::NewMessage::new("user", content));
    let content = chat::Content { text: answer.text.clone(), blocks: answer.blocks() };
    let mut answered = chat::NewMessage::new("assistant", content);
    answered.provider = Some(request.provider.as_str().to_owned());
    answered.model = Some(request.model.clone());
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    answered.usage = end.usage.map(|usage| (tokens(usage.input_tokens), tokens(usage.output_tokens)));
    asked.into_iter().chain([answered]).collect()
}

fn response(request_id: &str, request: &ChatRequest, answer: &Answer, end: &End, took: Duration) -> Payload {
    let cost = models::cost_usd(request.provider, &request.model, end.usage);
    let response = Object::new()
        .text("requestId", request_id)
        .text("provider", request.provider.as_str())
        .text("model", &request.model)
        .text("content", &answer.text)
        .text("stopReason", end.stop_reason.as_str())
        .raw("usage", &end.usage.unwrap_or_default().to_json())
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
