//! One question to a provider over the network: retries, the stream, the answer. In: a [`ChatRequest`], an address and a
//! key. Out: chunks as they come, then the answer.
//!
//! 429, 5xx and errors that a provider calls passing are tried again before the first chunk, never after it.

use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use tokio::time::sleep;

use super::super::credentials::Token;
use super::super::http::{self, Endpoint, HttpError, Outgoing, Response, Timeouts};
use super::exchange::{Answer, ChatRequest, Chunk, End, Failure, Provider, Reply, error_text, quoted};
use super::models::{self, Model};
use super::sse::{Decoder, SseLimits};
use super::{AiConfig, anthropic, openai};

/// Attempts beyond the first.
const MAX_RETRIES: u32 = 2;
/// Longest list of models, in bytes.
const MAX_LIST_BYTES: usize = 8 << 20;

/// Where a provider is, and what it is shown.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) base_url: String,
    /// Whether that is the provider's own server.
    pub(super) is_own: bool,
    pub(super) key: Option<Token>,
}

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
        let pause = failure.retry_after.unwrap_or(config.retry_pause * 2_u32.pow(retries));
        if has_begun || !failure.transient || retries >= MAX_RETRIES || pause > config.max_retry_pause {
            return Err(in_words_of_ours(request.provider, failure, access));
        }
        retries += 1;
        sleep(pause + jitter(pause)).await;
    }
}

/// Up to a fifth of a pause, so that those who were refused together do not come back together.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX) / 5.0)
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
    listed.await.map_err(|failure| in_words_of_ours(provider, failure, access))
}

fn outgoing(
    provider: Provider,
    access: &Access,
    method: Method,
    path: &str,
    accept: &'static str,
    body: String,
) -> Result<Outgoing, Failure> {
    let endpoint = Endpoint::new(&access.base_url, path).map_err(|error| Failure::new(error.to_string()))?;
    let mut headers = vec![
        (ACCEPT, HeaderValue::from_static(accept)),
        (USER_AGENT, HeaderValue::from_static(concat!("switchboard/", env!("CARGO_PKG_VERSION")))),
    ];
    if method == Method::POST {
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
    }
    if provider == Provider::Anthropic {
        headers.push((
            HeaderName::from_static("anthropic-version"),
            HeaderValue::from_static(anthropic::VERSION),
        ));
    }
    if let Some(key) = &access.key {
        if !endpoint.is_private() {
            return Err(Failure::new("a key is not sent over http:// beyond this machine: use https://"));
        }
        let (name, value) = match provider {
            Provider::Anthropic => (HeaderName::from_static("x-api-key"), key.reveal().to_owned()),
            _ => (AUTHORIZATION, format!("Bearer {}", key.reveal())),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| Failure::new("the key has characters that cannot stand in a header"))?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(Outgoing { method, endpoint, headers, body })
}

async fn check_status(response: &mut Response) -> Result<(), Failure> {
    let status = response.status;
    if status.is_success() {
        let encoding = response.header("content-encoding");
        if !encoding.is_empty() && encoding != "identity" {
            return Err(Failure::new("a compressed response, which was not asked for"));
        }
        return Ok(());
    }
    let retry_after = retry_after(response.header("retry-after-ms"), response.header("retry-after"));
    let message = match status.as_u16() {
        // Some say the key again, in part.
        401 | 403 => "the key was refused".to_owned(),
        300..=399 => "a redirect, which is not followed".to_owned(),
        _ => error_text(&response.error_body().await),
    };
    let transient = status.as_u16() == 429 || status.is_server_error() || status.as_u16() >= 500;
    Err(Failure { message: format!("{}: {message}", status.as_u16()), transient, retry_after })
}

/// Seconds, or milliseconds under another name. A date, which the standard allows too, is not used by any provider.
fn retry_after(millis: &str, seconds: &str) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| (0.0..=1e9).contains(number));
    let millis = number(millis).or_else(|| Some(number(seconds)? * 1000.0))?;
    Some(Duration::from_secs_f64(millis / 1000.0))
}

fn is_json(response: &Response) -> bool {
    response.header("content-type").trim_start().to_ascii_lowercase().starts_with("application/json")
}

fn unreachable(error: HttpError) -> Failure {
    Failure::new(error.to_string())
}

fn in_words_of_ours(provider: Provider, failure: Failure, access: &Access) -> Failure {
    let said = quoted(&failure.message, access.key.as_ref().map(Token::reveal));
    Failure { message: format!("{}: {said}", provider.as_str()), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_may_say_when_to_come_back() {
        for (millis, seconds, expected) in [
            ("", "", None),
            ("", "2", Some(2000)),
            ("", "0.5", Some(500)),
            ("70", "2", Some(70)),
            ("", "Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("", "-1", None),
            ("", "1e300", None),
            ("NaN", "NaN", None),
        ] {
            assert_eq!(
                retry_after(millis, seconds).map(|pause| pause.as_millis()),
                expected,
                "{millis} {seconds}"
            );
        }
    }

    #[test]
    fn a_key_goes_over_tls_or_stays_on_this_machine() {
        let access = |base_url: &str, key: Option<&str>| Access {
            base_url: base_url.to_owned(),
            is_own: false,
            key: key.map(Token::new),
        };
        let fits = |access: &Access| {
            outgoing(Provider::OpenAi, access, Method::POST, "/p", "x", String::new()).is_ok()
        };
        assert!(fits(&access("https://far.example", Some("k"))));
        assert!(fits(&access("http://127.0.0.1:5", Some("k"))));
        assert!(fits(&access("http://far.example", None)));
        assert!(!fits(&access("http://far.example", Some("k"))));
        assert!(!fits(&access("https://far.example", Some("k\n"))));
    }
}
