//! The rooms of `tests/examples/rooms.rs` on axum, with the same wire format: a login for each user, rooms, permissions, a rate limit
//! for one channel, a log and a clean stop.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

#[derive(Deserialize)]
struct Request {
    id: String,
    channel: String,
    #[serde(default)]
    payload: Value,
}

#[derive(Deserialize)]
struct Room {
    room: String,
    #[serde(default)]
    text: String,
}

struct Client {
    user: &'static str,
    rooms: HashSet<String>,
    events: mpsc::Sender<Message>,
}

#[derive(Default)]
struct Rooms {
    clients: HashMap<Uuid, Client>,
    /// The moments of each user's last messages.
    said: HashMap<&'static str, Vec<Instant>>,
}

#[derive(Clone)]
struct App {
    rooms: Arc<Mutex<Rooms>>,
    stopped: watch::Receiver<bool>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Rooms {
    fn emit(&mut self, room: &str, except: Option<Uuid>, channel: &str, payload: Value) {
        let event =
            json!({ "type": "event", "channel": channel, "payload": payload, "timestamp": unix_ms() });
        let text = event.to_string();
        for (id, client) in &self.clients {
            if client.rooms.contains(room) && Some(*id) != except {
                // A client whose queue is full loses the event.
                let _ = client.events.try_send(Message::text(text.clone()));
            }
        }
    }

    /// At most 5 messages of a user in a second.
    fn may_speak(&mut self, user: &'static str) -> bool {
        let now = Instant::now();
        let said = self.said.entry(user).or_default();
        said.retain(|at| now - *at < Duration::from_secs(1));
        said.push(now);
        said.len() <= 5
    }

    fn handle(&mut self, id: Uuid, channel: &str, payload: Value) -> Result<Value, (&'static str, String)> {
        let user = self.clients[&id].user;
        let Room { room, text } =
            serde_json::from_value(payload).map_err(|error| ("HANDLER_ERROR", error.to_string()))?;
        match channel {
            "room:join" => {
                self.clients.get_mut(&id).unwrap().rooms.insert(room.clone());
                self.emit(&room, Some(id), "room:joined", json!({ "room": room, "user": user }));
                let members = self.clients.values().filter(|client| client.rooms.contains(&room)).count();
                Ok(json!({ "members": members }))
            }
            "room:leave" => {
                self.clients.get_mut(&id).unwrap().rooms.remove(&room);
                Ok(Value::Null)
            }
            "room:say" if !self.clients[&id].rooms.contains(&room) => {
                Err(("NOT_IN_ROOM", "Join the room first".to_owned()))
            }
            "room:say" if !self.may_speak(user) => Err(("RATE_LIMITED", "Too many requests".to_owned())),
            "room:say" => {
                self.emit(&room, None, "room:message", json!({ "room": room, "user": user, "text": text }));
                Ok(Value::Null)
            }
            "admin:close" if user != "ann" => Err(("FORBIDDEN", "Only ann closes rooms".to_owned())),
            "admin:close" => {
                for client in self.clients.values().filter(|client| client.rooms.contains(&room)) {
                    let close = CloseFrame { code: 4000, reason: "the room is closed".into() };
                    let _ = client.events.try_send(Message::Close(Some(close)));
                }
                Ok(Value::Null)
            }
            _ => Err(("UNKNOWN_CHANNEL", format!("No handler for: {channel}"))),
        }
    }
}

fn respond(rooms: &Mutex<Rooms>, id: Uuid, text: &str) -> Message {
    let request: Request = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(error) => {
            let error = json!({ "code": "INVALID_MESSAGE", "message": error.to_string() });
            return Message::text(
                json!({ "type": "response", "id": "invalid_message", "channel": "system", "error": error })
                    .to_string(),
            );
        }
    };
    let mut response =
        json!({ "type": "response", "id": request.id, "channel": request.channel, "timestamp": unix_ms() });
    match rooms.lock().unwrap().handle(id, &request.channel, request.payload) {
        Ok(payload) => response["payload"] = payload,
        Err((code, message)) => response["error"] = json!({ "code": code, "message": message }),
    }
    Message::text(response.to_string())
}

async fn upgrade(State(app): State<App>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let user = match token {
        Some("token-of-ann") => "ann",
        Some("token-of-bob") => "bob",
        _ => return StatusCode::UNAUTHORIZED.into_response(),
    };
    upgrade.on_upgrade(move |socket| serve(app, user, socket))
}

async fn serve(mut app: App, user: &'static str, socket: WebSocket) {
    let id = Uuid::new_v4();
    let (mut sink, mut stream) = socket.split();
    let (events, mut queue) = mpsc::channel(256);
    app.rooms.lock().unwrap().clients.insert(id, Client { user, rooms: HashSet::new(), events });
    eprintln!("{user} is connected");
    loop {
        let message = tokio::select! {
            event = queue.recv() => event,
            message = stream.next() => match message {
                Some(Ok(Message::Text(text))) => Some(respond(&app.rooms, id, &text)),
                Some(Ok(Message::Close(_)) | Err(_)) | None => None,
                Some(Ok(_)) => continue,
            },
            _ = app.stopped.changed() => Some(Message::Close(None)),
        };
        let Some(message) = message else { break };
        let is_last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || is_last {
            break;
        }
    }
    app.rooms.lock().unwrap().clients.remove(&id);
    eprintln!("{user} has left");
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let app = App { rooms: Arc::default(), stopped };
    let router = Router::new().route("/", get(upgrade)).with_state(app);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
    let signal = async move {
        let _ = tokio::signal::ctrl_c().await;
        let _ = stop.send(true);
    };
    axum::serve(listener, router).with_graceful_shutdown(signal).await
}
