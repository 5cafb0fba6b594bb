//! Servers and clients on sockets, and on pipes of a known size. The client is tokio-tungstenite.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use switchboard::{Config, HandlerError, Payload, RequestContext, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Waits for something that must happen. The timeout is so long that only a hang reaches it.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

/// The head of an upgrade request, with further fields that each end in a line break.
pub fn upgrade(fields: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// Any free port, and no rate limit.
pub fn config() -> Config {
    let mut config = Config::default().port(0);
    config.limits.rate_max_requests = u32::MAX;
    config
}

/// The same with every built-in page, if pages are compiled in.
pub fn with_pages(config: Config) -> Config {
    Config {
        #[cfg(feature = "pages")]
        serve_health: true,
        #[cfg(feature = "pages")]
        serve_metrics: true,
        #[cfg(feature = "pages")]
        serve_console: true,
        #[cfg(feature = "pages")]
        serve_client: true,
        ..config
    }
}

/// A server that echoes.
pub fn server(config: Config) -> Server {
    let server = Server::new(config);
    server.on_request("echo", |payload: Payload, _: RequestContext| async { Ok::<_, HandlerError>(payload) });
    server
}

pub async fn start(config: Config) -> (Server, u16) {
    let server = server(config);
    let port = server.start().await.expect("a free port");
    (server, port)
}

/// A handler that waits until the test releases one call. The ids of started calls are reported.
pub fn waiting(server: &Server, channel: &str) -> (Arc<Semaphore>, Calls<String>) {
    let gate = Arc::new(Semaphore::new(0));
    let (began, beginnings) = calls();
    let began = Arc::new(began);
    let shared = gate.clone();
    server.on_request(channel, move |_: Payload, cx: RequestContext| {
        let (gate, began) = (shared.clone(), began.clone());
        async move {
            began(cx.request_id());
            gate.acquire().await.expect("the gate is never closed").forget();
            Ok::<_, HandlerError>(json!(cx.request_id()))
        }
    });
    (gate, beginnings)
}

/// A callback for a server, and the values that it was called with.
pub fn calls<T: Send + 'static>() -> (impl Fn(T) + Send + Sync + 'static, Calls<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (move |value| send(&sender, value), Calls(receiver))
}

fn send<T>(sender: &UnboundedSender<T>, value: T) {
    // The test can have ended.
    let _ = sender.send(value);
}

pub struct Calls<T>(UnboundedReceiver<T>);

impl<T> Calls<T> {
    pub async fn next(&mut self) -> T {
        within("a call", self.0.recv()).await.expect("the server has the callback")
    }

    /// The number of further calls until now.
    pub fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.0.try_recv().ok()).count()
    }
}

pub struct Client<Io = TcpStream> {
    pub socket: WebSocketStream<Io>,
    /// The id that the server assigned.
    pub id: String,
}

impl Client {
    /// Connects, and reads `server:connected`.
    pub async fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        Client::on(stream).await
    }
}

impl Client<DuplexStream> {
    /// Connects to a server over a pipe that holds `bytes` each way. See [`pipe`].
    pub async fn through_pipe(server: &Server, bytes: usize) -> Client<DuplexStream> {
        Client::on(pipe(server, bytes)).await
    }
}

/// The client's end of a pipe to a hyper server that upgrades through [`Server::upgrade`].
pub fn pipe(server: &Server, bytes: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(bytes);
    tokio::spawn(serve_hyper(server.clone(), far));
    near
}

/// A pipe of the given size after the upgrade. No client reads at this end.
pub async fn upgraded_pipe(server: &Server, bytes: usize) -> DuplexStream {
    let mut pipe = pipe(server, bytes);
    pipe.write_all(upgrade("").as_bytes()).await.expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(pipe.read_u8().await.expect("the server answers"));
    }
    pipe
}

/// A hyper server of an embedder with one connection: `/ws` is ours, the rest is theirs.
pub async fn serve_hyper<Io>(server: Server, io: Io)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let server = server.clone();
        async move {
            Ok::<_, std::convert::Infallible>(match request.uri().path() {
                "/ws" => server.upgrade_async(&mut request, true).await,
                _ => hyper::Response::new("theirs".to_owned()),
            })
        }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    // A client that disconnects is not an error of the server.
    let _ = connection.with_upgrades().await;
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Client<Io> {
    pub async fn on(io: Io) -> Client<Io> {
        let request = tokio_tungstenite::client_async("ws://localhost/ws", io);
        let (socket, _) = within("the upgrade", request).await.expect("the upgrade is accepted");
        Client::upgraded(socket).await
    }

    pub async fn upgraded(socket: WebSocketStream<Io>) -> Client<Io> {
        let mut client = Client { socket, id: String::new() };
        let connected = client.event("server:connected").await;
        client.id = connected["clientId"].as_str().expect("server:connected names the client").to_owned();
        client
    }

    /// A client on a connection that was already upgraded.
    pub async fn raw(io: Io) -> Client<Io> {
        Client { socket: WebSocketStream::from_raw_socket(io, Role::Client, None).await, id: String::new() }
    }

    pub async fn send(&mut self, id: &str, channel: &str, payload: Value) {
        let request = json!({ "type": "request", "id": id, "channel": channel, "payload": payload });
        self.send_text(request.to_string()).await;
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        let sent = self.socket.send(Message::text(text.into()));
        within("room for a message", sent).await.expect("the connection is open");
    }

    /// The next message; the close frame's code if the connection ends instead, 1006 if it ends without one.
    pub async fn next(&mut self) -> Result<Value, u16> {
        loop {
            match within("a message", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(frame))) => {
                    // The library has queued its answer, and sends it on its next use.
                    let _ = within("room for a close frame", self.socket.flush()).await;
                    return Err(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("a server sends text: {other:?}"),
                Some(Err(Error::Io(_) | Error::Protocol(_) | Error::ConnectionClosed)) | None => {
                    return Err(1006);
                }
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// The next message, which must be a response.
    pub async fn response(&mut self) -> Value {
        let message = self.next().await.expect("a response");
        assert_eq!(message["type"], "response", "{message}");
        message
    }

    /// The payload of the next message, which must be an event.
    pub async fn event(&mut self, channel: &str) -> Value {
        let mut message = self.next().await.expect("an event");
        assert_eq!((&message["type"], &message["channel"]), (&json!("event"), &json!(channel)), "{message}");
        message["payload"].take()
    }

    /// A request and its response.
    pub async fn ask(&mut self, channel: &str, payload: Value) -> Value {
        self.send("ask", channel, payload).await;
        let response = self.response().await;
        assert_eq!((&response["id"], &response["channel"]), (&json!("ask"), &json!(channel)), "{response}");
        response
    }

    /// The close code. Messages before it are skipped.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Closes, and waits until the server has closed too.
    pub async fn leave(mut self) {
        let closed = self.socket.close(None);
        within("room for a close frame", closed).await.expect("the connection is open");
        self.close_code().await;
    }

    pub async fn assert_alive(&mut self) {
        assert_eq!(self.ask("echo", json!("alive")).await["payload"], "alive");
    }
}

/// Makes dropping a connection send a reset.
pub fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("a TCP socket can linger");
}
