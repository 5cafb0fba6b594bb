//! The peer of the Autobahn test suite: either end of a connection, which echoes messages unchanged. It uses the same parts as
//! the server and the Rust client: hyper for the HTTP head, `handshake` for the upgrade, `Connection` for the rest. It has no
//! sessions and no envelopes, which would require JSON.
//!
//! ```text
//! autobahn-echo server               listens, prints its port, and echoes until it is killed
//! autobahn-echo client URL AGENT     requests the cases of a fuzzing server at URL, and echoes in each
//! ```

use std::convert::Infallible;
use std::io;

use hyper::client::conn::http1 as client;
use hyper::header;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Version, upgrade};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use switchboard::Limits;
use switchboard::protocol::connection::{Connection, Event};
use switchboard::protocol::frame::{self, OpCode};
use switchboard::protocol::handshake::{self, AccessRules, Head};

/// A new connection: the stream, and the bytes that were read after the HTTP head.
struct Upgraded {
    stream: TcpStream,
    early: Vec<u8>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server"] => serve().await,
        ["client", url, agent] => run_cases(url, agent).await,
        _ => Err(io::Error::other("expected: server, or: client URL AGENT")),
    }
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // The suite itself judges how a connection ends; it breaks many on purpose.
            let _ = serve_one(stream).await;
        });
    }
}

async fn serve_one(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request: Request<_>| std::future::ready(Ok::<_, Infallible>(answer(&request))));
    let connection = server::Builder::new().serve_connection(TokioIo::new(stream), service);
    let parts = connection.without_shutdown().await.map_err(io::Error::other)?;
    let upgraded = Upgraded { stream: parts.io.into_inner(), early: parts.read_buf.to_vec() };
    echo(upgraded, Connection::server(Limits::default().max_message_bytes), || None).await
}

fn answer<B>(request: &Request<B>) -> Response<String> {
    let head = Head {
        method: request.method().as_str(),
        http_1_1: request.version() == Version::HTTP_11,
        query: request.uri().query(),
        headers: fields(request.headers()),
    };
    let rules = AccessRules { loopback: true, ..AccessRules::default() };
    let response = Response::builder();
    let response = match handshake::check(&head, &rules) {
        Ok(accepted) => response
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_ACCEPT, accepted.accept)
            .body(String::new()),
        Err(refusal) => response.status(refusal.status()).body(refusal.body().to_owned()),
    };
    response.expect("status and headers are valid")
}

fn fields(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

async fn run_cases(url: &str, agent: &str) -> io::Result<()> {
    let authority = url.strip_prefix("ws://").ok_or(io::Error::other("expected ws://HOST:PORT"))?;
    let count = ask(authority, "/getCaseCount").await?;
    let count: u32 = count.parse().map_err(io::Error::other)?;
    for case in 1..=count {
        let upgraded = connect(authority, &format!("/runCase?case={case}&agent={agent}")).await?;
        // The suite itself judges how a connection ends; it breaks many on purpose.
        let _ = echo(upgraded, client_end(), || Some(random_mask())).await;
    }
    // A case is finished when its connection closes in any way.
    let upgraded = connect(authority, &format!("/updateReports?agent={agent}")).await?;
    let _ = echo(upgraded, client_end(), || Some(random_mask())).await;
    Ok(())
}

/// Returns the first message that a fuzzing server sends on a path.
async fn ask(authority: &str, target: &str) -> io::Result<String> {
    let Upgraded { mut stream, early: mut input } = connect(authority, target).await?;
    let mut connection = client_end();
    loop {
        let mut used = 0;
        while used < input.len() {
            let received = connection.receive(&mut input[used..], &mut Vec::new());
            used += received.consumed;
            if let Some(Event::Text(text)) = received.event {
                return Ok(text.into_owned());
            }
        }
        input.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn connect(authority: &str, target: &str) -> io::Result<Upgraded> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let key = handshake::base64(&nonce);
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .body(String::new())
        .map_err(io::Error::other)?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let head = Head { method: "", http_1_1: true, query: None, headers: fields(response.headers()) };
    handshake::check_answer(&head, &key).map_err(io::Error::other)?;
    let upgraded = upgrade::on(response).await.map_err(io::Error::other)?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| io::Error::other("another stream"))?;
    Ok(Upgraded { stream: parts.io.into_inner(), early: parts.read_buf.to_vec() })
}

fn client_end() -> Connection {
    Connection::client(Limits::default().max_message_bytes, random_mask)
}

fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    getrandom::fill(&mut mask).expect("system randomness is available");
    mask
}

/// Echoes every message until the connection ends.
async fn echo(
    upgraded: Upgraded,
    mut connection: Connection,
    mask: impl Fn() -> Option<[u8; 4]>,
) -> io::Result<()> {
    let Upgraded { mut stream, early: mut input } = upgraded;
    let mut out = Vec::new();
    loop {
        let mut used = 0;
        while used < input.len() {
            let received = connection.receive(&mut input[used..], &mut out);
            used += received.consumed;
            match received.event {
                Some(Event::Text(text)) => write(&mut out, frame::TEXT, mask(), text.as_bytes()),
                Some(Event::Binary(bytes)) => write(&mut out, frame::BINARY, mask(), &bytes),
                Some(Event::Closed { .. } | Event::Failed(_)) | None => {}
            }
        }
        stream.write_all(&out).await?;
        out.clear();
        if connection.is_closed() {
            return linger(stream).await;
        }
        input.clear();
        input.reserve(64 << 10);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

fn write(out: &mut Vec<u8>, opcode: OpCode, mask: Option<[u8; 4]>, payload: &[u8]) {
    frame::write(out, opcode, mask, [payload]);
}

/// Shuts down our half, and reads until the peer has seen that, so that a reset cannot discard the close frame.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    let read = tokio::io::copy(&mut stream, &mut nowhere);
    match tokio::time::timeout(Limits::default().close_timeout, read).await {
        Ok(read) => read.map(|_| ()),
        Err(_) => Ok(()),
    }
}
