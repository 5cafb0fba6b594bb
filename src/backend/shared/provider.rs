//! Requests to providers over the network, the same for all families: the address and the key, where a key can be sent, when a
//! failed request is retried, and how much of a provider's error message clients get.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use serde_json::Value;

use crate::protocol::handshake::base64;

use super::http::{Endpoint, HttpError, Outgoing, Response};
use super::origin::Origin;
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

/// Who gave a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// A client, as a credential.
    Stored,
    /// The operator, in the configuration.
    Configured,
}

/// A key of a provider, with the origins that it was given for. It is sent to no other one.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) token: Token,
    pub(crate) origins: Vec<Origin>,
    pub(crate) source: KeySource,
}

/// The address of a provider's server, and the key of the provider.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The provider's name, which is also that of its credential.
    pub(crate) provider: &'static str,
    pub(crate) base_url: String,
    pub(crate) host: Host,
    pub(crate) key: Option<Key>,
}

impl Access {
    /// Returns the key if it was given for the origin of the base URL.
    pub(crate) fn usable_key(&self) -> Option<&Token> {
        let origin: Origin = self.base_url.parse().ok()?;
        self.key.as_ref().filter(|key| key.origins.contains(&origin)).map(|key| &key.token)
    }

    /// Builds a request to a path below the base URL. `key_header` returns the header that carries the key.
    ///
    /// A configured key that is not for the origin of the base URL is left out: a server with the same API can need none.
    ///
    /// # Errors
    /// When the base URL is invalid, or there is a stored key that cannot be sent there.
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
        match &self.key {
            Some(key) if key.origins.contains(endpoint.origin()) => {
                if !endpoint.origin().is_private() {
                    return Err(Failure::new(
                        "a key is sent over http:// only to this machine; use https://",
                    ));
                }
                let (name, value) = key_header(key.token.reveal());
                let mut value = HeaderValue::try_from(value)
                    .map_err(|_| Failure::new("the key has characters that are not allowed in a header"))?;
                value.set_sensitive(true);
                headers.push((name, value));
            }
            Some(key) if key.source == KeySource::Stored => {
                return Err(Failure::new(other_origin(self.provider, key, endpoint.origin())));
            }
            _ => {}
        }
        Ok(Outgoing { method, endpoint, headers, body })
    }

    /// Prefixes a failure with the provider's name and removes the key from it.
    pub(crate) fn redacted(&self, failure: Failure) -> Failure {
        // A server that did not get the key cannot repeat it, and could find out by guessing what is removed.
        let secrets = self.usable_key().map(|key| forms(key.reveal())).unwrap_or_default();
        Failure { message: format!("{}: {}", self.provider, quoted(&failure.message, &secrets)), ..failure }
    }

    /// The error for a request that the server refused because of the key.
    fn refusal(&self) -> String {
        let provider = self.provider;
        match &self.key {
            _ if self.usable_key().is_some() => "the key was refused".to_owned(),
            Some(key) => format!(
                "no key was sent: that of the configuration is for {}; to send it there too, name the other \
                 origin with --key-origin, or set the credential \"{provider}\"",
                listed(&key.origins)
            ),
            None => format!("no key was sent; set the credential \"{provider}\""),
        }
    }
}

/// The error for a key that was given for another origin. It names none of its characters.
fn other_origin(provider: &str, key: &Key, origin: &Origin) -> String {
    format!(
        "the key was given for {}, and is not sent to {origin}: set the credential \"{provider}\" again for this \
         base URL, or set the base URL back",
        listed(&key.origins)
    )
}

/// Returns origins as a list for people.
fn listed(origins: &[Origin]) -> String {
    match origins {
        [] => "no address".to_owned(),
        origins => origins.iter().map(Origin::to_string).collect::<Vec<_>>().join(" and "),
    }
}

/// Returns the texts in which a key can appear, the longest first: itself, as HTTP's basic authentication encodes it, and the
/// password of `user:password`.
fn forms(key: &str) -> Vec<String> {
    const MIN_PASSWORD_BYTES: usize = 4;
    let password = key.split_once(':').map(|(_, password)| password.to_owned());
    let password = password.filter(|password| password.len() >= MIN_PASSWORD_BYTES);
    let mut forms: Vec<String> =
        [base64(key.as_bytes()), key.to_owned()].into_iter().chain(password).collect();
    forms.sort_by_key(|form| Reverse(form.len()));
    forms
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
    let pause = failure.retry_after.unwrap_or(pause.saturating_mul(2_u32.pow(retries.min(MAX_RETRIES))));
    let again = failure.transient && retries < MAX_RETRIES && pause <= max_pause;
    again.then(|| pause.saturating_add(jitter(pause)))
}

/// Returns up to a fifth of a pause, so that requests that failed together are not retried together.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX) / 5.0)
}

/// Checks that a response is a success and not compressed.
///
/// # Errors
/// With the status and the error text of the response.
pub(crate) async fn check_status(access: &Access, response: &mut Response) -> Result<(), Failure> {
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
        401 | 403 => access.refusal(),
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

/// Returns a provider's text on one line, shortened, and without the secrets.
fn quoted(text: &str, secrets: &[String]) -> String {
    const MAX_CHARS: usize = 300;
    let mut hidden = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        hidden = hidden.replace(secret, "***");
    }
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
        assert_eq!(quoted("bad key sk-1\r\nsk-1!", &["sk-1".to_owned()]), "bad key ***  ***!");
        assert_eq!(quoted(&"é".repeat(500), &[]).chars().count(), 300);
    }

    fn access(base_url: &str, token: &str, source: KeySource, origins: &[&str]) -> Access {
        let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        let key = Some(Key { token: Token::new(token), origins, source });
        Access { provider: "openai", base_url: base_url.to_owned(), host: Host::Compatible, key }
    }

    /// The headers of a request that carry a key.
    fn sent(access: &Access) -> Result<Vec<String>, Failure> {
        let key_header = |key: &str| (hyper::header::AUTHORIZATION, format!("Bearer {key}"));
        let outgoing = access.outgoing(Method::POST, "/p", "x", String::new(), key_header)?;
        let sensitive = outgoing.headers.iter().filter(|(_, value)| value.is_sensitive());
        Ok(sensitive.map(|(_, value)| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn a_key_is_sent_over_tls_or_only_to_this_machine() {
        let fits = |base_url: &str, key: &str| {
            let sent = sent(&access(base_url, key, KeySource::Stored, &[base_url]));
            sent.is_ok_and(|sent| sent == [format!("Bearer {key}")])
        };
        assert!(fits("https://far.example", "k"));
        assert!(fits("http://127.0.0.1:5", "k"));
        assert!(!fits("http://far.example", "k"));
        assert!(!fits("https://far.example", "k\n"));
        let none = Access { key: None, ..access("http://far.example", "k", KeySource::Stored, &[]) };
        assert_eq!(sent(&none), Ok(Vec::new()));
    }

    #[test]
    fn a_key_is_sent_only_to_the_origins_that_it_was_given_for() {
        const OWN: &str = "https://api.example";
        for (base_url, origins, fits) in [
            ("https://api.example/v1", &[OWN][..], true),
            ("https://API.example.:443", &[OWN], true),
            ("https://api.example/v1", &["http://127.0.0.1:5", OWN], true),
            ("http://127.0.0.1:5/v1", &["http://127.0.0.1:5", OWN], true),
            ("https://api.example", &[], false),
            ("https://api.example:8443", &[OWN], false),
            ("https://other.example/api.example", &[OWN], false),
            ("http://127.0.0.1:5", &[OWN], false),
            ("http://localhost:5", &["http://127.0.0.1:5"], false),
        ] {
            let stored = access(base_url, "s3cret", KeySource::Stored, origins);
            let configured = access(base_url, "s3cret", KeySource::Configured, origins);
            assert_eq!(stored.usable_key().is_some(), fits, "{base_url}");
            if fits {
                assert_eq!(sent(&stored).unwrap(), ["Bearer s3cret"]);
                assert_eq!(sent(&configured).unwrap(), ["Bearer s3cret"]);
                continue;
            }
            // A server with the same API can need no key.
            assert_eq!(sent(&configured), Ok(Vec::new()), "{base_url}");
            let error = sent(&stored).unwrap_err().message;
            let given_for = origins.first().unwrap_or(&"no address");
            assert!(
                error.contains(given_for) && error.contains("\"openai\"") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn no_form_of_a_key_is_in_an_error() {
        let redacted = |origins: &[&str], text: &str| {
            let access = access("https://api.example", "me:s3cret", KeySource::Stored, origins);
            access.redacted(Failure::new(text)).message
        };
        let text = format!("a me:s3cret b s3cret c {} d me:s3cre", base64(b"me:s3cret"));
        assert_eq!(redacted(&["https://api.example"], &text), "openai: a *** b *** c *** d me:s3cre");
        // The server did not get it: it cannot find out what the key is.
        assert_eq!(redacted(&["https://b.example"], "me:s3cret"), "openai: me:s3cret");
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
        let longest = retry_pause(&failure(true, None), 1, Duration::MAX, Duration::MAX);
        assert_eq!(longest, Some(Duration::MAX));
    }
}
