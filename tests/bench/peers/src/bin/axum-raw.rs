//! axum's WebSocket, tuned. One task for each client reads, runs handlers and writes. Responses are collected in the buffer of
//! the socket until nothing more is ready, so that pipelined requests share a write. Payloads stay text (`RawValue`).

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use axum::serve::ListenerExt;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use serde_json::value::RawValue;
use switchboard_bench_peers::{
    Answer, MAX_IN_FLIGHT, MAX_MESSAGE_BYTES, READ_BUFFER_BYTES, heartbeat, listen, start,
};
use tokio::sync::mpsc::Receiver;
use tokio::time::Interval;

type Backend = switchboard_bench_peers::Backend<Box<RawValue>, Utf8Bytes>;

fn main() -> io::Result<()> {
    start(|options| async move {
        let app = Router::new().route("/ws", any(upgrade)).with_state(Arc::new(Backend::new()));
        let listener = listen(options).await?.tap_io(|tcp| {
            let _ = tcp.set_nodelay(true);
        });
        axum::serve(listener, app).await
    })
}

async fn upgrade(upgrade: WebSocketUpgrade, State(backend): State<Arc<Backend>>) -> Response {
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| connection(socket, backend))
}

/// What the task of a connection waits for.
struct Connection {
    socket: WebSocket,
    events: Receiver<Utf8Bytes>,
    running: FuturesUnordered<BoxFuture<'static, String>>,
    heartbeat: Interval,
    unflushed: bool,
}

/// What happened.
enum Happened {
    Received(Message),
    ToSend(Utf8Bytes),
    Tick,
    Closed,
}

impl Connection {
    /// Returns the next thing that is ready. The socket is flushed only if nothing is.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        if self.running.len() < MAX_IN_FLIGHT
            && let Poll::Ready(received) = self.socket.poll_next_unpin(cx)
        {
            return Poll::Ready(match received {
                Some(Ok(message)) => Happened::Received(message),
                Some(Err(_)) | None => Happened::Closed,
            });
        }
        if let Poll::Ready(event) = self.events.poll_recv(cx) {
            return Poll::Ready(event.map_or(Happened::Closed, Happened::ToSend));
        }
        if let Poll::Ready(Some(text)) = self.running.poll_next_unpin(cx) {
            return Poll::Ready(Happened::ToSend(text.into()));
        }
        if self.heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Happened::Tick);
        }
        if self.unflushed
            && let Poll::Ready(flushed) = self.socket.poll_flush_unpin(cx)
        {
            self.unflushed = false;
            if flushed.is_err() {
                return Poll::Ready(Happened::Closed);
            }
        }
        Poll::Pending
    }

    /// Adds a message to the buffer. Waits only if it is full.
    async fn feed(&mut self, message: Message) -> Result<(), axum::Error> {
        self.unflushed = true;
        self.socket.feed(message).await
    }
}

async fn connection(socket: WebSocket, backend: Arc<Backend>) {
    let (mut client, events) = backend.hub.join();
    let running = FuturesUnordered::new();
    let mut connection = Connection { socket, events, running, heartbeat: heartbeat(), unflushed: false };
    loop {
        let answer = match std::future::poll_fn(|cx| connection.poll(cx)).await {
            Happened::Received(Message::Text(text)) => {
                backend.answer(&mut client, serde_json::from_str(&text))
            }
            Happened::Received(Message::Binary(bytes)) => {
                backend.answer(&mut client, serde_json::from_slice(&bytes))
            }
            Happened::Received(Message::Ping(_) | Message::Pong(_)) => {
                client.last_activity.touch();
                continue;
            }
            Happened::ToSend(text) => match connection.feed(Message::Text(text)).await {
                Ok(()) => continue,
                Err(_) => break,
            },
            Happened::Tick if client.last_activity.is_idle() => break,
            Happened::Tick => match connection.feed(Message::Ping(Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => break,
            },
            // The next read sends the answer to the close frame, and ends.
            Happened::Received(Message::Close(_)) => continue,
            Happened::Closed => break,
        };
        match answer {
            Answer::Now(text) => {
                if connection.feed(Message::Text(text.into())).await.is_err() {
                    break;
                }
            }
            Answer::Later(text) => connection.running.push(text),
        }
    }
    backend.hub.leave(&client);
}
