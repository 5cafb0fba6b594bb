//! fastwebsockets on hyper, as applications usually use it: the socket is split, a task writes the messages of a channel, waiting
//! handlers are tasks, and payloads are `serde_json::Value`s.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::upgrade::UpgradeFut;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError, WebSocketWrite};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use switchboard_bench_peers::client::LastActivity;
use switchboard_bench_peers::{Answer, Client, MAX_IN_FLIGHT, MAX_MESSAGE_BYTES, heartbeat, http, start};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{self, Receiver, Sender};

type Backend = switchboard_bench_peers::Backend<Value, Bytes>;
type Socket = TokioIo<Upgraded>;

/// How long a closing client can take to read its queued messages.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    start(|options| async move {
        let backend = Arc::new(Backend::new());
        http::serve(options, move |upgrade| connection(upgrade, backend.clone())).await
    })
}

/// Ends when either half ends, and stops the other.
async fn connection(upgrade: UpgradeFut, backend: Arc<Backend>) {
    let Ok(mut socket) = upgrade.await else { return };
    socket.set_max_message_size(MAX_MESSAGE_BYTES);
    let (reader, socket) = socket.split(tokio::io::split);
    let (replies, queue) = mpsc::channel(MAX_IN_FLIGHT);
    let (mut client, events) = backend.hub.join();
    let mut writer = tokio::spawn(write(socket, queue, events, client.last_activity.clone()));
    tokio::select! {
        _ = read(FragmentCollectorRead::new(reader), replies, &mut client, &backend) => {
            // The answer to a close frame can still be queued.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut writer).await;
        }
        _ = &mut writer => {}
    }
    writer.abort();
    backend.hub.leave(&client);
}

async fn read(
    mut socket: FragmentCollectorRead<ReadHalf<Socket>>,
    replies: Sender<Frame<'static>>,
    client: &mut Client,
    backend: &Backend,
) -> Result<(), WebSocketError> {
    loop {
        // Pongs and the answer to a close frame use the same queue as responses.
        let frame = socket.read_frame(&mut |frame| replies.send(frame)).await?;
        let answer = match frame.opcode {
            OpCode::Text | OpCode::Binary => backend.answer(client, serde_json::from_slice(&frame.payload)),
            OpCode::Close => return Ok(()),
            _ => {
                client.last_activity.touch();
                continue;
            }
        };
        match answer {
            Answer::Now(text) => {
                if replies.send(Frame::text(text.into_bytes().into())).await.is_err() {
                    return Ok(());
                }
            }
            Answer::Later(text) => {
                let replies = replies.clone();
                tokio::spawn(async move { replies.send(Frame::text(text.await.into_bytes().into())).await });
            }
        }
    }
}

async fn write(
    mut socket: WebSocketWrite<WriteHalf<Socket>>,
    mut replies: Receiver<Frame<'static>>,
    mut events: Receiver<Bytes>,
    last_activity: LastActivity,
) {
    let mut heartbeat = heartbeat();
    loop {
        let written = tokio::select! {
            reply = replies.recv() => match reply {
                Some(frame) => socket.write_frame(frame).await,
                None => break,
            },
            event = events.recv() => match event {
                Some(text) => socket.write_frame(Frame::text(Payload::Borrowed(&text))).await,
                None => break,
            },
            _ = heartbeat.tick() => match last_activity.is_idle() {
                true => break,
                false => socket.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(&[]))).await,
            },
        };
        if written.is_err() {
            break;
        }
    }
}
