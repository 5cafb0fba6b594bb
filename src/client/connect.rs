//! Connecting: from an address to a connection whose upgrade was answered. Input: an address and a token. Output: a byte stream,
//! with the bytes that the server sent after its answer.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::protocol::backoff::Ending;
use crate::protocol::handshake::{self, FirstFrame, Head, SUBPROTOCOL};

use super::dial::open_tcp;
use super::options::ClientOptions;
#[cfg(feature = "backend")]
use super::tls::Trust;

/// A byte stream to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and the bytes that were read after the answer.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Stream>,
    pub(super) early: Vec<u8>,
}

/// Where a server is: `ws://host[:port][/path][?query]`, `wss://…` (feature `backend`), or `unix:/path/to/socket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    transport: Transport,
    /// The value of `Host`.
    host: String,
    /// The target of the request.
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Transport {
    Tcp {
        host: String,
        port: u16,
    },
    #[cfg(feature = "backend")]
    Tls {
        host: String,
        port: u16,
    },
    #[cfg(unix)]
    Unix {
        path: std::path::PathBuf,
    },
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// `InvalidInput`, naming what is expected.
    pub(super) fn parse(url: &str) -> io::Result<Address> {
        #[cfg(unix)]
        if let Some(path) = url.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            let transport = Transport::Unix { path: path.into() };
            return Ok(Address { transport, host: "localhost".to_owned(), target: "/".to_owned() });
        }
        let whole = with_path(url);
        let uri: Uri =
            whole.parse().map_err(|error| invalid(format_args!("{url:?} is not a URL: {error}")))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(invalid(format_args!("{url:?}: expected ws://, wss:// or unix:/path"))),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().unwrap_or_default();
        if host.is_empty() || authority.contains('@') {
            return Err(invalid(format_args!("{url:?}: expected a host, without user or password")));
        }
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            None | Some("") => Some(if secure { 443 } else { 80 }),
            // The parser of hyper would leave out one that is too large.
            Some(port) => port.parse().ok(),
        };
        let port = port.ok_or_else(|| invalid(format_args!("{url:?}: expected a port of at most 65535")))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let transport = match secure {
            false => Transport::Tcp { host: bare, port },
            #[cfg(feature = "backend")]
            true => Transport::Tls { host: bare, port },
            #[cfg(not(feature = "backend"))]
            true => return Err(invalid(format_args!("{url:?}: wss:// needs the feature `backend`"))),
        };
        Ok(Address { transport, host: authority.to_owned(), target: target.to_owned() })
    }
}

/// A URL may have a query without a path; the parser of hyper needs both.
fn with_path(url: &str) -> Cow<'_, str> {
    let authority_at = url.find("://").map_or(0, |at| at + "://".len());
    match url.get(authority_at..).and_then(|rest| rest.find(['/', '?', '#'])) {
        Some(end) if url.as_bytes().get(authority_at + end) == Some(&b'?') => {
            let (before, query) = url.split_at(authority_at + end);
            Cow::Owned(format!("{before}/{query}"))
        }
        _ => Cow::Borrowed(url),
    }
}

fn invalid(message: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.to_string())
}

/// What each upgrade contains and accepts besides the token.
pub(super) struct Upgrade {
    headers: HeaderMap,
    #[cfg(feature = "backend")]
    trust: Option<Trust>,
}

impl Upgrade {
    /// # Errors
    /// `InvalidInput` for a header that is not allowed, or certificates that cannot be read.
    pub(super) fn new(options: &ClientOptions) -> io::Result<Upgrade> {
        const RESERVED: [&str; 8] = [
            "host",
            "connection",
            "upgrade",
            "content-length",
            "transfer-encoding",
            "te",
            "trailer",
            "expect",
        ];
        let has_token = options.token.is_some() || options.token_source.is_some();
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let wrong = |what: &str| invalid(format_args!("headers: {name:?} {what}"));
            let name = HeaderName::try_from(name).map_err(|_| wrong("is not the name of a header"))?;
            let is_reserved =
                RESERVED.contains(&name.as_str()) || name.as_str().starts_with("sec-websocket-");
            if is_reserved {
                return Err(wrong("belongs to the handshake"));
            }
            if has_token && name == header::AUTHORIZATION {
                return Err(wrong("is where the token is sent"));
            }
            // The value can be a secret.
            let mut value =
                HeaderValue::try_from(value).map_err(|_| wrong("has a value that is not allowed"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Upgrade {
            headers,
            #[cfg(feature = "backend")]
            trust: options
                .ca_certificates
                .as_deref()
                .map(|pem| {
                    Trust::with(pem).map_err(|error| invalid(format_args!("ca_certificates: {error}")))
                })
                .transpose()?,
        })
    }
}

/// An attempt that has failed.
pub(super) struct Failed {
    pub(super) ending: Ending,
    pub(super) error: io::Error,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed { ending: Ending::Lost, error }
    }
}

/// Connects and upgrades.
///
/// # Errors
/// The system's error, `PermissionDenied` for 401 and 403, also as close codes, or `ConnectionRefused` with the server's text for
/// any other answer.
pub(super) async fn connect(
    address: &Address,
    upgrade: &Upgrade,
    token: Option<&str>,
) -> Result<Connected, Failed> {
    match &address.transport {
        Transport::Tcp { host, port } => {
            shake_hands(address, upgrade, token, open_tcp(host, *port).await?).await
        }
        #[cfg(feature = "backend")]
        Transport::Tls { host, port } => {
            let stream = super::tls::wrap(host, open_tcp(host, *port).await?, upgrade.trust.as_ref()).await?;
            shake_hands(address, upgrade, token, stream).await
        }
        #[cfg(unix)]
        Transport::Unix { path } => {
            let opened = tokio::net::UnixStream::connect(path).await;
            let stream = opened
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            shake_hands(address, upgrade, token, stream).await
        }
    }
}

async fn shake_hands<S: Stream + 'static>(
    address: &Address,
    upgrade: &Upgrade,
    token: Option<&str>,
    stream: S,
) -> Result<Connected, Failed> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let key = handshake::base64(&nonce);
    let request = upgrade_request(address, upgrade, token, &key).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
    let driver = tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(no_answer)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let refusal = refusal(response).await;
        driver.abort();
        return Err(refusal);
    }
    let head = Head {
        method: "",
        http_1_1: true,
        query: None,
        headers: response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    };
    handshake::check_answer(&head, &key)
        .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, format!("the server's answer: {what}")))?;
    // Without the subprotocol, refusals are answers to the upgrade, and some servers send nothing at first.
    let may_refuse = response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    let parts =
        upgraded.downcast::<TokioIo<S>>().map_err(|_| io::Error::other("hyper returned another stream"))?;
    let (mut stream, mut early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    if may_refuse {
        expect_greeting(&mut stream, &mut early).await?;
    }
    Ok(Connected { stream: Box::new(stream), early })
}

/// Reads until the first frame of the server shows whether it refuses the client.
async fn expect_greeting<S: Stream>(stream: &mut S, early: &mut Vec<u8>) -> Result<(), Failed> {
    loop {
        match handshake::first_frame(early) {
            FirstFrame::Other => return Ok(()),
            FirstFrame::Close(code, reason) => {
                let ending = Ending::of_close(code);
                let kind = match ending {
                    Ending::Lost => io::ErrorKind::ConnectionRefused,
                    Ending::Unauthorized | Ending::Forbidden => io::ErrorKind::PermissionDenied,
                };
                let code = code.map_or_else(String::new, |code| format!(" {code}"));
                let text = format!("the server closed with{code}: {}", one_line(&reason));
                return Err(Failed { ending, error: io::Error::new(kind, text) });
            }
            FirstFrame::Incomplete => {}
        }
        let mut buffer = [0; 256];
        let mut read = ReadBuf::new(&mut buffer);
        poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut read)).await?;
        if read.filled().is_empty() {
            let text = "the server closed the connection after the upgrade";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
        }
        early.extend_from_slice(read.filled());
    }
}

fn upgrade_request(
    address: &Address,
    upgrade: &Upgrade,
    token: Option<&str>,
    key: &str,
) -> Result<Request<String>, hyper::http::Error> {
    let mut request = Request::get(&address.target)
        .header(header::HOST, &address.host)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let mut request = request.body(String::new())?;
    request.headers_mut().extend(upgrade.headers.clone());
    Ok(request)
}

/// hyper's errors leave their causes to their sources.
fn no_answer(error: hyper::Error) -> io::Error {
    let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
    let what = if error.is_parse() { "the server does not speak HTTP" } else { "the server did not answer" };
    io::Error::other(format!("{what}: {error}{cause}"))
}

/// The error for an answer other than 101, with the first line of its text, or where it leads.
async fn refusal(response: Response<Incoming>) -> Failed {
    const MAX_BODY_BYTES: usize = 1 << 10;
    let status = response.status();
    let location = response.headers().get(header::LOCATION);
    let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if text.len() > MAX_BODY_BYTES {
            text.truncate(MAX_BODY_BYTES);
            break;
        }
    }
    let text = location.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
    let text = format!("the server answered {status}: {}", one_line(&text));
    let (ending, kind) = match status {
        StatusCode::UNAUTHORIZED => (Ending::Unauthorized, io::ErrorKind::PermissionDenied),
        StatusCode::FORBIDDEN => (Ending::Forbidden, io::ErrorKind::PermissionDenied),
        _ => (Ending::Lost, io::ErrorKind::ConnectionRefused),
    };
    Failed { ending, error: io::Error::new(kind, text.trim_end_matches([':', ' '])) }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Transport {
        Transport::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn addresses_are_urls_with_defaults() {
        for (url, transport, host, target) in [
            ("ws://localhost:3001", tcp("localhost", 3001), "localhost:3001", "/"),
            ("ws://example/a/b?c=d", tcp("example", 80), "example", "/a/b?c=d"),
            ("ws://[::1]:5/", tcp("::1", 5), "[::1]:5", "/"),
            ("ws://localhost:3001?a=/b?c", tcp("localhost", 3001), "localhost:3001", "/?a=/b?c"),
            ("ws://[::1]?", tcp("::1", 80), "[::1]", "/?"),
            ("ws://example:", tcp("example", 80), "example:", "/"),
            ("ws://example:65535", tcp("example", 65_535), "example:65535", "/"),
        ] {
            let expected = Address { transport, host: host.to_owned(), target: target.to_owned() };
            assert_eq!(Address::parse(url).unwrap(), expected, "{url}");
        }
        for url in [
            "",
            "localhost:3001",
            "http://localhost",
            "ws://",
            "ws://me:pw@host",
            "unix:relative",
            "ws://a b",
            "ws://localhost:65536",
            "ws://[::1]:99999/x",
            "ws://localhost:x",
            "ws://localhost:-1",
        ] {
            let error = Address::parse(url).expect_err(url);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{url}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_file_is_an_address() {
        let address = Address::parse("unix:/run/switchboard.sock").unwrap();
        assert_eq!(address.transport, Transport::Unix { path: "/run/switchboard.sock".into() });
        assert_eq!((address.host.as_str(), address.target.as_str()), ("localhost", "/"));
    }
}
