//! Guards refuse requests before their handlers are called, at once or later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{HandlerError, Payload, RateLimit, RequestContext, Server, ServerError};

use crate::support::socket::{Client, calls, config, server};

async fn in_memory(server: &Server) -> Client<tokio::io::DuplexStream> {
    Client::through_pipe(server, 64 << 10).await
}

fn code(response: &Value) -> &str {
    response["error"]["code"].as_str().unwrap_or_default()
}

/// Counts its calls, and answers.
fn counting(server: &Server, channel: &str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let calls = count.clone();
    server.on_request(channel, move |payload: Payload, _: RequestContext| {
        calls.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(payload) }
    });
    count
}

#[tokio::test]
async fn guards_of_a_prefix_refuse_at_once_or_later_and_the_handler_is_not_called() {
    let server = server(config());
    let before = counting(&server, "admin:early");
    server.guard_prefix("admin:", |_: RequestContext, channel: Arc<str>| {
        Err(HandlerError::custom("FORBIDDEN", format!("{channel} is not for you")))
    });
    server.guard_prefix("slow:", |cx: RequestContext, _: Arc<str>| async move {
        tokio::task::yield_now().await;
        match cx.request_id() == "let me in" {
            true => Ok(()),
            false => Err(HandlerError::custom("FORBIDDEN", "no")),
        }
    });
    let after = counting(&server, "admin:late");
    let slow = counting(&server, "slow:one");
    let mut client = in_memory(&server).await;
    for channel in ["admin:early", "admin:late"] {
        let expected = json!({ "code": "FORBIDDEN", "message": format!("{channel} is not for you") });
        assert_eq!(client.ask(channel, Value::Null).await["error"], expected);
    }
    assert_eq!(code(&client.ask("slow:one", Value::Null).await), "FORBIDDEN");
    client.send("let me in", "slow:one", json!(1)).await;
    assert_eq!(client.response().await["payload"], 1);
    assert_eq!([before, after, slow].map(|count| count.load(Ordering::Relaxed)), [0, 0, 1]);
    // Neither guard is for these.
    assert_eq!(code(&client.ask("admin:none", Value::Null).await), "UNKNOWN_CHANNEL");
    client.assert_alive().await;
}

#[tokio::test]
async fn guards_are_asked_in_order_and_the_first_refusal_is_the_answer() {
    let server = server(config());
    let (asked, mut asks) = calls();
    let asked = Arc::new(asked);
    for (name, refuses) in [("first", "a"), ("second", "b"), ("third", "c")] {
        let asked = asked.clone();
        server.guard(move |_: RequestContext, channel: Arc<str>| {
            asked(name);
            if &*channel == refuses { Err(HandlerError::new(name)) } else { Ok(()) }
        });
    }
    for channel in ["a", "b", "c", "d"] {
        counting(&server, channel);
    }
    let mut client = in_memory(&server).await;
    for (channel, expected) in [("a", 1), ("b", 2), ("c", 3), ("d", 3)] {
        let response = client.ask(channel, Value::Null).await;
        for name in ["first", "second", "third"].iter().take(expected) {
            assert_eq!(asks.next().await, *name);
        }
        assert_eq!(asks.drain(), 0);
        assert_eq!(response.get("error").is_some(), channel != "d", "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_panics_or_hangs_fails_only_its_own_request() {
    let (failed, mut failures) = calls();
    let server = server(config().on_error(failed));
    server.guard(|_: RequestContext, channel: Arc<str>| {
        assert!(&*channel != "panics", "asked to panic");
        Ok(())
    });
    server.guard(|_: RequestContext, channel: Arc<str>| async move {
        match &*channel {
            "panics later" => {
                tokio::task::yield_now().await;
                panic!("asked to panic")
            }
            "hangs" => std::future::pending().await,
            _ => Ok(()),
        }
    });
    let mut counts = Vec::new();
    for channel in ["panics", "panics later", "hangs"] {
        counts.push(counting(&server, channel));
    }
    let mut client = in_memory(&server).await;
    for channel in ["panics", "panics later"] {
        let response = client.ask(channel, Value::Null).await;
        assert_eq!(response["error"], json!({ "code": "HANDLER_ERROR", "message": "Internal error" }));
        match failures.next().await {
            ServerError::HandlerPanicked { channel: reported } => assert_eq!(reported, channel),
            unexpected => panic!("{unexpected}"),
        }
    }
    // The deadline of the request is that of guard and handler together.
    assert_eq!(code(&client.ask("hangs", Value::Null).await), "TIMEOUT");
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
    client.assert_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_refuses_under_the_requests_own_id_until_its_window_ends() {
    let server = server(config());
    server.guard_prefix("chat:", RateLimit::per_connection(2, Duration::from_secs(1)));
    let count = counting(&server, "chat:send");
    counting(&server, "chat:read");
    let mut client = in_memory(&server).await;
    let mut other = in_memory(&server).await;
    assert_eq!(code(&client.ask("chat:send", Value::Null).await), "");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(code(&client.ask("chat:read", Value::Null).await), "");
    client.send("own id", "chat:send", Value::Null).await;
    let refused = client.response().await;
    assert_eq!((refused["id"].as_str(), refused["channel"].as_str()), (Some("own id"), Some("chat:send")));
    assert_eq!(refused["error"]["code"], "RATE_LIMITED");
    let wait = refused["error"]["details"]["retryAfterMs"].as_u64().unwrap();
    assert!((690..=700).contains(&wait), "{wait}");
    assert_eq!(code(&client.ask("echo", Value::Null).await), "");
    assert_eq!(code(&other.ask("chat:send", Value::Null).await), "");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(code(&client.ask("chat:send", Value::Null).await), "");
    assert_eq!(count.load(Ordering::Relaxed), 3);
}
