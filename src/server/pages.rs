//! Ordinary HTTP (feature `pages`): the pages of [`Server::on_get`](super::Server::on_get), and the built-in ones that the
//! configuration turns on. Input: the head of a request. Output: a response, after the same checks of `Host`, `Origin` and
//! token as for an upgrade. Built-in pages check `Host` only, and `/metrics` the token; they send no CORS header, so a browser
//! does not let another site read them.
//!
//! A page is held in memory while it is sent, so [`Config::max_pages`](super::Config::max_pages) limits how many are
//! answered at a time, and [`Config::page_timeout`](super::Config::page_timeout) how long each takes.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::admission::Key;
use super::config::{Config, ServerError};
use super::http::{refuse, text};
use super::metrics::Stats;

/// How much of a page is handed to the socket at once.
const FRAME_BYTES: usize = 64 << 10;

/// The result of a page's handler.
///
/// ```
/// use switchboard::Page;
/// let page = Page::new("image/png", vec![0x89, b'P']).etag("v1").header("cache-control", "private, max-age=60");
/// # let _ = page;
/// ```
#[derive(Debug, Clone)]
pub struct Page {
    body: Bytes,
    content_type: &'static str,
    etag: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Page {
    /// A page with a content type. Browsers must not interpret it as another type, or keep a copy unless a
    /// [`header`](Page::header) `cache-control` allows it.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Page {
        Page { body: body.into(), content_type, etag: None, headers: Vec::new() }
    }

    /// The same page with a name for exactly this content. A client that sends it in `If-None-Match` gets 304. A name that is
    /// not valid in a header is left out.
    pub fn etag(mut self, etag: &str) -> Page {
        let is_plain = etag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        self.etag = HeaderValue::from_str(&format!("\"{etag}\"")).ok().filter(|_| is_plain);
        self
    }

    /// The same page with one more header, or with another value of one that every page has.
    ///
    /// # Panics
    /// When the name is not in lower case, or name or value is not valid in a header.
    pub fn header(mut self, name: &'static str, value: &'static str) -> Page {
        self.headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        self
    }
}

/// The future of a page's handler.
type PageFuture = Pin<Box<dyn Future<Output = Option<Page>> + Send>>;

/// The handler of the paths below a prefix.
struct PageRoute {
    prefix: String,
    handler: Box<dyn Fn(String) -> PageFuture + Send + Sync>,
}

/// A built-in page: its path, whether it is turned on, and what it contains.
type BuiltIn = (&'static str, fn(&Config) -> bool, BuiltInBody);

enum BuiltInBody {
    /// The type and the content.
    File(&'static str, &'static str),
    Console,
    Metrics,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

const BUILT_IN: [BuiltIn; 7] = [
    ("/", |config| config.serve_console, BuiltInBody::Console),
    ("/healthz", |config| config.serve_health, BuiltInBody::File(TEXT, "ok")),
    ("/metrics", |config| config.serve_metrics, BuiltInBody::Metrics),
    ("/client.js", |config| config.serve_client || config.serve_console, CLIENT),
    (
        "/client.d.ts",
        |config| config.serve_client,
        BuiltInBody::File(TEXT, include_str!("../web/client.d.ts")),
    ),
    (
        "/react.js",
        |config| config.serve_client,
        BuiltInBody::File(JAVASCRIPT, include_str!("../web/react.js")),
    ),
    ("/react.d.ts", |config| config.serve_client, BuiltInBody::File(TEXT, include_str!("../web/react.d.ts"))),
];
const CLIENT: BuiltInBody = BuiltInBody::File(JAVASCRIPT, include_str!("../web/client.js"));

/// The pages of a server.
pub(super) struct Pages {
    config: Arc<Config>,
    routes: RwLock<Vec<Arc<PageRoute>>>,
    /// Permits for pages that are being answered.
    at_once: Arc<Semaphore>,
}

/// What is served at a path.
enum Found {
    Handler(Arc<PageRoute>),
    BuiltIn(&'static BuiltIn),
}

impl Pages {
    pub(super) fn new(config: Arc<Config>) -> Pages {
        let at_once = Semaphore::new(config.max_pages.clamp(1, Semaphore::MAX_PERMITS));
        Pages { config, routes: RwLock::default(), at_once: Arc::new(at_once) }
    }

    pub(super) fn insert<F, Fut>(&self, prefix: &str, handler: F)
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Page>> + Send + 'static,
    {
        let handler = Box::new(move |path| -> PageFuture { Box::pin(handler(path)) });
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|route| route.prefix != prefix);
        routes.push(Arc::new(PageRoute { prefix: prefix.to_owned(), handler }));
    }

    /// The handler of the longest prefix that matches a path, or else a built-in page.
    fn find(&self, path: &str) -> Option<Found> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let matching = routes.iter().filter(|route| path.starts_with(&route.prefix));
        if let Some(route) = matching.max_by_key(|route| route.prefix.len()) {
            return Some(Found::Handler(route.clone()));
        }
        let is_at = |(at, is_on, _): &&BuiltIn| *at == path && is_on(&self.config);
        BUILT_IN.iter().find(is_at).map(Found::BuiltIn)
    }

    /// Answers a request that is not an upgrade: with a page whose handler is to be called, or with a response.
    pub(super) fn answer(
        &self,
        head: &Head<'_>,
        path: &str,
        rules: &AccessRules<'_>,
        stats: impl FnOnce() -> Stats,
    ) -> Result<PageCall, Box<Response<String>>> {
        let found = self.find(path);
        let checked = handshake::check_host(head, rules).and_then(|()| match &found {
            Some(Found::Handler(_)) => handshake::check_origin(head, rules),
            Some(Found::BuiltIn(_)) => Ok(()),
            None => Err(Refusal::NotAnUpgrade),
        });
        let response = match (checked, found) {
            (Err(refusal), _) => refuse(refusal),
            (Ok(()), _) if !matches!(head.method, "GET" | "HEAD") => method_not_allowed(),
            (Ok(()), Some(Found::Handler(route))) if handshake::may_see(head, rules) => {
                return Ok(PageCall::new(route, head, path));
            }
            (Ok(()), Some(Found::BuiltIn((_, _, body)))) => match body {
                BuiltInBody::File(kind, content) => typed(kind, content),
                BuiltInBody::Console => console(),
                BuiltInBody::Metrics if handshake::is_authorized(head, rules.token) => {
                    typed("text/plain; version=0.0.4; charset=utf-8", &stats().prometheus())
                }
                BuiltInBody::Metrics => refuse(Refusal::Token),
            },
            (Ok(()), _) => refuse(Refusal::Token),
        };
        Err(Box::new(response))
    }

    /// Calls the handler of a page.
    pub(super) async fn finish(&self, call: PageCall, report: impl FnOnce(ServerError)) -> Response<Content> {
        let permit = timeout(self.config.handshake_timeout, self.at_once.clone().acquire_owned());
        let Ok(Ok(permit)) = permit.await else {
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "Too many pages at once");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response.map(Content::from);
        };
        let rest = call.path.strip_prefix(&*call.route.prefix).unwrap_or_default().to_owned();
        let route = call.route.clone();
        let mut running = pin!(async move { (route.handler)(rest).await });
        let answered = poll_fn(|cx| {
            // After a panic the client still gets a response.
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
            polled.map_or(Poll::Ready(Err(())), |polled| polled.map(Ok))
        });
        let mut response = match timeout(self.config.page_timeout, answered).await {
            Ok(Ok(Some(page))) => call.response(page, permit),
            Ok(Ok(None)) => text(StatusCode::NOT_FOUND, "Not found").map(Content::from),
            Ok(Err(())) => {
                report(ServerError::HandlerPanicked { channel: call.route.prefix.clone() });
                text(StatusCode::INTERNAL_SERVER_ERROR, "Internal error").map(Content::from)
            }
            Err(_) => text(StatusCode::GATEWAY_TIMEOUT, "Page timed out").map(Content::from),
        };
        call.add_origin_headers(response.headers_mut());
        response
    }
}

fn typed(kind: &'static str, body: &str) -> Response<String> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The console. It holds no secret, so it is served without a token, and asks for one if the server needs it. Only its own
/// script and this server's client run in it.
fn console() -> Response<String> {
    let mut nonce = [0; 16];
    if getrandom::fill(&mut nonce).is_err() {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "System randomness is not available");
    }
    let nonce = handshake::base64(&nonce);
    let page = include_str!("../web/console.html").replace("{{nonce}}", &nonce);
    let mut response = typed("text/html; charset=utf-8", &page);
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The response to a request that does more than read.
fn method_not_allowed() -> Response<String> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are served");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// An allowed request for a page.
pub(super) struct PageCall {
    /// What it is counted by.
    pub(super) key: Key,
    route: Arc<PageRoute>,
    path: String,
    /// The value of `If-None-Match`.
    known: Option<Vec<u8>>,
    /// An origin whose pages may read the response.
    origin: Option<HeaderValue>,
}

impl PageCall {
    fn new(route: Arc<PageRoute>, head: &Head<'_>, path: &str) -> PageCall {
        let value = |name| head.headers.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
        PageCall {
            key: None,
            route,
            path: path.to_owned(),
            known: value("if-none-match").map(<[u8]>::to_vec),
            origin: value("origin").and_then(|origin| HeaderValue::from_bytes(origin).ok()),
        }
    }

    /// The same request, counted by a key.
    pub(super) fn of(self, key: Key) -> PageCall {
        PageCall { key, ..self }
    }

    fn add_origin_headers(self, headers: &mut HeaderMap) {
        // Pages of other sites must not even embed it: for `<img>` they send no `Origin` that could be checked. A site is
        // a host without port, so a frontend on the same machine may.
        let policy = HeaderName::from_static("cross-origin-resource-policy");
        headers.entry(policy).or_insert(HeaderValue::from_static("same-site"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        // `fetch` sends `Origin`. The browser withholds the response unless an allowed origin is echoed.
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }

    fn response(&self, page: Page, permit: OwnedSemaphorePermit) -> Response<Content> {
        let is_known = page.etag.as_ref().is_some_and(|etag| self.knows(etag.as_bytes()));
        let mut response =
            text(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK }, "").map(Content::from);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Some(etag) = page.etag {
            headers.insert(header::ETAG, etag);
        }
        for (name, value) in page.headers {
            headers.insert(name, value);
        }
        if !is_known {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.body.len()));
            *response.body_mut() = Content { rest: page.body, _permit: Some(permit) };
        }
        response
    }

    /// Whether the client has this content already (RFC 9110, section 13.1.2).
    fn knows(&self, etag: &[u8]) -> bool {
        let known = self.known.as_deref().unwrap_or_default();
        known
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag)
    }
}

/// The body of a response. It is sent piece by piece, and each piece is freed once it is sent.
#[derive(Debug, Default)]
pub struct Content {
    rest: Bytes,
    /// Counts against [`Config::max_pages`] until the page is sent.
    _permit: Option<OwnedSemaphorePermit>,
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content { rest: text.into(), _permit: None }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(FRAME_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
