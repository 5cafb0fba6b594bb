//! fastwebsockets on hyper, tuned. One task for each client reads, runs handlers and writes. The TCP stream is taken back from
//! hyper, which saves a lock and two indirect calls. Responses are collected in a buffer until nothing more is ready, so that
//! pipelined requests share a write. Payloads stay text (`RawValue`).

use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::upgrade::UpgradeFut;
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocketError, WebSocketWrite,
    after_handshake_split,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use switchboard_bench_peers::{Answer, Client, MAX_IN_FLIGHT, MAX_MESSAGE_BYTES, heartbeat, http, start};
use tokio::io::{AsyncReadExt, BufWriter, Chain};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{self, Receiver, UnboundedSender};

type Backend = switchboard_bench_peers::Backend<Box<RawValue>, Bytes>;
/// The bytes that hyper has already read, then the stream.
type Reader = FragmentCollectorRead<Chain<Cursor<Bytes>, OwnedReadHalf>>;
type Writer = WebSocketWrite<BufWriter<OwnedWriteHalf>>;

/// Holds some hundred responses of usual size; longer messages bypass it.
const WRITE_BUFFER_BYTES: usize = 16 << 10;

fn main() -> io::Result<()> {
    start(|options| async move {
        let backend = Arc::new(Backend::new());
        http::serve(options, move |upgrade| connection(upgrade, backend.clone())).await
    })
}

async fn split(upgrade: UpgradeFut) -> Result<(Reader, Writer), WebSocketError> {
    let upgraded = upgrade.await?.into_inner().into_inner();
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("hyper returns the type that it was given");
    let (reader, writer) = parts.io.into_inner().into_split();
    let reader = Cursor::new(parts.read_buf).chain(reader);
    let writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
    let (mut reader, writer) = after_handshake_split(reader, writer, Role::Server);
    reader.set_max_message_size(MAX_MESSAGE_BYTES);
    Ok((FragmentCollectorRead::new(reader), writer))
}

async fn connection(upgrade: UpgradeFut, backend: Arc<Backend>) {
    let Ok((reader, writer)) = split(upgrade).await else { return };
    let (mut client, events) = backend.hub.join();
    // Most connections end with an error; it can be ignored.
    let _ = converse(reader, writer, &mut client, events, &backend).await;
    backend.hub.leave(&client);
}

async fn converse(
    reader: Reader,
    mut writer: Writer,
    client: &mut Client,
    mut events: Receiver<Bytes>,
    backend: &Backend,
) -> Result<(), WebSocketError> {
    // Few: a pong for each ping, and one answer to a close frame.
    let (obligations, mut obliged) = mpsc::unbounded_channel();
    let mut running = FuturesUnordered::new();
    let mut heartbeat = heartbeat();
    let mut unflushed = false;
    // A read must not be cancelled within a frame, so the future is kept across iterations.
    let mut reading = pin!(read(reader, obligations.clone()));
    loop {
        // In this order, with the flush last: it starts only if nothing else is ready.
        tokio::select! {
            biased;
            (reader, frame) = &mut reading, if running.len() < MAX_IN_FLIGHT => {
                let frame = frame?;
                reading.set(read(reader, obligations.clone()));
                match frame.opcode {
                    OpCode::Text | OpCode::Binary => {}
                    OpCode::Close => break,
                    _ => {
                        client.last_activity.touch();
                        continue;
                    }
                }
                match backend.answer(client, serde_json::from_slice(&frame.payload)) {
                    Answer::Now(text) => writer.write_frame(Frame::text(text.into_bytes().into())).await?,
                    Answer::Later(text) => {
                        running.push(text);
                        continue;
                    }
                }
            }
            Some(frame) = obliged.recv() => writer.write_frame(frame).await?,
            event = events.recv() => match event {
                Some(text) => writer.write_frame(Frame::text(Payload::Borrowed(&text))).await?,
                None => break,
            },
            Some(text) = running.next() => writer.write_frame(Frame::text(text.into_bytes().into())).await?,
            _ = heartbeat.tick() => {
                if client.last_activity.is_idle() {
                    break;
                }
                writer.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(&[]))).await?;
            }
            flushed = writer.flush(), if unflushed => {
                unflushed = false;
                flushed?;
                continue;
            }
        }
        unflushed = true;
    }
    // The answer to a close frame.
    while let Ok(frame) = obliged.try_recv() {
        writer.write_frame(frame).await?;
    }
    writer.flush().await
}

async fn read(
    mut reader: Reader,
    obligations: UnboundedSender<Frame<'static>>,
) -> (Reader, Result<Frame<'static>, WebSocketError>) {
    let frame = reader.read_frame(&mut |frame| std::future::ready(obligations.send(frame))).await;
    (reader, frame)
}
