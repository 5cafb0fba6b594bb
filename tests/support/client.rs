//! A client for tests over sockets, on a WebSocket library that is not ours to test.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Waits for something that must come; so generous that only a hang misses it.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    events: VecDeque<Value>,
}

impl Client {
    /// Connects, and takes `server:connected`.
    pub async fn connect(port: u16) -> Client {
        let connect = tokio_tungstenite::connect_async(format!("ws://localhost:{port}/"));
        let (socket, _) = within("the upgrade", connect).await.unwrap();
        let mut client = Client { socket, last_id: 0, events: VecDeque::new() };
        client.event("server:connected").await;
        client
    }

    /// Sends a request without waiting for its answer, and says under which id.
    pub async fn send(&mut self, channel: &str, payload: Value) -> std::io::Result<u64> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        let request = json!({"type": "request", "id": id, "channel": channel, "payload": payload});
        self.socket.send(Message::text(request.to_string())).await.map_err(std::io::Error::other)?;
        Ok(self.last_id)
    }

    /// The next message; an error when the connection ends.
    pub async fn next(&mut self) -> std::io::Result<Value> {
        loop {
            let message = within("a message", self.socket.next()).await;
            // A close frame is answered by reading on.
            if let Message::Text(text) =
                message.ok_or(std::io::ErrorKind::UnexpectedEof)?.map_err(std::io::Error::other)?
            {
                return Ok(serde_json::from_str(&text).unwrap());
            }
        }
    }

    /// Asks, and waits for the response. Events that come before it are kept for [`event`](Client::event).
    pub async fn respond(&mut self, channel: &str, payload: Value) -> Value {
        let id = self.send(channel, payload).await.unwrap().to_string();
        loop {
            let message = self.next().await.unwrap();
            if message["type"] == "response" && message["id"] == id.as_str() {
                return message;
            }
            self.events.push_back(message);
        }
    }

    /// Asks for something that must succeed: the response's payload, null if there is none.
    pub async fn call(&mut self, channel: &str, payload: Value) -> Value {
        let response = self.respond(channel, payload).await;
        assert!(response.get("error").is_none(), "{channel}: {response}");
        response["payload"].clone()
    }

    /// Asks for something that must fail: the error.
    pub async fn refuse(&mut self, channel: &str, payload: Value) -> Value {
        let response = self.respond(channel, payload).await;
        assert!(response.get("error").is_some(), "{channel}: {response}");
        response["error"].clone()
    }

    /// The next event, which must be on this channel: its payload.
    pub async fn event(&mut self, channel: &str) -> Value {
        let event = match self.events.pop_front() {
            Some(event) => event,
            None => self.next().await.unwrap(),
        };
        assert_eq!((&event["type"], &event["channel"]), (&json!("event"), &json!(channel)), "{event}");
        event["payload"].clone()
    }

    /// Events that came before the last response and were not looked at.
    pub fn kept_events(&self) -> usize {
        self.events.len()
    }
}
