//! Handlers and guards tested without a socket: `cargo test --example handler_tests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use switchboard::{Config, HandlerError, Payload, RequestContext, Server};

#[derive(Default)]
struct App {
    orders: AtomicU64,
}

async fn order(app: Arc<App>, payload: Payload, cx: RequestContext) -> Result<Payload, HandlerError> {
    let pieces = payload.read(serde_json::from_str::<u64>)?;
    if pieces == 0 {
        return Err(HandlerError::custom("NOTHING_ORDERED", "order at least one piece"));
    }
    let number = app.orders.fetch_add(1, Ordering::Relaxed) + 1;
    cx.emit("order:accepted", json!({ "number": number }));
    Ok(json!({ "number": number, "pieces": pieces }).into())
}

fn server() -> Server {
    let server = Server::new(Config::default());
    server.on_request_with(&Arc::new(App::default()), "order", order);
    server.guard(|cx: RequestContext, _| match cx.identity() {
        Some(_) => Ok(()),
        None => Err(HandlerError::custom("NOT_SIGNED_IN", "sign in first")),
    });
    server
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let server = server();
    println!("listening on ws://localhost:{}", server.start().await?);
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use switchboard::{ErrorCode, Identity};

    use super::*;

    #[tokio::test]
    async fn an_order_is_numbered_and_reported() {
        let server = server();
        let called = server.call("order", json!(3)).identity(Identity::new("ann")).outcome().await;
        assert_eq!(called.result.unwrap().parse().unwrap(), json!({"number": 1, "pieces": 3}));
        let (channel, payload) = &called.events[0];
        assert_eq!((channel.as_str(), payload.as_str()), ("order:accepted", Some(r#"{"number":1}"#)));
        let second = server.call("order", json!(1)).identity(Identity::new("bob")).await.unwrap();
        assert_eq!(second.parse().unwrap()["number"], 2);
    }

    #[tokio::test]
    async fn orders_that_make_no_sense_are_refused() {
        let server = server();
        let order = |payload| server.call("order", payload).identity(Identity::new("ann"));
        assert_eq!(order(json!(0)).await.unwrap_err().code, "NOTHING_ORDERED");
        assert_eq!(order(json!("three")).await.unwrap_err().code, ErrorCode::HandlerError);
        assert_eq!(server.call("order", json!(1)).await.unwrap_err().code, "NOT_SIGNED_IN");
    }
}
