//! A WebSocket connection as frames, for the programs that are clients of the command. In: an address. Out: frames as they came.

use std::net::Ipv4Addr;

use serde_json::Value;
use switchboard::protocol::frame::{self, Header, OpCode, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub type Failure = Box<dyn std::error::Error>;

pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The address of clients that behave well.
pub const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Connects from one of the addresses of this machine: all of 127/8 are.
pub async fn dial(port: u16, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect((LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection. What came and was not taken waits in a buffer.
pub struct Socket {
    pub stream: TcpStream,
    received: Vec<u8>,
    /// The bytes of `received` that were taken.
    taken: usize,
}

impl Socket {
    /// Asks for an upgrade. Returns the status of the answer, too.
    pub async fn upgrade(stream: TcpStream, token: Option<&str>) -> Result<(u16, Socket), Failure> {
        let mut socket = Socket { stream, received: Vec::new(), taken: 0 };
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        socket.stream.write_all(format!("{UPGRADE}{token}\r\n").as_bytes()).await?;
        let end = loop {
            if let Some(at) = socket.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            socket.read().await?;
        };
        let status =
            socket.received.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        socket.taken = end;
        Ok((status.ok_or("an answer without a status")?, socket))
    }

    /// Connects, and receives `server:connected`.
    pub async fn connect(port: u16, from: Ipv4Addr, token: Option<&str>) -> Result<Socket, Failure> {
        Socket::greeted(dial(port, from).await?, token).await
    }

    /// The same on a stream that is connected.
    pub async fn greeted(stream: TcpStream, token: Option<&str>) -> Result<Socket, Failure> {
        let (status, mut socket) = Socket::upgrade(stream, token).await?;
        if status != 101 {
            return Err(format!("status {status}").into());
        }
        let hello: Value = match socket.next().await? {
            (frame::TEXT, payload) => serde_json::from_slice(&payload)?,
            (opcode, _) => return Err(format!("{opcode:?} before server:connected").into()),
        };
        if hello["channel"] != "server:connected" || !hello["payload"]["clientId"].is_string() {
            return Err(format!("first message: {hello}").into());
        }
        Ok(socket)
    }

    /// Reads once.
    pub async fn read(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Returns the next complete frame of what was read.
    pub fn frame(&mut self) -> Result<Option<(OpCode, Vec<u8>)>, Failure> {
        let input = &self.received[self.taken..];
        let header = Header::decode(Role::Client, input).map_err(|error| error.as_str())?;
        let Some(header) = header else { return Ok(None) };
        let end = header.header_bytes + usize::try_from(header.length)?;
        if input.len() < end {
            return Ok(None);
        }
        if !header.fin {
            return Err("the server sent a fragment".into());
        }
        let payload = input[header.header_bytes..end].to_vec();
        self.taken += end;
        if self.taken == self.received.len() {
            (self.taken, _) = (0, self.received.clear());
            // A thousand clients must not each keep the buffer of a large response.
            self.received.shrink_to(16 << 10);
        } else if self.taken > self.received.len() / 2 {
            self.received.drain(..std::mem::take(&mut self.taken));
        }
        Ok(Some((header.opcode, payload)))
    }

    /// Waits for the next frame. Pings are answered.
    pub async fn next(&mut self) -> Result<(OpCode, Vec<u8>), Failure> {
        loop {
            match self.frame()? {
                Some((frame::PING, payload)) => self.pong(&payload).await?,
                Some(frame) => return Ok(frame),
                None => self.read().await?,
            }
        }
    }

    /// Waits for the next text. A close frame is an error with its code and reason.
    pub async fn text(&mut self) -> Result<Vec<u8>, Failure> {
        match self.next().await? {
            (frame::TEXT, text) => Ok(text),
            (frame::CLOSE, payload) => Err(closed(&payload).into()),
            (other, _) => Err(format!("unexpected frame {other:?}").into()),
        }
    }

    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let mut pong = Vec::new();
        frame::write(&mut pong, frame::PONG, Some(MASK), [payload]);
        self.send(&pong).await
    }

    /// Sends bytes. The server can stop reading until we read, so both happen at the same time.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let (mut reader, mut writer) = self.stream.split();
        let mut write = std::pin::pin!(writer.write_all(bytes));
        loop {
            tokio::select! {
                written = &mut write => return Ok(written?),
                read = reader.read_buf(&mut self.received) => if read? == 0 {
                    return Err("the server closed the connection".into());
                },
            }
        }
    }

    /// Makes one request after another, on a connection that nothing else uses.
    pub async fn call(&mut self, channel: &str, payload: &Value) -> Result<Value, Failure> {
        self.send(&request("call", channel, payload)).await?;
        loop {
            let text = self.text().await?;
            if Answer::read(&text).is_some_and(|answer| answer.id == "call") {
                let mut message: Value = serde_json::from_slice(&text)?;
                return match message.get("error") {
                    Some(error) => Err(format!("{channel}: {error}").into()),
                    None => Ok(message["payload"].take()),
                };
            }
        }
    }
}

/// The code and the reason of a close frame, in words.
pub fn closed(payload: &[u8]) -> String {
    let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
    format!("closed: {code} {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default()))
}

/// A request as a frame.
pub fn request(id: &str, channel: &str, payload: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let payload = payload.to_string();
    let text =
        [r#"{"type":"request","id":""#, id, r#"","channel":""#, channel, r#"","payload":"#, &payload, "}"];
    frame::write_text(&mut out, Some(MASK), &text);
    out
}

/// What a client that measures needs of a response. Parsing every response as JSON would cost more than making it.
pub struct Answer<'a> {
    pub id: &'a str,
    /// The code of the error.
    pub error: Option<&'a str>,
}

impl<'a> Answer<'a> {
    /// Reads a response by the order of its members on output: type, id, channel, payload or error. `None` for an event.
    pub fn read(text: &'a [u8]) -> Option<Answer<'a>> {
        let head = text.get(..text.len().min(1024))?.strip_prefix(br#"{"type":"response","id":""#)?;
        // The end may be within a character.
        let head = head.utf8_chunks().next()?.valid();
        let (id, rest) = head.split_once('"')?;
        let error = rest.split_once(r#"","error":{"code":""#).and_then(|(_, code)| code.split_once('"'));
        let is_first = |channel: &str| !channel.contains(r#"","payload":"#);
        let error = error.filter(|_| rest.split(r#"","error":"#).next().is_some_and(is_first));
        Some(Answer { id, error: error.map(|(code, _)| code) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_response_is_read_and_not_one_in_its_payload() {
        let read = |text: &'static str| Answer::read(text.as_bytes()).map(|answer| (answer.id, answer.error));
        let error = r#"{"type":"response","id":"7","channel":"a","error":{"code":"TIMEOUT","message":""},"timestamp":1}"#;
        assert_eq!(read(error), Some(("7", Some("TIMEOUT"))));
        let payload = r#"{"type":"response","id":"8","channel":"a","payload":{"x":"","error":{"code":"TIMEOUT"}},"timestamp":1}"#;
        assert_eq!(read(payload), Some(("8", None)));
        assert_eq!(read(r#"{"type":"event","channel":"a"}"#), None);
    }
}
