//! Rooms for users who log in. `cargo run --example rooms`, then connect with the token of ann or bob.

use std::time::Duration;

use serde_json::json;
use switchboard::{
    Attempt, Config, Connection, HandlerError, Identity, Payload, RateLimit, Refusal, RequestContext, Server,
};

fn user(client: &Connection) -> String {
    client.identity().map_or(String::new(), |identity| identity.id().to_owned())
}

async fn join(payload: Payload, cx: RequestContext) -> Result<Payload, HandlerError> {
    let room: String = payload.read(serde_json::from_str)?;
    let (group, me) = (cx.server().group(&room), cx.connection());
    me.join(&room)?;
    group.emit_except(&me, "room:joined", json!({ "room": room, "user": user(&me) }));
    Ok(json!({ "members": group.count() }).into())
}

async fn say(payload: Payload, cx: RequestContext) -> Result<(), HandlerError> {
    let (room, text) = payload.read(serde_json::from_str::<(String, String)>)?;
    if !cx.connection().groups().iter().any(|group| **group == *room) {
        return Err(HandlerError::custom("NOT_IN_ROOM", "join the room first"));
    }
    let message = json!({ "room": room, "user": user(&cx.connection()), "text": text });
    cx.server().group(&room).emit("room:message", message);
    Ok(())
}

/// A server with rooms.
pub fn server(config: Config) -> Server {
    let server = Server::new(config);
    server.authenticate(|attempt: Attempt| async move {
        match attempt.bearer() {
            Some("token-of-ann") => Ok(Identity::new("ann")),
            Some("token-of-bob") => Ok(Identity::new("bob")),
            _ => Err(Refusal::unauthorized("unknown token")),
        }
    });
    server.on_request("room:join", join);
    server.on_request("room:leave", |payload: Payload, cx: RequestContext| async move {
        Ok::<_, HandlerError>(json!(cx.connection().leave(&payload.read(serde_json::from_str::<String>)?)))
    });
    server.guard_prefix("room:say", RateLimit::per_identity(5, Duration::from_secs(1)));
    server.on_request("room:say", say);
    server.guard_prefix("admin:", |cx: RequestContext, _| match user(&cx.connection()).as_str() {
        "ann" => Ok(()),
        _ => Err(HandlerError::custom("FORBIDDEN", "only ann closes rooms")),
    });
    server.on_request("admin:close", |payload: Payload, cx: RequestContext| async move {
        let room: String = payload.read(serde_json::from_str)?;
        cx.server().group(&room).close(4000, "the room is closed");
        Ok::<_, HandlerError>(())
    });
    server.on_connection(|client| eprintln!("{} is connected", user(&client)));
    server.on_disconnection(|client, ending| eprintln!("{} has left: {ending}", user(&client)));
    server
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let server = server(Config::default());
    println!("listening on ws://localhost:{}", server.start().await?);
    tokio::signal::ctrl_c().await?;
    server.drain(Duration::from_secs(10)).await;
    Ok(())
}
