//! Pages of the embedder's own: what [`Server::on_get`](super::Server::on_get) registered. In: a path below a prefix.
//! Out: bytes with a type, behind the same checks of `Host`, `Origin` and token as everything else.
//!
//! A page is held in memory while it is sent, so only so many are answered at a time
//! ([`Config::max_pages`](super::Config::max_pages)), and each within
//! [`Config::page_timeout`](super::Config::page_timeout).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::{ServerError, Shared, http};

/// How much of a page is handed to the socket at once.
const FRAME_BYTES: usize = 64 << 10;

/// What a page's handler answers.
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
    /// A page of a type. Browsers are told to take it as nothing else, and to keep no copy unless a
    /// [`header`](Page::header) `cache-control` says otherwise.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Page {
        Page { body: body.into(), content_type, etag: None, headers: Vec::new() }
    }

    /// The same page with a name for just this content. A client that shows it in `If-None-Match` gets 304. One that cannot
    /// stand in a header is left out.
    pub fn etag(mut self, etag: &str) -> Page {
        let is_plain = etag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        self.etag = HeaderValue::from_str(&format!("\"{etag}\"")).ok().filter(|_| is_plain);
        self
    }

    /// The same page with one more header, or with another value of one that every page has.
    ///
    /// # Panics
    /// When the name is not in lower case, or name or value cannot stand in a header.
    pub fn header(mut self, name: &'static str, value: &'static str) -> Page {
        self.headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        self
    }
}

/// A page's handler at work.
type Running = Pin<Box<dyn Future<Output = Option<Page>> + Send>>;

/// The handler of a prefix.
pub(super) struct PageRoute {
    prefix: String,
    handler: Box<dyn Fn(String) -> Running + Send + Sync>,
}

impl PageRoute {
    pub(super) fn new<F, Fut>(prefix: &str, handler: F) -> PageRoute
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Page>> + Send + 'static,
    {
        PageRoute { prefix: prefix.to_owned(), handler: Box::new(move |path| Box::pin(handler(path))) }
    }
}

/// The handlers by prefix.
#[derive(Default)]
pub(super) struct Pages {
    routes: RwLock<Vec<Arc<PageRoute>>>,
}

impl Pages {
    pub(super) fn insert(&self, route: PageRoute) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|known| known.prefix != route.prefix);
        routes.push(Arc::new(route));
    }

    /// The handler for a path: that of the longest prefix.
    fn find(&self, path: &str) -> Option<Arc<PageRoute>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let fitting = routes.iter().filter(|route| path.starts_with(&route.prefix));
        fitting.max_by_key(|route| route.prefix.len()).cloned()
    }
}

/// What a request gets: an answer, or a page that is still to be asked for.
pub(super) enum Answer {
    Text(Response<String>),
    Page(PageCall),
}

impl Answer {
    pub(super) async fn finish(self, shared: &Shared) -> Response<Content> {
        match self {
            Answer::Text(response) => response.map(Content::from),
            Answer::Page(call) => call.answer(shared).await,
        }
    }
}

/// Answers an ordinary request: with a page of the embedder's, or one of ours.
pub(super) fn answer(shared: &Shared, head: &Head<'_>, path: &str, rules: &AccessRules<'_>) -> Answer {
    match shared.pages.find(path) {
        Some(route) => page_call(route, head, path, rules),
        None => Answer::Text(http::answer(shared, head, path, rules)),
    }
}

/// A page of the embedder's, if it may be shown.
fn page_call(route: Arc<PageRoute>, head: &Head<'_>, path: &str, rules: &AccessRules<'_>) -> Answer {
    // A page that reads with `fetch` says where it is from; one that was let in is told so, or its browser hides the
    // answer from it.
    let checked = handshake::check_host(head, rules).and_then(|()| handshake::check_origin(head, rules));
    if let Err(refusal) = checked {
        return Answer::Text(http::refuse(refusal));
    }
    if let Some(response) = http::refuse_method(head) {
        return Answer::Text(response);
    }
    if !handshake::may_see(head, rules) {
        return Answer::Text(http::refuse(Refusal::Token));
    }
    let value = |name| head.headers.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
    Answer::Page(PageCall {
        route,
        path: path.to_owned(),
        known: value("if-none-match").map(<[u8]>::to_vec),
        origin: value("origin").and_then(|origin| HeaderValue::from_bytes(origin).ok()),
    })
}

/// A request for a page that may be answered.
pub(super) struct PageCall {
    route: Arc<PageRoute>,
    path: String,
    /// The value of `If-None-Match`.
    known: Option<Vec<u8>>,
    /// An origin whose pages may read the answer.
    origin: Option<HeaderValue>,
}

impl PageCall {
    /// Asks the handler.
    async fn answer(self, shared: &Shared) -> Response<Content> {
        let waited = timeout(shared.config.handshake_timeout, shared.pages_at_once.clone().acquire_owned());
        let Ok(Ok(place)) = waited.await else {
            let mut response = http::text(StatusCode::SERVICE_UNAVAILABLE, "Too many pages at once");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response.map(Content::from);
        };
        let rest = self.path.strip_prefix(&*self.route.prefix).unwrap_or_default().to_owned();
        let route = self.route.clone();
        let mut running = pin!(async move { (route.handler)(rest).await });
        let answered = poll_fn(|cx| {
            // A handler that panics is no reason to cut the connection without a word.
            let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
            polled.map_or(Poll::Ready(Err(())), |polled| polled.map(Ok))
        });
        let mut response = match timeout(shared.config.page_timeout, answered).await {
            Ok(Ok(Some(page))) => self.response(page, place),
            Ok(Ok(None)) => http::text(StatusCode::NOT_FOUND, "Not found").map(Content::from),
            Ok(Err(())) => {
                shared.report(ServerError::HandlerPanicked { channel: self.route.prefix.clone() });
                http::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal error").map(Content::from)
            }
            Err(_) => http::text(StatusCode::GATEWAY_TIMEOUT, "No page in time").map(Content::from),
        };
        let headers = response.headers_mut();
        // A page of another site may not even show what is here: in `<img>` it would have no `Origin` to be judged by. A
        // site is host without port, so a frontend beside the server may.
        let policy = HeaderName::from_static("cross-origin-resource-policy");
        headers.entry(policy).or_insert(HeaderValue::from_static("same-site"));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        response
    }

    fn response(&self, page: Page, place: OwnedSemaphorePermit) -> Response<Content> {
        let is_known = page.etag.as_ref().is_some_and(|etag| self.knows(etag.as_bytes()));
        let mut response = http::text(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK }, "")
            .map(Content::from);
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
            *response.body_mut() = Content { rest: page.body, _place: Some(place) };
        }
        response
    }

    /// Whether the client has said that it has this content (RFC 9110, section 13.1.2).
    fn knows(&self, etag: &[u8]) -> bool {
        let known = self.known.as_deref().unwrap_or_default();
        known
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|shown| shown == b"*" || shown.strip_prefix(b"W/").unwrap_or(shown) == etag)
    }
}

/// The body of an answer, sent piece by piece: what has been sent is let go.
#[derive(Debug, Default)]
pub struct Content {
    rest: Bytes,
    /// The place among the pages that are answered at the same time, until this one is sent.
    _place: Option<OwnedSemaphorePermit>,
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content { rest: text.into(), _place: None }
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
