//! A small HTTP/1.1 client. In: a request. Out: the head of the response, then its body as it arrives. Each request has its own
//! connection. Redirects are not followed, because they could send a key to another server. There is no compression.
//!
//! Dropping a [`Response`], or the future that waits for one, closes the connection.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::connect::Stream;
use crate::client::dial::open_tcp;
use crate::client::tls;

use super::origin::{BaseUrl, Origin, OriginError};

/// Longest head of a response, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How much of the body of an error response is read, in bytes.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// Why there is no response, or only a part of it.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The URL is not valid.
    Url(OriginError),
    /// The URL is not valid in a request.
    Request(&'static str),
    /// A key would be sent without TLS to another machine.
    NotLocal,
    /// The connection could not be opened.
    Connect(io::Error),
    /// Something took longer than its limit.
    Timeout { what: &'static str, limit: Duration },
    /// The response is longer than its limit.
    TooLong { max: usize },
    /// The connection ended too early, or the response is not HTTP.
    Broken(hyper::Error),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Url(what) => write!(f, "the base URL: {what}"),
            HttpError::Request(what) => write!(f, "the base URL: {what}"),
            HttpError::NotLocal => f.write_str("the base URL: its name leads to another machine, and a key is sent over http:// only to this one; use https://"),
            HttpError::Connect(error) => write!(f, "no connection: {error}"),
            HttpError::Timeout { what, limit } => write!(f, "{what} for {} ms", limit.as_millis()),
            HttpError::TooLong { max } => write!(f, "a response of more than {max} bytes"),
            HttpError::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

/// Where to send a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    origin: Origin,
    path: String,
}

impl Endpoint {
    /// Returns the address of a path below a base URL.
    ///
    /// # Errors
    /// When the base is not an `http` or `https` URL with a host, or has a user, a password or a query.
    pub(crate) fn new(base_url: &str, path: &str) -> Result<Endpoint, HttpError> {
        let BaseUrl { origin, path: base } = BaseUrl::parse(base_url).map_err(HttpError::Url)?;
        Ok(Endpoint { origin, path: base + path })
    }

    /// Returns who receives the request: the connection is opened to this origin.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// A request. It has no `Debug`, because headers can hold a key.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: String,
}

/// Limits of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Until the connection is open, TLS included.
    pub(crate) connect: Duration,
    /// Until the head of the response has arrived.
    pub(crate) head: Duration,
    /// Between two pieces of the body.
    pub(crate) idle: Duration,
}

/// A response whose body has not been read yet.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    idle: Duration,
    left: usize,
    max_bytes: usize,
    /// Drives the connection; aborted when the response is dropped.
    _driver: JoinSet<()>,
}

/// Sends a request and waits for the head of the response. Its body can have at most `max_bytes`.
///
/// # Errors
/// When there is no connection or no response in time.
pub(crate) async fn send(
    request: Outgoing,
    timeouts: Timeouts,
    max_bytes: usize,
) -> Result<Response, HttpError> {
    let limit = timeouts.connect;
    let stream = match timeout(limit, connect(&request)).await {
        Ok(stream) => stream?,
        Err(_) => return Err(HttpError::Timeout { what: "no connection", limit }),
    };
    exchange(stream, request, timeouts, max_bytes).await
}

async fn connect(request: &Outgoing) -> Result<Box<dyn Stream>, HttpError> {
    let origin = &request.endpoint.origin;
    let stream = open_tcp(origin.host(), origin.port()).await.map_err(HttpError::Connect)?;
    if origin.is_secure() {
        return Ok(Box::new(tls::wrap(origin.host(), stream, None).await.map_err(HttpError::Connect)?));
    }
    let is_local = stream.peer_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    // What a name like `x.localhost` leads to is decided outside of this program.
    if !is_local && request.headers.iter().any(|(_, value)| value.is_sensitive()) {
        return Err(HttpError::NotLocal);
    }
    Ok(Box::new(stream))
}

async fn exchange(
    stream: impl Stream + 'static,
    request: Outgoing,
    timeouts: Timeouts,
    max_bytes: usize,
) -> Result<Response, HttpError> {
    let response = async {
        let mut builder = http1::Builder::new();
        let (mut sender, connection) = builder
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(HttpError::Broken)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The reader of the response gets the error.
            let _ = connection.await;
        });
        let mut message = Request::new(request.body);
        *message.method_mut() = request.method;
        *message.uri_mut() = request
            .endpoint
            .path
            .parse()
            .map_err(|_| HttpError::Request("its path is not valid in a request"))?;
        let host = HeaderValue::try_from(request.endpoint.origin.authority())
            .map_err(|_| HttpError::Request("its host is not valid in a request"))?;
        message.headers_mut().insert(header::HOST, host);
        message.headers_mut().extend(request.headers);
        let response = sender.send_request(message).await.map_err(HttpError::Broken)?;
        Ok((response, driver))
    };
    let limit = timeouts.head;
    let response = timeout(limit, response).await;
    let (response, driver) = response.map_err(|_| HttpError::Timeout { what: "no response", limit })??;
    let (head, body) = response.into_parts();
    Ok(Response {
        status: head.status,
        headers: head.headers,
        body,
        idle: timeouts.idle,
        left: max_bytes,
        max_bytes,
        _driver: driver,
    })
}

impl Response {
    /// Returns the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When it is too long, too slow, or cut off.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let body = &mut self.body;
            let frame = timeout(self.idle, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await;
            let frame = match frame {
                Err(_) => return Err(HttpError::Timeout { what: "silence", limit: self.idle }),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(HttpError::Broken)?,
            };
            if let Ok(data) = frame.into_data() {
                self.left =
                    self.left.checked_sub(data.len()).ok_or(HttpError::TooLong { max: self.max_bytes })?;
                return Ok(Some(data));
            }
        }
    }

    /// Returns the whole body.
    ///
    /// # Errors
    /// As [`next`](Response::next).
    pub(crate) async fn text(&mut self) -> Result<String, HttpError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Returns the start of the body, as far as it arrives.
    pub(crate) async fn error_body(&mut self) -> String {
        let mut body = Vec::new();
        while let Ok(Some(piece)) = self.next().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ERROR_BYTES {
                body.truncate(MAX_ERROR_BYTES);
                break;
            }
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Returns the text of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        connect: Duration::from_secs(10),
        head: Duration::from_secs(60),
        idle: Duration::from_secs(60),
    };

    fn request() -> Outgoing {
        Outgoing {
            method: Method::POST,
            endpoint: Endpoint::new("http://localhost:1/base/", "/path").unwrap(),
            headers: Vec::new(),
            body: "{}".to_owned(),
        }
    }

    async fn read_request(far: &mut DuplexStream) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n{}") {
            far.read_buf(&mut seen).await.unwrap();
        }
    }

    #[test]
    fn an_endpoint_is_a_base_and_a_path() {
        for (base, host, port, path, authority) in [
            ("https://api.example/v1/", "api.example", 443, "/v1/p", "api.example"),
            ("http://api.example", "api.example", 80, "/p", "api.example"),
            ("http://API.example.:080//", "api.example", 80, "/p", "api.example"),
            ("http://[0:0::1]:8080/x", "::1", 8080, "/x/p", "[::1]:8080"),
        ] {
            let endpoint = Endpoint::new(base, "/p").unwrap();
            let origin = endpoint.origin();
            assert_eq!((origin.host(), origin.port(), &*endpoint.path), (host, port, path));
            assert_eq!(origin.authority(), authority);
        }
        for base in ["", "localhost", "ftp://a", "http://", "http://u:p@a", "http://a/?q", "http://a b"] {
            assert!(Endpoint::new(base, "/p").is_err(), "{base}");
        }
    }

    /// Takes no real time: tokio's clock is paused and advances only when all tasks are waiting.
    #[tokio::test(start_paused = true)]
    async fn a_response_that_stalls_ends_after_the_idle_timeout() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            read_request(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(59)).await;
            far.write_all(b"2\r\ncd\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
            far.write_all(b"2\r\nef\r\n").await
        });
        let started = Instant::now();
        let mut response = exchange(near, request(), TIMEOUTS, 100).await.unwrap();
        assert_eq!(response.next().await.unwrap().unwrap(), "ab");
        assert_eq!(response.next().await.unwrap().unwrap(), "cd");
        let error = response.next().await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout { what: "silence", .. }), "{error}");
        assert_eq!(started.elapsed().as_secs(), 119);
        drop(response);
        assert!(server.await.unwrap().is_err(), "the connection is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_a_timeout() {
        let (near, _far) = tokio::io::duplex(1 << 16);
        let started = Instant::now();
        let error = exchange(near, request(), TIMEOUTS, 100).await.err().unwrap();
        assert!(matches!(error, HttpError::Timeout { what: "no response", .. }), "{error}");
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test]
    async fn a_body_cannot_be_longer_than_its_limit() {
        for (max, fits) in [(4, true), (3, false)] {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let server = tokio::spawn(async move {
                read_request(&mut far).await;
                far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd").await.unwrap();
                far
            });
            let mut response = exchange(near, request(), TIMEOUTS, max).await.unwrap();
            assert_eq!(response.text().await.is_ok(), fits);
            drop(server);
        }
    }
}
