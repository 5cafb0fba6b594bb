//! A client that makes one request at a time, and keeps the events received meanwhile.

use std::collections::VecDeque;

use serde_json::Value;

use super::socket;

pub struct Client {
    socket: socket::Client,
    last_id: u64,
    events: VecDeque<Value>,
}

impl Client {
    /// Connects, and reads `server:connected`.
    pub async fn connect(port: u16) -> Client {
        Client { socket: socket::Client::connect(port).await, last_id: 0, events: VecDeque::new() }
    }

    /// Sends a request without waiting for the response, and returns its id.
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

    /// Sends a request and waits for the response. Events before it are kept for [`event`](Client::event).
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

    /// A request that must succeed. Returns the payload, null if there is none.
    pub async fn call(&mut self, channel: &str, payload: Value) -> Value {
        let response = self.respond(channel, payload).await;
        assert!(response.get("error").is_none(), "{channel}: {response}");
        response["payload"].clone()
    }

    /// A request that must fail. Returns the error.
    pub async fn refuse(&mut self, channel: &str, payload: Value) -> Value {
        let response = self.respond(channel, payload).await;
        assert!(response.get("error").is_some(), "{channel}: {response}");
        response["error"].clone()
    }

    /// A request that must fail because of one member of its payload. Returns the error.
    pub async fn refuse_member(&mut self, channel: &str, payload: Value, path: &str) -> Value {
        let sent: String = payload.to_string().chars().take(80).collect();
        let error = self.refuse(channel, payload).await;
        assert_eq!(error["code"], "HANDLER_ERROR", "{channel} {sent}: {error}");
        assert_eq!(error["details"]["path"], path, "{channel} {sent}: {error}");
        assert!(error["details"]["expected"].is_string() && error["details"]["got"].is_string(), "{error}");
        error
    }

    /// The payload of the next event, which must be on this channel.
    pub async fn event(&mut self, channel: &str) -> Value {
        match self.events.pop_front() {
            Some(event) => {
                assert_eq!(event["channel"], channel, "{event}");
                event["payload"].clone()
            }
            None => self.socket.event(channel).await,
        }
    }

    /// The channel and payload of the next event.
    pub async fn any_event(&mut self) -> (String, Value) {
        let event = match self.events.pop_front() {
            Some(event) => event,
            None => self.next().await.expect("an event"),
        };
        assert_eq!(event["type"], "event", "{event}");
        (event["channel"].as_str().expect("a channel").to_owned(), event["payload"].clone())
    }

    /// The number of events that are kept.
    pub fn kept_events(&self) -> usize {
        self.events.len()
    }
}

/// The values of one member in a list of objects.
pub fn pluck<'a>(list: &'a Value, member: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().map(|object| &object[member]).collect()
}
