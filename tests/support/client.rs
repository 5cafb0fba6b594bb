//! A client that asks one thing at a time, and keeps the events that come meanwhile.

use std::collections::VecDeque;

use serde_json::Value;

use super::socket;

pub struct Client {
    socket: socket::Client,
    last_id: u64,
    events: VecDeque<Value>,
}

impl Client {
    /// Connects, and takes `server:connected`.
    pub async fn connect(port: u16) -> Client {
        Client { socket: socket::Client::connect(port).await, last_id: 0, events: VecDeque::new() }
    }

    /// Sends a request without waiting for its answer, and says under which id.
    pub async fn send(&mut self, channel: &str, payload: Value) -> String {
        self.last_id += 1;
        let id = self.last_id.to_string();
        self.socket.send(&id, channel, payload).await;
        id
    }

    /// The next message; the code of the close frame when the connection ends.
    pub async fn next(&mut self) -> Result<Value, u16> {
        self.socket.next().await
    }

    /// Asks, and waits for the response. Events that come before it are kept for [`event`](Client::event).
    pub async fn respond(&mut self, channel: &str, payload: Value) -> Value {
        let id = self.send(channel, payload).await;
        loop {
            let message = self.next().await.expect("a response");
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
        match self.events.pop_front() {
            Some(event) => {
                assert_eq!(event["channel"], channel, "{event}");
                event["payload"].clone()
            }
            None => self.socket.event(channel).await,
        }
    }

    /// The next event, whatever its channel: both.
    pub async fn any_event(&mut self) -> (String, Value) {
        let event = match self.events.pop_front() {
            Some(event) => event,
            None => self.next().await.expect("an event"),
        };
        assert_eq!(event["type"], "event", "{event}");
        (event["channel"].as_str().expect("a channel").to_owned(), event["payload"].clone())
    }

    /// Events that came before the last response and were not looked at.
    pub fn kept_events(&self) -> usize {
        self.events.len()
    }
}
