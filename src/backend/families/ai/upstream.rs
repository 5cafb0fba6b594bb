//! One question to a provider over the network: retries, the stream, the answer. In: a [`ChatRequest`], an address and a
//! key. Out: chunks as they come, then the answer.
//!
//! 429, 5xx and errors that a provider calls passing are tried again before the first chunk, never after it.

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::time::sleep;

use super::config::AiConfig;
use super::exchange::{Answer, ChatRequest, Chunk, End, Failure, Provider, Reply};
use super::models::{self, Model};
use super::sse::{Decoder, SseLimits};
use super::{anthropic, openai};
use crate::backend::shared::http::{self, Outgoing, Response, Timeouts};
use crate::backend::shared::provider::{Access, check_status, retry_pause, unreachable};

/// Longest list of models, in bytes.
const MAX_LIST_BYTES: usize = 8 << 20;

/// Asks, and hands each chunk to `tell` as it comes.
pub(super) async fn ask(
    request: &ChatRequest,
    access: &Access,
    config: &AiConfig,
    mut tell: impl FnMut(&Chunk) + Send,
) -> Result<(Answer, End), Failure> {
    let mut retries = 0;
    loop {
        let mut has_begun = false;
        let attempt = attempt(request, access, config, |chunk| {
            has_begun = true;
            tell(chunk);
        });
        let failure = match attempt.await {
            Ok(answered) => return Ok(answered),
            Err(failure) => failure,
        };
        let pause = retry_pause(&failure, retries, config.retry_pause, config.max_retry_pause);
        let Some(pause) = pause.filter(|_| !has_begun) else {
            return Err(access.in_words_of_ours(request.provider.as_str(), failure));
        };
        retries += 1;
        sleep(pause).await;
    }
}

async fn attempt(
    request: &ChatRequest,
    access: &Access,
    config: &AiConfig,
    mut tell: impl FnMut(&Chunk) + Send,
) -> Result<(Answer, End), Failure> {
    let (path, body) = match request.provider {
        Provider::Anthropic => {
            let max_output =
                models::find(request.provider, &request.model).and_then(|model| model.max_output);
            ("/v1/messages", anthropic::request_json(request, max_output))
        }
        _ => {
            let dialect = if access.is_own { openai::Dialect::Own } else { openai::Dialect::Compatible };
            ("/chat/completions", openai::request_json(request, dialect))
        }
    };
    let accept = if request.stream { "text/event-stream" } else { "application/json" };
    let outgoing = outgoing(request.provider, access, Method::POST, path, accept, body)?;
    // A whole answer is long in coming, and then comes at once.
    let head = if request.stream { config.idle_timeout } else { config.max_duration };
    let timeouts = Timeouts { connect: config.connect_timeout, head, idle: config.idle_timeout };
    let mut response =
        http::send(outgoing, timeouts, config.max_response_bytes).await.map_err(unreachable)?;
    check_status(&mut response).await?;

    let mut answer = Answer::default();
    let mut take = |chunks: &mut Vec<Chunk>| {
        chunks.drain(..).try_for_each(|chunk| {
            answer.take(&chunk, config.max_answer_bytes)?;
            tell(&chunk);
            Ok(())
        })
    };
    let mut chunks = Vec::new();
    let end = if is_json(&response) {
        let body = response.text().await.map_err(unreachable)?;
        let end = match request.provider {
            Provider::Anthropic => anthropic::read_whole(&body, &mut chunks)?,
            _ => openai::read_whole(&body, &mut chunks)?,
        };
        take(&mut chunks)?;
        end
    } else {
        let mut reply: Box<dyn Reply> = match request.provider {
            Provider::Anthropic => Box::<anthropic::Stream>::default(),
            _ => Box::<openai::Stream>::default(),
        };
        read_stream(&mut response, &mut *reply, config.sse, &mut take).await?;
        let end = reply.finish(&mut chunks)?;
        take(&mut chunks)?;
        end
    };
    Ok((answer, end))
}

async fn read_stream(
    response: &mut Response,
    reply: &mut dyn Reply,
    limits: SseLimits,
    take: &mut (impl FnMut(&mut Vec<Chunk>) -> Result<(), Failure> + Send),
) -> Result<(), Failure> {
    let mut decoder = Decoder::new(limits);
    let mut chunks = Vec::new();
    while !reply.is_done() {
        let Some(bytes) = response.next().await.map_err(unreachable)? else { break };
        let decoded = decoder.handle(&bytes);
        while let Some(event) = decoder.poll_event() {
            let handled = reply.handle(&event.data, &mut chunks);
            take(&mut chunks)?;
            handled?;
            if reply.is_done() {
                return Ok(());
            }
        }
        decoded.map_err(|error| Failure::new(error.to_string()))?;
        // The task is the client's: what was told goes out before more comes in.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The provider's own list of models.
pub(super) async fn list_models(
    provider: Provider,
    access: &Access,
    config: &AiConfig,
) -> Result<Vec<Model>, Failure> {
    let path = if provider == Provider::Anthropic { "/v1/models?limit=1000" } else { "/models" };
    let listed = async {
        let outgoing = outgoing(provider, access, Method::GET, path, "application/json", String::new())?;
        let timeouts = Timeouts {
            connect: config.connect_timeout,
            head: config.idle_timeout,
            idle: config.idle_timeout,
        };
        let mut response = http::send(outgoing, timeouts, MAX_LIST_BYTES).await.map_err(unreachable)?;
        check_status(&mut response).await?;
        models::read_list(provider, &response.text().await.map_err(unreachable)?)
    };
    listed.await.map_err(|failure| access.in_words_of_ours(provider.as_str(), failure))
}

fn outgoing(
    provider: Provider,
    access: &Access,
    method: Method,
    path: &str,
    accept: &'static str,
    body: String,
) -> Result<Outgoing, Failure> {
    let mut outgoing = access.outgoing(method, path, accept, body, |key| match provider {
        Provider::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
        _ => (AUTHORIZATION, format!("Bearer {key}")),
    })?;
    if provider == Provider::Anthropic {
        let version = HeaderName::from_static("anthropic-version");
        outgoing.headers.push((version, HeaderValue::from_static(anthropic::VERSION)));
    }
    Ok(outgoing)
}

fn is_json(response: &Response) -> bool {
    response.header("content-type").trim_start().to_ascii_lowercase().starts_with("application/json")
}
