//! Requests to providers over the network, the same for all families: the address and the key, when a failed request is
//! retried, and how much of a provider's error message clients get.

use std::fmt;
use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use serde_json::Value;

use super::http::{Endpoint, HttpError, Outgoing, Response};
use super::token::Token;

/// Attempts beyond the first.
const MAX_RETRIES: u32 = 2;

/// Whose server a base URL points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// The provider's own: the base URL is the default.
    Own,
    /// Another server that implements the same API.
    Compatible,
}

/// The address of a provider's server, and the key for it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) base_url: String,
    pub(crate) host: Host,
    pub(crate) key: Option<Token>,
}

impl Access {
    /// Builds a request to a path below the base URL. `key_header` returns the header that carries the key.
    ///
    /// # Errors
    /// When the base URL is invalid, or the key cannot be sent there.
    pub(crate) fn outgoing(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        body: String,
        key_header: impl FnOnce(&str) -> (HeaderName, String),
    ) -> Result<Outgoing, Failure> {
        let endpoint = Endpoint::new(&self.base_url, path).map_err(unreachable)?;
        let mut headers = vec![
            (ACCEPT, HeaderValue::from_static(accept)),
            (USER_AGENT, HeaderValue::from_static(concat!("switchboard/", env!("CARGO_PKG_VERSION")))),
        ];
        if method == Method::POST {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        if let Some(key) = &self.key {
            if !endpoint.is_private() {
                return Err(Failure::new("a key is sent over http:// only to this machine; use https://"));
            }
            let (name, value) = key_header(key.reveal());
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| Failure::new("the key has characters that are not allowed in a header"))?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        Ok(Outgoing { method, endpoint, headers, body })
    }

    /// Prefixes a failure with the provider's name and removes the key from it.
    pub(crate) fn redacted(&self, provider: &str, failure: Failure) -> Failure {
        let text = quoted(&failure.message, self.key.as_ref().map(Token::reveal));
        Failure { message: format!("{provider}: {text}"), ..failure }
    }
}

/// Why a provider returned no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The error text. It never contains keys or messages of a chat.
    pub(crate) message: String,
    /// Whether the same request can succeed if it is repeated.
    pub(crate) transient: bool,
    /// The pause that the provider asked for.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), transient: false, retry_after: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The error for a provider that requires a key and has none.
pub(crate) fn no_key(provider: &str) -> String {
    format!("{provider}: no API key; set the credential \"{provider}\"")
}

/// Returns the pause before a failed request is retried; `None` if it is not retried. The second pause is twice the first. If
/// the provider asked for a pause, that is used instead.
pub(crate) fn retry_pause(
    failure: &Failure,
    retries: u32,
    pause: Duration,
    max_pause: Duration,
) -> Option<Duration> {
    let pause = failure.retry_after.unwrap_or(pause * 2_u32.pow(retries.min(MAX_RETRIES)));
    let again = failure.transient && retries < MAX_RETRIES && pause <= max_pause;
    again.then(|| pause + jitter(pause))
}

/// Returns up to a fifth of a pause, so that requests that failed together are not retried together.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX) / 5.0)
}

/// Checks that a response is a success and not compressed.
///
/// # Errors
/// With the status and the error text of the response.
pub(crate) async fn check_status(response: &mut Response) -> Result<(), Failure> {
    let status = response.status;
    if status.is_success() {
        let encoding = response.header("content-encoding");
        if !encoding.is_empty() && encoding != "identity" {
            return Err(Failure::new("unexpected compressed response"));
        }
        return Ok(());
    }
    let retry_after = retry_after(response.header("retry-after-ms"), response.header("retry-after"));
    let message = match status.as_u16() {
        // The body is not shown: some providers repeat a part of the key in it.
        401 | 403 => "the key was refused".to_owned(),
        300..=399 => "redirects are not followed".to_owned(),
        _ => error_text(&response.error_body().await),
    };
    let transient = status.as_u16() == 429 || status.is_server_error() || status.as_u16() >= 500;
    Err(Failure { message: format!("{}: {message}", status.as_u16()), transient, retry_after })
}

/// Reads `retry-after-ms` or `retry-after` in seconds. The standard also allows a date, which no provider uses.
fn retry_after(millis: &str, seconds: &str) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| (0.0..=1e9).contains(number));
    let millis = number(millis).or_else(|| Some(number(seconds)? * 1000.0))?;
    Some(Duration::from_secs_f64(millis / 1000.0))
}

/// The failure for a request without a response.
pub(crate) fn unreachable(error: HttpError) -> Failure {
    Failure::new(error.to_string())
}

/// Returns a provider's text on one line, shortened, and without the secret.
pub(crate) fn quoted(text: &str, secret: Option<&str>) -> String {
    const MAX_CHARS: usize = 300;
    let hidden = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "***"),
        _ => text.to_owned(),
    };
    hidden.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect()
}

/// Returns the error text of a failed response: the usual members of providers, else the first line of the body.
pub(crate) fn error_text(body: &str) -> String {
    if let Ok(value) = serde_json::from_str::<Value>(body) {
        let error = value.get("error").unwrap_or(&value);
        if let Some(text) = ["message", "detail"]
            .into_iter()
            .find_map(|name| error.get(name).and_then(Value::as_str))
            .or_else(|| error.as_str())
        {
            return text.to_owned();
        }
    }
    body.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_can_ask_for_a_pause() {
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
    fn error_texts_are_shortened_and_never_contain_the_key() {
        for (body, text) in [
            (r#"{"type":"error","error":{"type":"x","message":"m"}}"#, "m"),
            (r#"{"error":"m"}"#, "m"),
            (r#"{"message":"m"}"#, "m"),
            (r#"{"detail":"m"}"#, "m"),
            ("<html>\nlong", "<html>"),
            ("", ""),
        ] {
            assert_eq!(error_text(body), text);
        }
        assert_eq!(quoted("bad key sk-1\r\nsk-1!", Some("sk-1")), "bad key ***  ***!");
        assert_eq!(quoted(&"é".repeat(500), None).chars().count(), 300);
    }

    #[test]
    fn a_key_is_sent_over_tls_or_only_to_this_machine() {
        let fits = |base_url: &str, key: Option<&str>| {
            let base_url = base_url.to_owned();
            let access = Access { base_url, host: Host::Compatible, key: key.map(Token::new) };
            let key_header = |key: &str| (hyper::header::AUTHORIZATION, format!("Bearer {key}"));
            access.outgoing(Method::POST, "/p", "x", String::new(), key_header).is_ok()
        };
        assert!(fits("https://far.example", Some("k")));
        assert!(fits("http://127.0.0.1:5", Some("k")));
        assert!(fits("http://far.example", None));
        assert!(!fits("http://far.example", Some("k")));
        assert!(!fits("https://far.example", Some("k\n")));
    }

    #[test]
    fn a_temporary_failure_is_retried_twice() {
        let ms = Duration::from_millis;
        let failure = |transient, retry_after: Option<u64>| Failure {
            transient,
            retry_after: retry_after.map(ms),
            ..Failure::new("x")
        };
        let within = |failure: &Failure, retries, least: u64| {
            let pause = retry_pause(failure, retries, ms(100), ms(1000)).unwrap();
            assert!((ms(least)..=ms(least * 6 / 5)).contains(&pause), "{pause:?}");
        };
        within(&failure(true, None), 0, 100);
        within(&failure(true, None), 1, 200);
        within(&failure(true, Some(1000)), 1, 1000);
        for (failure, retries) in
            [(failure(true, None), 2), (failure(false, None), 0), (failure(true, Some(1001)), 0)]
        {
            assert_eq!(retry_pause(&failure, retries, ms(100), ms(1000)), None);
        }
    }
}
