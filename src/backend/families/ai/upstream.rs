//! One request to a provider over the network, with retries. Input: a [`ChatRequest`], an address and a key. Output: chunks as
//! they arrive, then the answer.
//!
//! 429, 5xx and errors that a provider reports as temporary are retried, but only before the first chunk.

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::sleep;

use crate::backend::shared::http::{self, Outgoing, Response, Timeouts};
use crate::backend::shared::provider::{Access, check_status, retry_pause, unreachable};

use super::config::AiConfig;
use super::dialect::{Dialect, StreamReader, Target};
use super::exchange::{ChatAnswer, ChatRequest, Chunk, Failure, Finish};
use super::models::{self, Model};
use super::sse::{Decoder, SseLimits};

/// Longest list of models, in bytes.
const MAX_LIST_BYTES: usize = 8 << 20;

/// A provider's server.
pub(super) struct Upstream<'a> {
    /// The provider's name.
    pub(super) name: &'static str,
    pub(super) dialect: &'static Dialect,
    pub(super) access: Access,
    pub(super) config: &'a AiConfig,
}

impl Upstream<'_> {
    /// Sends a request and calls `on_chunk` with each chunk as it arrives.
    ///
    /// # Errors
    /// When there is no complete answer. The message contains the provider's name and never the key.
    pub(super) async fn ask(
        &self,
        request: &ChatRequest,
        mut on_chunk: impl FnMut(&Chunk) + Send,
    ) -> Result<(ChatAnswer, Finish), Failure> {
        let mut retries = 0;
        loop {
            let mut has_started = false;
            let attempt = self.attempt(request, |chunk| {
                has_started = true;
                on_chunk(chunk);
            });
            let failure = match attempt.await {
                Ok(answered) => return Ok(answered),
                Err(failure) => failure,
            };
            let (pause, max_pause) = (self.config.retry_pause, self.config.max_retry_pause);
            let pause = retry_pause(&failure, retries, pause, max_pause);
            let Some(pause) = pause.filter(|_| !has_started) else {
                return Err(self.access.redacted(failure));
            };
            retries += 1;
            sleep(pause).await;
        }
    }

    /// Returns the provider's own list of models.
    ///
    /// # Errors
    /// As [`ask`](Upstream::ask).
    pub(super) async fn list_models(&self) -> Result<Vec<Model>, Failure> {
        let listed = async {
            let path = self.dialect.models_path;
            let outgoing = self.outgoing(Method::GET, path, "application/json", String::new())?;
            let timeouts = Timeouts {
                connect: self.config.connect_timeout,
                head: self.config.idle_timeout,
                idle: self.config.idle_timeout,
            };
            let mut response = http::send(outgoing, timeouts, MAX_LIST_BYTES).await.map_err(unreachable)?;
            check_status(&self.access, &mut response).await?;
            models::read_list(self.name, &response.text().await.map_err(unreachable)?)
        };
        listed.await.map_err(|failure| self.access.redacted(failure))
    }

    async fn attempt(
        &self,
        request: &ChatRequest,
        mut on_chunk: impl FnMut(&Chunk) + Send,
    ) -> Result<(ChatAnswer, Finish), Failure> {
        let (config, dialect) = (self.config, self.dialect);
        let max_output = models::find(self.name, &request.model).and_then(|model| model.max_output);
        let body = (dialect.request)(request, Target { host: self.access.host, max_output });
        let accept = if request.stream { "text/event-stream" } else { "application/json" };
        let outgoing = self.outgoing(Method::POST, dialect.chat_path, accept, body)?;
        // Without a stream the provider is silent until the answer is complete.
        let head = if request.stream { config.idle_timeout } else { config.max_duration };
        let timeouts = Timeouts { connect: config.connect_timeout, head, idle: config.idle_timeout };
        let mut response =
            http::send(outgoing, timeouts, config.max_response_bytes).await.map_err(unreachable)?;
        check_status(&self.access, &mut response).await?;

        let mut answer = ChatAnswer::default();
        let mut take = |chunks: &mut Vec<Chunk>| {
            chunks.drain(..).try_for_each(|chunk| {
                answer.add(&chunk, config.max_answer_bytes)?;
                on_chunk(&chunk);
                Ok(())
            })
        };
        let mut chunks = Vec::new();
        let finish = if is_json(&response) {
            let body = response.text().await.map_err(unreachable)?;
            (dialect.read_whole)(&body, &mut chunks)?
        } else {
            let mut reader = (dialect.stream)();
            read_stream(&mut response, &mut *reader, config.sse, &mut take).await?;
            reader.finish(&mut chunks)?
        };
        take(&mut chunks)?;
        Ok((answer, finish))
    }

    fn outgoing(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: String,
    ) -> Result<Outgoing, Failure> {
        let Dialect { key_header, key_prefix, headers, .. } = self.dialect;
        let mut outgoing = self.access.outgoing(method, path, accept, body, |key| {
            (HeaderName::from_static(key_header), format!("{key_prefix}{key}"))
        })?;
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        outgoing.headers.extend(headers);
        Ok(outgoing)
    }
}

async fn read_stream(
    response: &mut Response,
    reader: &mut dyn StreamReader,
    limits: SseLimits,
    take: &mut (impl FnMut(&mut Vec<Chunk>) -> Result<(), Failure> + Send),
) -> Result<(), Failure> {
    let mut decoder = Decoder::new(limits);
    let mut chunks = Vec::new();
    while !reader.is_done() {
        let Some(bytes) = response.next().await.map_err(unreachable)? else { break };
        let decoded = decoder.handle(&bytes);
        while let Some(event) = decoder.poll_event() {
            let handled = reader.handle(&event.data, &mut chunks);
            take(&mut chunks)?;
            handled?;
            if reader.is_done() {
                return Ok(());
            }
        }
        decoded.map_err(|error| Failure::new(error.to_string()))?;
        // Lets the client's task send the chunks before more bytes are read.
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn is_json(response: &Response) -> bool {
    response.header("content-type").trim_start().to_ascii_lowercase().starts_with("application/json")
}
