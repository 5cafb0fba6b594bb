//! The rooms of `tests/examples/rooms.rs` on socketioxide and axum: a login for each user, rooms, permissions, a rate limit for one
//! event, a log and a clean stop. The clients speak Socket.IO.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, Extension, SocketRef, State, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::socket::DisconnectReason;

#[derive(Clone)]
struct User(&'static str);

#[derive(Deserialize)]
struct Login {
    token: String,
}

#[derive(Deserialize)]
struct Room {
    room: String,
    #[serde(default)]
    text: String,
}

/// The moments of each user's last messages.
type Said = Arc<Mutex<HashMap<&'static str, Vec<Instant>>>>;

async fn log_in(socket: SocketRef, TryData(login): TryData<Login>) -> Result<(), String> {
    let user = match login.map_err(|error| error.to_string())?.token.as_str() {
        "token-of-ann" => "ann",
        "token-of-bob" => "bob",
        _ => return Err("unknown token".to_owned()),
    };
    socket.extensions.insert(User(user));
    Ok(())
}

async fn join(
    socket: SocketRef,
    Data(Room { room, .. }): Data<Room>,
    Extension(User(user)): Extension<User>,
    ack: AckSender,
) {
    socket.join(room.clone());
    let _ = socket.to(room.clone()).emit("room:joined", &json!({ "room": room, "user": user })).await;
    let members = socket.within(room).sockets().len();
    let _ = ack.send(&json!({ "members": members }));
}

async fn say(
    socket: SocketRef,
    Data(Room { room, text }): Data<Room>,
    Extension(User(user)): Extension<User>,
    State(said): State<Said>,
    ack: AckSender,
) {
    let refusal = if !socket.rooms().iter().any(|joined| *joined == room) {
        Some("NOT_IN_ROOM")
    } else if !may_speak(&said, user) {
        Some("RATE_LIMITED")
    } else {
        None
    };
    if let Some(code) = refusal {
        let _ = ack.send(&json!({ "error": code }));
        return;
    }
    let message = json!({ "room": room, "user": user, "text": text });
    let _ = socket.within(room).emit("room:message", &message).await;
    let _ = ack.send(&Value::Null);
}

/// At most 5 messages of a user in a second.
fn may_speak(said: &Said, user: &'static str) -> bool {
    let now = Instant::now();
    let mut said = said.lock().unwrap();
    let said = said.entry(user).or_default();
    said.retain(|at| now - *at < Duration::from_secs(1));
    said.push(now);
    said.len() <= 5
}

async fn close(
    io: SocketIo,
    Data(Room { room, .. }): Data<Room>,
    Extension(User(user)): Extension<User>,
    ack: AckSender,
) {
    if user != "ann" {
        let _ = ack.send(&json!({ "error": "FORBIDDEN" }));
        return;
    }
    let _ = io.within(room).disconnect().await;
    let _ = ack.send(&Value::Null);
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (layer, io) = SocketIo::builder().with_state(Said::default()).build_layer();
    let connected = |socket: SocketRef, Extension(User(user)): Extension<User>| async move {
        eprintln!("{user} is connected");
        socket.on("room:join", join);
        socket.on(
            "room:leave",
            async |socket: SocketRef, Data(Room { room, .. }): Data<Room>, ack: AckSender| {
                socket.leave(room);
                let _ = ack.send(&Value::Null);
            },
        );
        socket.on("room:say", say);
        socket.on("admin:close", close);
        socket.on_disconnect(async |reason: DisconnectReason, Extension(User(user)): Extension<User>| {
            eprintln!("{user} has left: {reason}");
        });
    };
    io.ns("/", connected.with(log_in));
    let app = axum::Router::new().layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
    let stopped = async move {
        let _ = tokio::signal::ctrl_c().await;
        io.close().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await
}
