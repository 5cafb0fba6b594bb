//! A server without tokio and without async: a thread for each client, on blocking sockets. `cargo run --example blocking`.
//!
//! [`Session`] is the server's end of a client, as a state machine: this program brings it bytes and the time, and sends what it
//! writes. [`switchboard::Server`] does the same on tokio.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use switchboard::protocol::handshake::{Accepted, AccessRules, Head, check};
use switchboard::protocol::session::{Action, Due, Request, Rules, Session};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use switchboard::{ErrorCode, HandlerError, Payload};

const MAX_CLIENTS: usize = 64;
const MAX_HEAD_BYTES: usize = 16 << 10;
/// How long a client can take for the head of its request, and the socket for each write.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3001")?;
    println!("listening on ws://{}", listener.local_addr()?);
    serve(&listener)
}

/// Accepts clients.
///
/// # Errors
/// When the listener fails.
pub fn serve(listener: &TcpListener) -> std::io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let (mut socket, _) = listener.accept()?;
        if clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::AcqRel);
            let _ = socket.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
            continue;
        }
        let clients = clients.clone();
        std::thread::spawn(move || {
            if let Err(error) = serve_client(socket) {
                eprintln!("a client was lost: {error}");
            }
            clients.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn serve_client(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_write_timeout(Some(PATIENCE))?;
    match read_upgrade(&mut socket)? {
        Ok((accepted, early)) => {
            let accept = accepted.accept;
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            socket.write_all(head.as_bytes())?;
            run(socket, early)
        }
        Err(status) => {
            write!(socket, "HTTP/1.1 {status} Refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        }
    }
}

/// Reads the request for the upgrade, and the bytes after it; or returns the status that refuses it.
fn read_upgrade(socket: &mut TcpStream) -> std::io::Result<Result<(Accepted, Vec<u8>), u16>> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    loop {
        let left = until.checked_duration_since(Instant::now()).ok_or(Error::from(ErrorKind::TimedOut))?;
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 4 << 10];
        let count = socket.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..count]);
        if count == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Ok(Err(400));
        }
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let end = match request.parse(&bytes) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => continue,
            Err(_) => return Ok(Err(400)),
        };
        let head = Head {
            method: request.method.unwrap_or_default(),
            http_1_1: request.version == Some(1),
            query: request.path.and_then(|path| path.split_once('?')).map(|(_, query)| query),
            headers: request.headers.iter().map(|header| (header.name, header.value)).collect(),
        };
        let rules = AccessRules { loopback: true, ..AccessRules::default() };
        let checked = check(&head, &rules).map_err(|refusal| refusal.status());
        return Ok(checked.map(|accepted| (accepted, bytes.split_off(end))));
    }
}

/// Runs the session of a client until one of the two ends it.
fn run(mut socket: TcpStream, mut input: Vec<u8>) -> std::io::Result<()> {
    let start = Instant::now();
    let clock = || Now {
        at: Millis(start.elapsed().as_millis() as u64),
        unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
    };
    let mut session: Session = Session::new(Arc::new(Rules::default()), Uuid::v4(), true, clock().at);
    let mut out = Vec::new();
    session.open(clock(), &mut out);
    loop {
        let mut used = 0;
        while used < input.len() && (session.wants_input() || session.is_finished()) {
            let now = clock();
            let step = session.handle_input(now, &mut input[used..], &mut out);
            used += step.consumed;
            let action = match step.action {
                Some(Action::Decode(message)) => session.handle_decoded(now, message.decode(), &mut out),
                action => action,
            };
            if let Some(Action::Request(request)) = action {
                let result = handle(&request);
                session.answer(clock(), request, result, &mut out);
            }
        }
        input.drain(..used);
        socket.write_all(&out)?;
        out.clear();
        if session.is_finished() {
            return Ok(());
        }
        let patience = session.deadline().since(clock().at).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 16 << 10];
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => input.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        // Pings, idle clients, the end of a close handshake.
        while let Some(due) = session.handle_deadline(clock(), &mut out) {
            if let Due::Cut = due {
                return socket.write_all(&out);
            }
        }
    }
}

fn handle(request: &Request) -> Result<Payload, HandlerError> {
    match request.channel().as_deref() {
        Some("echo") => Ok(request.payload()),
        Some("sum") => {
            let numbers = request.payload();
            let numbers = numbers.read(serde_json::from_str::<Vec<f64>>)?;
            Payload::write(serde_json::to_string(&numbers.iter().sum::<f64>()))
        }
        channel => {
            let message = format!("No handler for: {}", channel.unwrap_or_default());
            Err(HandlerError::with_code(ErrorCode::UnknownChannel, message))
        }
    }
}
