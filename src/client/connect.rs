//! Connecting: from an address to a connection whose upgrade was answered. Input: an address and a token. Output: a byte stream,
//! with the bytes that the server sent after its answer.

use std::fmt;
use std::io;
use std::pin::Pin;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, upgrade};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::protocol::handshake::{self, Head};

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
        let uri: Uri = url.parse().map_err(|error| invalid(format_args!("{url:?} is not a URL: {error}")))?;
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
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
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

fn invalid(message: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.to_string())
}

/// Connects and upgrades.
///
/// # Errors
/// The system's error, `PermissionDenied` for 401 and 403, or `ConnectionRefused` with the server's text for any other
/// answer.
pub(super) async fn connect(address: &Address, token: Option<&str>) -> io::Result<Connected> {
    match &address.transport {
        Transport::Tcp { host, port } => shake_hands(address, token, open_tcp(host, *port).await?).await,
        #[cfg(feature = "backend")]
        Transport::Tls { host, port } => {
            let stream = super::tls::wrap(host, open_tcp(host, *port).await?).await?;
            shake_hands(address, token, stream).await
        }
        #[cfg(unix)]
        Transport::Unix { path } => {
            shake_hands(address, token, tokio::net::UnixStream::connect(path).await?).await
        }
    }
}

/// Connects to a host by its name or address.
///
/// # Errors
/// The system's error.
pub(crate) async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Otherwise small requests would wait for the acknowledgement of earlier ones. A socket that refuses this works too.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn shake_hands<S: Stream + 'static>(
    address: &Address,
    token: Option<&str>,
    stream: S,
) -> io::Result<Connected> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let key = handshake::base64(&nonce);
    let request = upgrade_request(address, token, &key).map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
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
    let upgraded = upgrade::on(response).await.map_err(io::Error::other)?;
    let parts =
        upgraded.downcast::<TokioIo<S>>().map_err(|_| io::Error::other("hyper returned another stream"))?;
    Ok(Connected { stream: Box::new(parts.io.into_inner()), early: parts.read_buf.to_vec() })
}

fn upgrade_request(
    address: &Address,
    token: Option<&str>,
    key: &str,
) -> Result<Request<String>, hyper::http::Error> {
    let mut request = Request::get(&address.target)
        .header(header::HOST, &address.host)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_VERSION, "13");
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    request.body(String::new())
}

/// The error for an answer other than 101, with the first line of its text.
async fn refusal(response: Response<Incoming>) -> io::Error {
    const MAX_BODY_BYTES: usize = 1 << 10;
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if text.len() > MAX_BODY_BYTES {
            text.truncate(MAX_BODY_BYTES);
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::ConnectionRefused,
    };
    io::Error::new(kind, format!("the server answered {status}: {line}"))
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
