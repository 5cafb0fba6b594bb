//! Ordinary HTTP (feature `pages`): the pages of [`Server::on_get`](super::Server::on_get), and the built-in ones that the
//! configuration turns on. Input: the head of a request. Output: a response, after the same checks of `Host`, `Origin` and
//! token as for an upgrade. Built-in pages check `Host` only, and `/metrics` the token. A page of another origin can read the
//! files of the client if it may open the WebSocket; it can read no other built-in page, because that has no CORS header.
//!
//! [`Config::max_pages`](super::Config::max_pages) limits how many handlers run at a time, in turns by address;
//! [`Config::max_open_pages`](super::Config::max_open_pages) how many pages are made or sent, and
//! [`Config::page_timeout`](super::Config::page_timeout) how long each takes.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::timeout;

use crate::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::admission::Key;
use super::config::{Config, ServerError};
use super::content::{Content, Rest};
use super::http::{busy, refuse, text};
use super::metrics::Stats;
use super::places::Places;

/// The result of a page's handler.
///
/// ```
/// use switchboard::Page;
/// let page = Page::new("image/png", vec![0x89, b'P']).etag("v1").header("cache-control", "private, max-age=60");
/// # let _ = page;
/// ```
#[derive(Debug, Clone)]
pub struct Page {
    body: Rest,
    content_type: &'static str,
    etag: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Page {
    /// A page with a content type. Browsers must not interpret it as another type, or keep a copy unless a
    /// [`header`](Page::header) `cache-control` allows it.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Page {
        Page { body: Rest::Bytes(body.into()), content_type, etag: None, headers: Vec::new() }
    }

    /// A page with the first `length` bytes of a file. They are read while they are sent, 64 KiB at a time, so a client that
    /// does not read them costs no memory. If the file turns out to be shorter, the connection is cut.
    ///
    /// ```
    /// use std::fs::File;
    /// use switchboard::{Config, Page, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_get("/logo", |_| async {
    ///     let opened = tokio::task::spawn_blocking(|| {
    ///         let file = File::open("logo.png")?;
    ///         let length = file.metadata()?.len();
    ///         std::io::Result::Ok((file, length))
    ///     });
    ///     let (file, length) = opened.await.ok()?.ok()?;
    ///     Some(Page::file("image/png", file, length))
    /// });
    /// ```
    pub fn file(content_type: &'static str, file: File, length: u64) -> Page {
        Page { body: Rest::file(file, length), content_type, etag: None, headers: Vec::new() }
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
    /// The same, for pages of every origin that may open the WebSocket.
    Shared(&'static str, &'static str),
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
        BuiltInBody::Shared(TEXT, include_str!("../web/client.d.ts")),
    ),
    (
        "/react.js",
        |config| config.serve_client,
        BuiltInBody::Shared(JAVASCRIPT, include_str!("../web/react.js")),
    ),
    (
        "/react.d.ts",
        |config| config.serve_client,
        BuiltInBody::Shared(TEXT, include_str!("../web/react.d.ts")),
    ),
];
const CLIENT: BuiltInBody = BuiltInBody::Shared(JAVASCRIPT, include_str!("../web/client.js"));

/// The pages of a server.
pub(super) struct Pages {
    config: Arc<Config>,
    routes: RwLock<Vec<Arc<PageRoute>>>,
    /// For the handlers that run.
    places: Places<Key>,
}

/// What is served at a path.
enum Found {
    Handler(Arc<PageRoute>),
    BuiltIn(&'static BuiltIn),
}

impl Pages {
    pub(super) fn new(config: Arc<Config>) -> Pages {
        let places = Places::new(config.max_pages);
        Pages { config, routes: RwLock::default(), places }
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

    /// Whether only clients that are let in may see what is at a path.
    pub(super) fn is_private(&self, path: &str) -> bool {
        matches!(self.find(path), Some(Found::Handler(_) | Found::BuiltIn((_, _, BuiltInBody::Metrics))))
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
            (Ok(()), Some(found)) if is_preflight(head, &found, rules) => preflight(head),
            (Ok(()), _) if !matches!(head.method, "GET" | "HEAD") => method_not_allowed(),
            (Ok(()), Some(Found::Handler(route))) if handshake::may_see(head, rules) => {
                return Ok(PageCall::new(route, head, path));
            }
            (Ok(()), Some(Found::BuiltIn((_, _, body)))) => match body {
                BuiltInBody::File(kind, content) => typed(kind, content),
                BuiltInBody::Shared(kind, content) => shared(typed(kind, content), head, rules),
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
        let place = timeout(self.config.handshake_timeout, self.places.acquire(call.key));
        let Ok(place) = place.await else {
            let (status, wait) = (StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(1));
            return busy(status, "Too many pages at once", wait).map(Content::from);
        };
        let rest = call.path.strip_prefix(&*call.route.prefix).unwrap_or_default().to_owned();
        let route = call.route.clone();
        let mut running = pin!(async move { (route.handler)(rest).await });
        let answered = poll_fn(|cx| {
            // After a panic the client still gets a response.
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
            polled.map_or(Poll::Ready(Err(())), |polled| polled.map(Ok))
        });
        let answered = timeout(self.config.page_timeout, answered).await;
        // However slowly the client reads, it keeps no other page waiting.
        drop(place);
        let mut response = match answered {
            Ok(Ok(Some(page))) => call.response(page),
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

/// Lets pages read a file of the client if they may open the WebSocket. Others get it too, and their browser withholds it.
fn shared(mut response: Response<String>, head: &Head<'_>, rules: &AccessRules<'_>) -> Response<String> {
    let may_connect = handshake::check_origin(head, rules).is_ok();
    let origin = value(head, "origin").filter(|_| may_connect);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_bytes(origin).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        // For `crossorigin="use-credentials"`. The files are the same for all.
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    response
}

/// Whether a browser asks if a page of another origin may send a request that reads the page at this path: one with a header
/// of its own, such as `Authorization`, or one from the internet to this network.
fn is_preflight(head: &Head<'_>, found: &Found, rules: &AccessRules<'_>) -> bool {
    let is_shared = matches!(found, Found::Handler(_) | Found::BuiltIn((_, _, BuiltInBody::Shared(_, _))));
    head.method == "OPTIONS"
        && is_shared
        && value(head, "origin").is_some()
        && value(head, "access-control-request-method").is_some()
        && handshake::check_origin(head, rules).is_ok()
}

/// Lets a page of an origin that may connect send its request. That request is checked like any other: this one comes without
/// a credential.
fn preflight(head: &Head<'_>) -> Response<String> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
    for (asked, allowed) in [
        ("origin", "access-control-allow-origin"),
        ("access-control-request-headers", "access-control-allow-headers"),
        ("access-control-request-private-network", "access-control-allow-private-network"),
    ] {
        if let Some(value) = value(head, asked).and_then(|value| HeaderValue::from_bytes(value).ok()) {
            headers.insert(HeaderName::from_static(allowed), value);
        }
    }
    response
}

fn value<'a>(head: &Head<'a>, name: &str) -> Option<&'a [u8]> {
    head.headers.iter().find(|(field, _)| *field == name).map(|(_, value)| *value)
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
        PageCall {
            key: None,
            route,
            path: path.to_owned(),
            known: value(head, "if-none-match").map(<[u8]>::to_vec),
            origin: value(head, "origin").and_then(|origin| HeaderValue::from_bytes(origin).ok()),
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

    fn response(&self, page: Page) -> Response<Content> {
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
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.body.length()));
            *response.body_mut() = Content::from(page.body);
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
