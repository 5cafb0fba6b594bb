//! The lower bound on this machine: a minimal server that finds the ends of frames and answers each with a canned frame, one
//! byte longer, because `response` is longer than `request`. No JSON, no unmasking, no UTF-8 check, no state of clients,
//! no deadlines. A binary frame is sent unchanged to all clients, by the task that read it.
//!
//! `yardstick PORT [WORKERS]` prints `listening on PORT`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use switchboard::protocol::frame::{self, Header, Role};
use switchboard::protocol::handshake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Clients = Arc<Mutex<HashMap<u64, Arc<TcpStream>>>>;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let workers = arguments.next().and_then(|workers| workers.parse().ok()).unwrap_or(1);
    let mut runtime = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        println!("listening on {}", listener.local_addr()?.port());
        let clients = Clients::default();
        for id in 0.. {
            let (stream, _) = listener.accept().await?;
            let clients = clients.clone();
            tokio::spawn(async move {
                // Broken connections are expected.
                let _ = serve(stream, id, &clients).await;
                clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            });
        }
        Ok(())
    })
}

async fn serve(mut stream: TcpStream, id: u64, clients: &Clients) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
    let accept = handshake::accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let stream = Arc::new(stream);
    clients.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stream.clone());

    let (mut held, mut unsent) = (Vec::new(), Vec::new());
    loop {
        stream.readable().await?;
        if !step(&stream, clients, &mut held, &mut unsent)? {
            return Ok(());
        }
        while !unsent.is_empty() {
            stream.writable().await?;
            let sent = write(&stream, &unsent)?;
            unsent.drain(..sent);
        }
    }
}

/// Reads once and answers. Returns whether the connection is still open. Idle connections have no buffer.
fn step(stream: &TcpStream, clients: &Clients, held: &mut Vec<u8>, unsent: &mut Vec<u8>) -> io::Result<bool> {
    BUFFERS.with_borrow_mut(|(buffer, out, canned)| {
        buffer.resize(64 << 10, 0);
        let count = match stream.try_read(buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let joined;
        let input = if held.is_empty() {
            &buffer[..count]
        } else {
            held.extend_from_slice(&buffer[..count]);
            joined = std::mem::take(held);
            &joined
        };
        let mut at = 0;
        out.clear();
        while let Ok(Some(header)) = Header::decode(Role::Server, &input[at..]) {
            let end = at + header.header_bytes + header.length as usize;
            if end > input.len() {
                break;
            }
            let length = header.length as usize + 1;
            if header.opcode == frame::BINARY {
                broadcast(clients, &input[at + header.header_bytes..end]);
            }
            if canned.len() < length {
                canned.resize(length, b'x');
            }
            frame::write(out, frame::TEXT, None, [&canned[..length]]);
            at = end;
        }
        held.extend_from_slice(&input[at..]);
        let sent = write(stream, out)?;
        unsent.extend_from_slice(&out[sent..]);
        Ok(true)
    })
}

/// Writes as much as the socket accepts. Returns how much.
fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn broadcast(clients: &Clients, payload: &[u8]) {
    let mut event = Vec::new();
    frame::write(&mut event, frame::TEXT, None, [payload]);
    for client in clients.lock().unwrap_or_else(PoisonError::into_inner).values() {
        // The load generator waits for each event before the next, so the buffer has room.
        let _ = client.try_write(&event);
    }
}

thread_local! {
    /// Input, output, and the bytes that answers consist of.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new(), Vec::new())) };
}
