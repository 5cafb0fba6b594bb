//! axum's WebSocket, as applications usually use it: the socket is split, a task writes the messages of a channel, waiting
//! handlers are tasks, and payloads are `serde_json::Value`s.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use axum::serve::ListenerExt;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use switchboard_bench_peers::client::LastActivity;
use switchboard_bench_peers::{
    Answer, Client, MAX_IN_FLIGHT, MAX_MESSAGE_BYTES, READ_BUFFER_BYTES, heartbeat, listen, start,
};
use tokio::sync::mpsc::{self, Receiver, Sender};

type Backend = switchboard_bench_peers::Backend<Value, Utf8Bytes>;

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

/// Ends when either half ends, and stops the other.
async fn connection(socket: WebSocket, backend: Arc<Backend>) {
    let (sink, stream) = socket.split();
    let (replies, queue) = mpsc::channel(MAX_IN_FLIGHT);
    let (mut client, events) = backend.hub.join();
    let mut writer = tokio::spawn(write(sink, queue, events, client.last_activity.clone()));
    tokio::select! {
        () = read(stream, replies, &mut client, &backend) => {}
        _ = &mut writer => {}
    }
    writer.abort();
    backend.hub.leave(&client);
}

async fn read(
    mut stream: SplitStream<WebSocket>,
    replies: Sender<Utf8Bytes>,
    client: &mut Client,
    backend: &Backend,
) {
    while let Some(Ok(message)) = stream.next().await {
        let answer = match &message {
            Message::Text(text) => backend.answer(client, serde_json::from_str(text)),
            Message::Binary(bytes) => backend.answer(client, serde_json::from_slice(bytes)),
            Message::Ping(_) | Message::Pong(_) => {
                client.last_activity.touch();
                continue;
            }
            // The next read sends the answer to the close frame, and ends.
            Message::Close(_) => continue,
        };
        match answer {
            Answer::Now(text) => {
                if replies.send(text.into()).await.is_err() {
                    break;
                }
            }
            Answer::Later(text) => {
                let replies = replies.clone();
                tokio::spawn(async move { replies.send(text.await.into()).await });
            }
        }
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut replies: Receiver<Utf8Bytes>,
    mut events: Receiver<Utf8Bytes>,
    last_activity: LastActivity,
) {
    let mut heartbeat = heartbeat();
    loop {
        let message = tokio::select! {
            Some(text) = replies.recv() => Message::Text(text),
            event = events.recv() => match event {
                Some(text) => Message::Text(text),
                None => break,
            },
            _ = heartbeat.tick() => match last_activity.is_idle() {
                true => break,
                false => Message::Ping(Bytes::new()),
            },
        };
        if sink.send(message).await.is_err() {
            break;
        }
    }
}
