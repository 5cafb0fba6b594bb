//! Switchboard on a path of an axum server, with the same login for its pages and for its WebSocket.
//! `cargo run --manifest-path tests/examples/axum/Cargo.toml`, then connect to `ws://localhost:3000/ws?token=token-of-ann`.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use switchboard::{Attempt, Config, HandlerError, Identity, Payload, Refusal, RequestContext, Server};

/// The login of the whole app.
fn user_of(token: Option<&str>) -> Option<&'static str> {
    match token? {
        "token-of-ann" => Some("ann"),
        "token-of-bob" => Some("bob"),
        _ => None,
    }
}

async fn websocket(
    State(server): State<Server>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    server.upgrade_async(&mut request, peer).await.map(Body::from)
}

async fn page(State(server): State<Server>, request: Request) -> Response {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    match user_of(header.and_then(|value| value.strip_prefix("Bearer "))) {
        Some(user) => {
            server.emit("page:seen", json!(user));
            format!("Hello, {user}! {} clients are connected.\n", server.client_count()).into_response()
        }
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

fn app() -> Router {
    let server = Server::new(Config::default());
    server.authenticate(|attempt: Attempt| async move {
        let user = user_of(attempt.bearer()).ok_or(Refusal::unauthorized("unknown token"))?;
        Ok(Identity::new(user))
    });
    server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
        let identity = cx.identity().ok_or(HandlerError::new("no identity"))?;
        Ok::<_, HandlerError>(json!(identity.id()))
    });
    Router::new().route("/ws", get(websocket)).route("/", get(page)).with_state(server)
}

async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
    // With the address of the other end, by which Switchboard's limits count.
    axum::serve(listener, app().into_make_service_with_connect_info::<SocketAddr>()).await
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?).await
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::{Error, Message};

    use super::*;

    #[tokio::test]
    async fn the_login_of_the_app_is_that_of_the_websocket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener));
        let refused = tokio_tungstenite::connect_async(format!("ws://{address}/ws?token=wrong")).await;
        assert!(matches!(&refused, Err(Error::Http(response)) if response.status() == 401), "{refused:?}");
        let url = format!("ws://{address}/ws?token=token-of-ann");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let request = r#"{"type":"request","id":"1","channel":"whoami","payload":null}"#;
        socket.send(Message::text(request)).await.unwrap();
        let answer = loop {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
            if text.contains("response") {
                break text;
            }
        };
        assert!(answer.contains(r#""payload":"ann""#), "{answer}");
    }
}
