//! Texts that are asked for anew at each attempt to connect: tokens and URLs.

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

type Answer = Pin<Box<dyn Future<Output = io::Result<String>> + Send>>;

/// A text, or a function that returns one each time it is needed, such as a token that expires.
///
/// ```
/// use switchboard::client::{Client, ClientOptions, Source};
///
/// async fn fresh_token() -> std::io::Result<String> {
///     Ok("asked from your identity provider".to_owned())
/// }
///
/// let options = ClientOptions { token_source: Some(Source::from_async(fresh_token)), ..ClientOptions::default() };
/// let url = Source::from_fn(|| std::env::var("CHAT_URL"));
/// let client = Client::new(url, options).unwrap();
/// # let _ = client;
/// ```
#[derive(Clone)]
pub struct Source(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(String),
    Asked(Arc<dyn Fn() -> Answer + Send + Sync>),
}

impl Source {
    /// A function that returns the text, or why there is none. It must not block.
    pub fn from_fn<Ask, E>(ask: Ask) -> Source
    where
        Ask: Fn() -> Result<String, E> + Send + Sync + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
    {
        Source::from_async(move || std::future::ready(ask()))
    }

    /// An asynchronous function that returns the text, or why there is none. It has
    /// [`connect_timeout`](super::ClientOptions::connect_timeout).
    pub fn from_async<Ask, Asked, E>(ask: Ask) -> Source
    where
        Ask: Fn() -> Asked + Send + Sync + 'static,
        Asked: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Source(Kind::Asked(Arc::new(move || {
            let asked = ask();
            Box::pin(async move { asked.await.map_err(io::Error::other) })
        })))
    }

    /// The text, unless it is asked for.
    pub(super) fn fixed(&self) -> Option<&str> {
        match &self.0 {
            Kind::Fixed(text) => Some(text),
            Kind::Asked(_) => None,
        }
    }

    /// Asks. A panic of the function is an error.
    pub(super) async fn ask(&self) -> io::Result<String> {
        let panicked = |_| io::Error::other("the function panicked");
        let ask = match &self.0 {
            Kind::Fixed(text) => return Ok(text.clone()),
            Kind::Asked(ask) => ask,
        };
        let mut asked = catch_unwind(AssertUnwindSafe(|| ask())).map_err(panicked)?;
        poll_fn(|cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| asked.as_mut().poll(cx)));
            polled.unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic))))
        })
        .await
    }
}

impl From<&str> for Source {
    fn from(text: &str) -> Source {
        Source(Kind::Fixed(text.to_owned()))
    }
}

impl From<&String> for Source {
    fn from(text: &String) -> Source {
        Source(Kind::Fixed(text.clone()))
    }
}

impl From<String> for Source {
    fn from(text: String) -> Source {
        Source(Kind::Fixed(text))
    }
}

impl fmt::Debug for Source {
    /// Never shows the text: it can be a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fixed().is_some() { "Source(fixed)" } else { "Source(asked)" })
    }
}
