//! The load generator: many connections on one thread, cheaper than any server. Each response is checked: the first of a
//! connection as JSON, the others byte by byte, except id and timestamp, which have a fixed length.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use switchboard::protocol::frame::{self, Header, Role};

use crate::Failure;

/// Ids are numbers of eight digits, so that all requests of a row have the same length.
const FIRST_ID: u32 = 10_000_000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const PATIENCE: Duration = Duration::from_secs(20);
/// The default number of chats in a response to `chat:list`.
const CHATS_LISTED: usize = 50;

/// The protocol of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The envelopes of the specification.
    Envelopes,
    /// JSON-RPC 2.0.
    JsonRpc,
    /// Canned responses; only their length is checked.
    Canned,
}

/// A request that is sent repeatedly.
pub struct Request {
    wire: Wire,
    channel: &'static str,
    payload: Value,
    /// A whole frame, masked.
    frame: Vec<u8>,
    /// The position of the id in the frame, and the mask there.
    id_at: usize,
    /// The length of a canned response.
    answer_bytes: usize,
}

impl Request {
    pub fn new(wire: Wire, channel: &'static str, payload: Value) -> Request {
        let text = match wire {
            Wire::JsonRpc => {
                let params = json!([payload]);
                format!(r#"{{"jsonrpc":"2.0","id":{FIRST_ID},"method":"{channel}","params":{params}}}"#)
            }
            _ => format!(
                r#"{{"type":"request","id":"{FIRST_ID}","channel":"{channel}","payload":{payload},"timestamp":1767225600000}}"#
            ),
        };
        let opcode = match (wire, channel) {
            (Wire::Canned, "broadcast") => frame::BINARY,
            _ => frame::TEXT,
        };
        let mut bytes = Vec::new();
        frame::write(&mut bytes, opcode, Some(MASK), [text.as_bytes()]);
        let header = bytes.len() - text.len();
        let id_at = header + text.find(&FIRST_ID.to_string()).expect("the text contains the id");
        Request { wire, channel, payload, frame: bytes, id_at, answer_bytes: text.len() + 1 }
    }

    /// Appends the request with a new id.
    fn write(&self, id: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let header = self.frame.len() + 1 - self.answer_bytes;
        let digits = digits(id);
        for (k, digit) in digits.into_iter().enumerate() {
            out[start + self.id_at + k] = digit ^ MASK[(self.id_at - header + k) % 4];
        }
    }

    /// Whether all responses differ.
    fn varies(&self) -> bool {
        self.channel.starts_with("chat:")
    }

    fn is_answered_by(&self, payload: &Value) -> bool {
        match self.channel {
            "broadcast" => true,
            "chat:create" => payload["id"].is_string() && payload["title"] == self.payload["title"],
            "chat:list" => payload.as_array().is_some_and(|chats| {
                chats.len() == CHATS_LISTED && chats.iter().all(|chat| chat["id"].is_string())
            }),
            "chat:add-message" => {
                let same = |name| payload[name] == self.payload[name];
                payload["id"].is_string() && same("chatId") && same("role") && same("content")
            }
            _ => *payload == self.payload,
        }
    }

    /// Parses a response: returns its id and payload.
    fn read(&self, text: &[u8]) -> Result<(u32, Value), Failure> {
        let mut value: Value = serde_json::from_slice(text)?;
        let (id, payload) = match self.wire {
            Wire::JsonRpc => (value["id"].as_u64().map(|id| id as u32), value["result"].take()),
            _ if value["type"] == "response" && value["channel"] == self.channel => {
                (value["id"].as_str().and_then(|id| id.parse().ok()), value["payload"].take())
            }
            _ => (None, Value::Null),
        };
        match id {
            Some(id) if self.is_answered_by(&payload) => Ok((id, payload)),
            _ => Err(format!("wrong response: {}", String::from_utf8_lossy(text)).into()),
        }
    }

    /// The pattern of the responses, taken from the first one.
    fn learn(&self, text: &[u8]) -> Result<(Pattern, u32), Failure> {
        let (id, _) = self.read(text)?;
        let find = |word: &[u8]| text.windows(word.len()).position(|window| window == word);
        let id_at = find(&digits(id)).ok_or("no id")?;
        let time_at = find(b"\"timestamp\":").map(|at| at + 12);
        Ok((Pattern { text: text.to_vec(), id_at, time_at }, id))
    }
}

fn digits(id: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    let mut rest = id;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// A response with gaps for the id and the timestamp.
struct Pattern {
    text: Vec<u8>,
    id_at: usize,
    time_at: Option<usize>,
}

impl Pattern {
    /// Returns the id of a response that matches.
    fn id(&self, text: &[u8]) -> Option<u32> {
        let id = text.get(self.id_at..self.id_at + 8)?;
        let id = id.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit.wrapping_sub(b'0')));
        let mut holes = [(self.id_at, 8), self.time_at.map_or((self.text.len(), 0), |at| (at, 13))];
        holes.sort_unstable();
        let mut from = 0;
        for (at, length) in holes {
            if text.get(from..at)? != &self.text[from..at] {
                return None;
            }
            from = at + length;
        }
        (text.get(from..)? == &self.text[from..]).then_some(id)
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    next_id: u32,
    /// Ids of requests in flight, and when they were due.
    waiting: VecDeque<(u32, Instant)>,
}

impl Connection {
    /// Writes as much of the output as the socket accepts.
    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    fn ask(&mut self, request: &Request, due: Instant) {
        let id = self.next_id;
        self.next_id = if id == 99_999_999 { FIRST_ID } else { id + 1 };
        self.waiting.push_back((id, due));
        request.write(id, &mut self.output);
    }
}

/// Connections to one server.
pub struct Load {
    poll: Poll,
    events: Events,
    address: SocketAddr,
    wire: Wire,
    connections: Vec<Connection>,
    pattern: Option<Pattern>,
    /// The last payload, where all responses differ.
    last: Value,
    scratch: Vec<u8>,
    /// Responses received.
    pub answers: u64,
    /// Events received.
    pub events_seen: u64,
    /// Latencies in nanoseconds, while they are recorded.
    pub latencies: Option<Vec<u64>>,
}

impl Load {
    pub fn new(wire: Wire, port: u16) -> io::Result<Load> {
        Ok(Load {
            poll: Poll::new()?,
            events: Events::with_capacity(4096),
            address: (Ipv4Addr::LOCALHOST, port).into(),
            wire,
            connections: Vec::new(),
            pattern: None,
            last: Value::Null,
            scratch: vec![0; 256 << 10],
            answers: 0,
            events_seen: 0,
            latencies: None,
        })
    }

    /// Opens connections, some at a time, up to `count`. On return each has received its first event.
    pub fn open(&mut self, count: usize) -> Result<(), Failure> {
        while self.connections.len() < count {
            let batch = (count - self.connections.len()).min(64);
            let mut opening: Vec<_> = (0..batch).map(|_| self.connect()).collect::<Result<_, _>>()?;
            for stream in &mut opening {
                self.finish_opening(stream)?;
            }
            for stream in opening {
                let mut stream = TcpStream::from_std(stream);
                let token = Token(self.connections.len());
                self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                self.connections.push(Connection {
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    sent: 0,
                    next_id: FIRST_ID,
                    waiting: VecDeque::new(),
                });
            }
        }
        Ok(())
    }

    pub fn close(&mut self) {
        self.connections.clear();
    }

    fn connect(&self) -> io::Result<std::net::TcpStream> {
        let mut stream = std::net::TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let port = self.address.port();
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    }

    /// Reads the 101, and the first event of a server that sends one.
    fn finish_opening(&self, stream: &mut std::net::TcpStream) -> Result<(), Failure> {
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let count = stream.read(&mut buffer)?;
            seen.extend_from_slice(&buffer[..count]);
            if count == 0 {
                return Err(format!("upgrade failed: {}", String::from_utf8_lossy(&seen)).into());
            }
            let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            if !seen.starts_with(b"HTTP/1.1 101") {
                return Err(format!("upgrade failed: {}", String::from_utf8_lossy(&seen)).into());
            }
            let rest = &seen[end + 4..];
            let first = Header::decode(Role::Client, rest).map_err(|error| error.as_str())?;
            let whole = first.is_some_and(|first| rest.len() == first.header_bytes + first.length as usize);
            if self.wire != Wire::Envelopes || whole {
                break;
            }
        }
        stream.set_nonblocking(true)?;
        Ok(())
    }

    /// Opens and immediately closes connections for a time. Returns how many.
    pub fn churn(&mut self, length: Duration) -> Result<u64, Failure> {
        let end = Instant::now() + length;
        let mut count = 0;
        while Instant::now() < end {
            let mut opening: Vec<_> = (0..32).map(|_| self.connect()).collect::<Result<_, _>>()?;
            for stream in &mut opening {
                self.finish_opening(stream)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Keeps `depth` requests in flight on each connection for a time.
    pub fn pump(&mut self, request: &Request, depth: usize, length: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            while connection.waiting.len() < depth {
                connection.ask(request, start);
            }
            connection.flush()?;
        }
        while start.elapsed() < length {
            self.turn(request, Some(depth), Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Sends requests at a fixed rate, spread over the connections, without waiting for responses.
    pub fn pace(&mut self, request: &Request, each_second: f64, length: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        let mut asked = 0_u64;
        while start.elapsed() < length {
            let due = (start.elapsed().as_secs_f64() * each_second) as u64;
            while asked < due {
                let index = asked as usize % self.connections.len();
                let when = start + Duration::from_secs_f64(asked as f64 / each_second);
                self.connections[index].ask(request, when);
                self.connections[index].flush()?;
                asked += 1;
            }
            self.turn(request, None, Duration::ZERO)?;
        }
        self.drain(request)
    }

    /// Waits until nothing is in flight.
    pub fn drain(&mut self, request: &Request) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        while self.connections.iter().any(|connection| !connection.waiting.is_empty()) {
            if Instant::now() > end {
                return Err("responses are missing".into());
            }
            self.turn(request, None, Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Waits for one response on the first connection.
    pub fn call(&mut self, channel: &'static str, payload: Value) -> Result<Value, Failure> {
        let request = Request::new(self.wire, channel, payload);
        self.connections[0].ask(&request, Instant::now());
        self.connections[0].flush()?;
        self.drain(&request)?;
        Ok(self.last.take())
    }

    /// Requests a broadcast on the first connection, and waits until every connection has the event.
    pub fn broadcast(&mut self, request: &Request) -> Result<(), Failure> {
        let goal = self.events_seen + self.connections.len() as u64;
        let end = Instant::now() + PATIENCE;
        self.connections[0].ask(request, Instant::now());
        self.connections[0].flush()?;
        while self.events_seen < goal || !self.connections[0].waiting.is_empty() {
            if Instant::now() > end {
                return Err(format!("{} events are missing", goal - self.events_seen).into());
            }
            self.turn(request, None, Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Subscribes each connection to the events, for JSON-RPC.
    pub fn subscribe(&mut self) -> Result<(), Failure> {
        if self.wire != Wire::JsonRpc {
            return Ok(());
        }
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"subscribe_tick","params":[]}"#;
        let mut bytes = Vec::new();
        frame::write(&mut bytes, frame::TEXT, Some(MASK), [text.as_bytes()]);
        for connection in &mut self.connections {
            connection.output.extend_from_slice(&bytes);
            connection.waiting.push_back((1, Instant::now()));
            connection.flush()?;
        }
        let any = Request::new(self.wire, "subscribe_tick", Value::Null);
        self.drain(&any)
    }

    /// Requests a broadcast on the first connection, and does not read from the others.
    pub fn ask_first(&mut self, request: &Request) -> Result<(), Failure> {
        let connection = &mut self.connections[0];
        connection.ask(request, Instant::now());
        connection.flush()?;
        let end = Instant::now() + PATIENCE;
        while !self.connections[0].waiting.is_empty() {
            if Instant::now() > end {
                return Err("a response is missing".into());
            }
            self.read(0, request, None)?;
        }
        Ok(())
    }

    fn turn(&mut self, request: &Request, depth: Option<usize>, patience: Duration) -> Result<(), Failure> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => result?,
        }
        for event in &events {
            let index = event.token().0;
            if index >= self.connections.len() {
                continue;
            }
            if event.is_readable() {
                self.read(index, request, depth)?;
            }
            self.connections[index].flush()?;
        }
        self.events = events;
        Ok(())
    }

    /// Reads what a connection has, checks it, and sends a request for each response, up to `depth`.
    fn read(&mut self, index: usize, request: &Request, depth: Option<usize>) -> Result<(), Failure> {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            let connection = &mut self.connections[index];
            let count = match connection.stream.read(&mut scratch) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            if connection.input.is_empty() {
                let used = self.take_frames(index, request, &scratch[..count])?;
                self.connections[index].input.extend_from_slice(&scratch[used..count]);
            } else {
                let mut input = std::mem::take(&mut connection.input);
                input.extend_from_slice(&scratch[..count]);
                let used = self.take_frames(index, request, &input)?;
                input.drain(..used);
                self.connections[index].input = input;
            }
            let connection = &mut self.connections[index];
            if let Some(depth) = depth {
                let now = Instant::now();
                while connection.waiting.len() < depth {
                    connection.ask(request, now);
                }
            }
            connection.flush()?;
            if count < scratch.len() {
                break;
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Checks the complete frames of the input. Returns their length in bytes.
    fn take_frames(&mut self, index: usize, request: &Request, input: &[u8]) -> Result<usize, Failure> {
        let mut at = 0;
        while let Some(header) = Header::decode(Role::Client, &input[at..]).map_err(|error| error.as_str())? {
            let start = at + header.header_bytes;
            let end = start + header.length as usize;
            let Some(text) = input.get(start..end) else { break };
            at = end;
            match header.opcode {
                frame::TEXT => self.take_text(index, request, text)?,
                frame::PING => {
                    frame::write(&mut self.connections[index].output, frame::PONG, Some(MASK), [text]);
                }
                _ => return Err(format!("unexpected frame: {}", String::from_utf8_lossy(text)).into()),
            }
        }
        Ok(at)
    }

    fn take_text(&mut self, index: usize, request: &Request, text: &[u8]) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        let is_event = match self.wire {
            Wire::Envelopes => text.starts_with(br#"{"type":"event""#),
            Wire::JsonRpc => !text.starts_with(br#"{"jsonrpc":"2.0","id""#),
            Wire::Canned => text.first() != Some(&b'x'),
        };
        if is_event {
            self.events_seen += 1;
            return Ok(());
        }
        if request.channel == "subscribe_tick" {
            connection.waiting.clear();
            return Ok(());
        }
        let id = match (&self.pattern, connection.waiting.front()) {
            (_, None) => return Err("a response without a request".into()),
            (_, Some(&(first, _))) if self.wire == Wire::Canned => {
                (text.len() == request.answer_bytes).then_some(first)
            }
            _ if request.varies() => {
                let (id, payload) = request.read(text)?;
                self.last = payload;
                Some(id)
            }
            (Some(pattern), _) => pattern.id(text),
            (None, _) => {
                let (pattern, id) = request.learn(text)?;
                self.pattern = Some(pattern);
                Some(id)
            }
        };
        let place = id.and_then(|id| connection.waiting.iter().position(|waiting| waiting.0 == id));
        let Some((_, due)) = place.and_then(|place| connection.waiting.remove(place)) else {
            return Err(format!("wrong response: {}", String::from_utf8_lossy(text)).into());
        };
        if let Some(latencies) = &mut self.latencies {
            latencies.push(due.elapsed().as_nanos() as u64);
        }
        self.answers += 1;
        Ok(())
    }
}
