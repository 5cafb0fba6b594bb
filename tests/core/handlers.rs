//! What a handler can do, and what follows: it answers at once or later, fails, panics, takes too long, or is
//! dropped with its client. Other requests are not affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{ErrorCode, HandlerError, Payload, RequestContext, Server, ServerError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::support::socket::{self, Client, calls, config, server, start, waiting, within};

/// A server, and a client over an in-memory pipe: under a paused clock, time passes only when both wait.
async fn in_memory() -> (Server, Client<tokio::io::DuplexStream>) {
    let server = server(config());
    let client = Client::through_pipe(&server, 64 << 10).await;
    (server, client)
}

fn code(response: &Value) -> &str {
    response["error"]["code"].as_str().unwrap_or_default()
}

// Answers.

#[tokio::test]
async fn a_channel_without_a_handler_is_unknown_and_the_connection_stays() {
    let (_server, mut client) = in_memory().await;
    for (channel, shown) in [("unknown", "unknown"), ("Echo", "Echo"), ("echo ", "echo "), ("é\"", "é\"")] {
        let response = client.ask(channel, Value::Null).await;
        let expected = json!({ "code": "UNKNOWN_CHANNEL", "message": format!("No handler for: {shown}") });
        assert_eq!(response["error"], expected);
    }
    client.send_text(r#"{"type":"request","id":"1","channel":"\ud800"}"#).await;
    // A Rust string cannot hold such a channel, so the text is compared.
    let message = within("a response", futures_util::StreamExt::next(&mut client.socket)).await;
    let text = message.unwrap().unwrap().into_text().unwrap();
    assert!(
        text.starts_with(
            r#"{"type":"response","id":"1","channel":"\ud800","error":{"code":"UNKNOWN_CHANNEL""#
        )
    );
    client.assert_alive().await;
}

#[tokio::test]
async fn a_handler_answers_at_once_or_later_with_any_serialisable_value() {
    let (server, mut client) = in_memory().await;
    server.on_request("value", |payload: Payload, _: RequestContext| async move {
        Ok::<_, HandlerError>(json!({ "limit": payload.parse()?["limit"] }))
    });
    server.on_request("nothing", |_: Payload, _: RequestContext| async { Ok::<_, HandlerError>(()) });
    server.on_request("null", |_: Payload, _: RequestContext| async { Ok::<_, HandlerError>(Value::Null) });
    server.on_request("later", |payload: Payload, _: RequestContext| async move {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        Ok::<_, HandlerError>(payload)
    });
    server.on_request("elsewhere", |payload: Payload, _: RequestContext| async move {
        let length = tokio::task::spawn_blocking(move || payload.as_str().map_or(0, str::len)).await?;
        Ok::<_, HandlerError>(json!(length))
    });
    assert_eq!(client.ask("value", json!({ "limit": 5 })).await["payload"], json!({ "limit": 5 }));
    assert_eq!(client.ask("nothing", Value::Null).await.get("payload"), None);
    assert_eq!(client.ask("null", Value::Null).await.get("payload"), Some(&Value::Null));
    assert_eq!(client.ask("later", json!([1, 2])).await["payload"], json!([1, 2]));
    assert_eq!(client.ask("elsewhere", json!("four")).await["payload"], json!(6));
}

#[tokio::test]
async fn a_handlers_error_is_the_response() {
    let (server, mut client) = in_memory().await;
    server.on_request("plain", |_: Payload, _: RequestContext| async {
        Err::<(), _>(HandlerError::new("no such chat").details(json!({ "id": 7 })))
    });
    server.on_request("coded", |_: Payload, _: RequestContext| async {
        tokio::task::yield_now().await;
        Err::<(), _>(HandlerError::with_code(ErrorCode::Unauthorized, "not yours"))
    });
    server.on_request("std", |_: Payload, _: RequestContext| async {
        let number: u8 = "300".parse()?;
        Ok::<_, HandlerError>(json!(number))
    });
    let expected = json!({ "code": "HANDLER_ERROR", "message": "no such chat", "details": { "id": 7 } });
    assert_eq!(client.ask("plain", Value::Null).await["error"], expected);
    let expected = json!({ "code": "UNAUTHORIZED", "message": "not yours" });
    assert_eq!(client.ask("coded", Value::Null).await["error"], expected);
    assert_eq!(code(&client.ask("std", Value::Null).await), "HANDLER_ERROR");
    assert_eq!(server.stats().errors_with(ErrorCode::HandlerError), 2);
    assert_eq!(server.stats().errors_with(ErrorCode::Unauthorized), 1);
    client.assert_alive().await;
}

#[tokio::test]
async fn a_code_of_the_app_reaches_the_client_and_has_one_counter_with_all_others() {
    let (server, mut client) = in_memory().await;
    server.on_request("custom", |payload: Payload, _: RequestContext| async move {
        let code = payload.read(serde_json::from_str::<String>)?;
        Err::<(), _>(HandlerError::custom(&code, "no such room").details(json!({ "room": 7 })))
    });
    for sent in ["NOT_FOUND", "E_2"] {
        let expected = json!({ "code": sent, "message": "no such room", "details": { "room": 7 } });
        assert_eq!(client.ask("custom", json!(sent)).await["error"], expected);
    }
    // Mistakes of the app, here made of what a client sent.
    for sent in ["", "no", "A B", "\u{1f600}", &"A".repeat(65), "\",\"x\":\""] {
        let expected =
            json!({ "code": "HANDLER_ERROR", "message": "no such room", "details": { "room": 7 } });
        assert_eq!(client.ask("custom", json!(sent)).await["error"], expected, "{sent}");
    }
    let stats = server.stats();
    assert_eq!(stats.errors_with(ErrorCode::custom("ANY").unwrap()), 2);
    assert_eq!(stats.errors_with(ErrorCode::HandlerError), 6);
    client.assert_alive().await;
}

// Typed payloads.

#[derive(serde::Deserialize, serde::Serialize)]
struct Order<'a> {
    customer: &'a str,
    items: Vec<Item>,
}

#[derive(serde::Deserialize, serde::Serialize)]
struct Item {
    name: String,
    count: u8,
    kind: Option<Kind>,
}

#[derive(serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Book,
}

#[tokio::test]
async fn a_payload_is_read_and_written_as_a_type_and_an_error_names_member_and_byte() {
    let (server, mut client) = in_memory().await;
    server.on_request("order", |payload: Payload, _: RequestContext| async move {
        let order = payload.read(serde_json::from_str::<Order<'_>>)?;
        Payload::write(serde_json::to_string(&order))
    });
    let order = json!({ "customer": "Ada", "items": [{ "name": "x", "count": 2, "kind": "book" }] });
    assert_eq!(client.ask("order", order.clone()).await["payload"], order);
    // The text, the message, the path, and the part of the text that ends with the byte.
    for (sent, message, path, part) in [
        (
            r#"{"customer":5,"items":[]}"#,
            "customer: invalid type: integer, expected a borrowed string",
            "customer",
            "5",
        ),
        (r#"{"customer":"A"}"#, "payload: missing field `items`", "payload", r#"{"customer":"A"}"#),
        (
            "{\n \"customer\": \"A\",\n \"items\": [\n  {\"name\": \"x\", \"count\": 300}]}",
            "items[0].count: invalid value: integer, expected u8",
            "items[0].count",
            "300",
        ),
        (
            r#"{"customer":"A","items":[{"name":"x","count":1},{"name":"y","count":1,"kind":"secret"}]}"#,
            "items[1].kind: unknown variant, expected `book`",
            "items[1].kind",
            r#""secret""#,
        ),
        ("null", "payload: invalid type: null, expected struct Order", "payload", "null"),
        (
            r#"{"customer":"A","items":[{"name":"x"}]}"#,
            "items[0]: missing field `count`",
            "items[0]",
            r#"{"name":"x"}"#,
        ),
    ] {
        client
            .send_text(&format!(r#"{{"type":"request","id":"1","channel":"order","payload":{sent}}}"#))
            .await;
        let error = client.response().await["error"].clone();
        let byte = sent.rfind(part).unwrap() + part.len() - 1;
        assert_eq!(error["message"], format!("{message} at byte {byte}"), "{sent}");
        assert_eq!(error["details"], json!({ "path": path, "byte": byte }), "{sent}");
        assert_eq!(error["code"], "HANDLER_ERROR");
    }
    client.send_text(r#"{"type":"request","id":"1","channel":"order"}"#).await;
    assert_eq!(client.response().await["error"]["details"]["path"], "payload");
}

#[test]
fn what_is_not_json_is_not_a_payload() {
    let error = Payload::write(Ok("{\"a\":}".to_owned())).unwrap_err();
    assert_eq!(error.to_string(), "HANDLER_ERROR: response cannot be written: expected a value at byte 5");
    let numbered = std::collections::HashMap::from([((1, 2), 3)]);
    let error = Payload::write(serde_json::to_string(&numbered)).unwrap_err();
    assert_eq!(error.to_string(), "HANDLER_ERROR: response cannot be written: key must be a string");
    // A check after reading knows no place.
    let payload = Payload::from_json("[1]").unwrap();
    let error = payload.read(|text| serde_json::from_value::<u8>(serde_json::from_str(text)?)).unwrap_err();
    assert_eq!(error.to_string(), "HANDLER_ERROR: payload: invalid type: sequence, expected u8");
    assert!(Payload::none().read(serde_json::from_str::<Option<u8>>).unwrap().is_none());
}

#[tokio::test]
async fn concurrent_requests_are_answered_as_each_is_ready() {
    const MANY: usize = 200;
    let (server, port) = start(config()).await;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    server.on_request("wait", move |payload: Payload, _: RequestContext| {
        let (answer, answered) = oneshot::channel::<Value>();
        sender.send((payload, answer)).expect("the test is there");
        async move { Ok::<_, HandlerError>(answered.await?) }
    });
    let mut client = Client::connect(port).await;
    let mut open = Vec::new();
    for index in 0..MANY {
        client.send(&index.to_string(), "wait", json!(index)).await;
        let (payload, answer) = within("the handler", receiver.recv()).await.unwrap();
        assert_eq!(payload.parse().unwrap(), json!(index));
        open.push((index, answer));
    }
    // 3 has no common factor with the number of requests: each is answered once, and out of order.
    for turn in 0..MANY {
        let index = (turn * 3 + 1) % MANY;
        let at = open.iter().position(|(open, _)| *open == index).unwrap();
        let (_, answer) = open.swap_remove(at);
        answer.send(json!(index * 2)).unwrap();
        let response = client.response().await;
        assert_eq!(response["id"], index.to_string());
        assert_eq!(response["payload"], json!(index * 2));
    }
    client.assert_alive().await;
}

#[tokio::test]
async fn a_handler_knows_whose_request_it_answers() {
    let (server, mut client) = in_memory().await;
    server.on_request("who", |_: Payload, cx: RequestContext| async move {
        Ok::<_, HandlerError>(json!([cx.client_id.to_string(), cx.request_id(), cx.server().client_count()]))
    });
    client.send_text(r#"{"type":"request","id":"\u00e9","channel":"who"}"#).await;
    assert_eq!(client.response().await["payload"], json!([client.id, "é", 1]));
    client.send_text(r#"{"type":"request","id":"plain","channel":"who"}"#).await;
    assert_eq!(client.response().await["payload"], json!([client.id, "plain", 1]));
}

struct App {
    greeting: &'static str,
    greeted: AtomicUsize,
}

async fn greet(app: Arc<App>, payload: Payload, cx: RequestContext) -> Result<Payload, HandlerError> {
    let name = payload.read(serde_json::from_str::<&str>)?;
    let before = app.greeted.fetch_add(1, Ordering::Relaxed);
    Payload::write(serde_json::to_string(&format!("{} {name} {} {before}", app.greeting, cx.request_id())))
}

#[tokio::test]
async fn handlers_share_the_state_of_their_app_which_goes_with_them() {
    let (server, mut client) = in_memory().await;
    let app = Arc::new(App { greeting: "Hello", greeted: AtomicUsize::new(0) });
    server.on_request_with(&app, "greet", greet);
    server.on_request_with(&app, "count", |app: Arc<App>, _: Payload, _: RequestContext| async move {
        Ok::<_, HandlerError>(json!(app.greeted.load(Ordering::Relaxed)))
    });
    client.send("a", "greet", json!("Ada")).await;
    assert_eq!(client.response().await["payload"], "Hello Ada a 0");
    client.send("b", "greet", json!("Bob")).await;
    assert_eq!(client.response().await["payload"], "Hello Bob b 1");
    assert_eq!(client.ask("count", Value::Null).await["payload"], 2);
    assert_eq!(Arc::strong_count(&app), 3);
    assert!(server.off_request("greet") && server.off_request("count"));
    assert_eq!(Arc::strong_count(&app), 1);
}

// Emitting.

#[tokio::test]
async fn events_emitted_by_a_handler_arrive_before_its_response() {
    let (server, port) = start(config()).await;
    for (channel, pauses) in [("inline", 0), ("waiting", 3)] {
        server.on_request(channel, move |_: Payload, cx: RequestContext| async move {
            for step in 0..3 {
                cx.emit("step", json!(step));
                for _ in 0..pauses {
                    tokio::task::yield_now().await;
                }
            }
            cx.server().emit("all", json!("done"));
            Ok::<_, HandlerError>(json!("result"))
        });
    }
    let mut client = Client::connect(port).await;
    let mut other = Client::connect(port).await;
    for channel in ["inline", "waiting"] {
        for _ in 0..20 {
            client.send("1", channel, Value::Null).await;
            for step in 0..3 {
                assert_eq!(client.event("step").await, json!(step));
            }
            assert_eq!(client.event("all").await, "done");
            assert_eq!(client.response().await["payload"], "result");
            assert_eq!(other.event("all").await, "done");
        }
    }
}

#[tokio::test]
async fn a_response_follows_the_events_of_earlier_requests() {
    let (server, mut client) = in_memory().await;
    server.on_request("emit", |_: Payload, cx: RequestContext| async move {
        cx.emit("event", json!(cx.request_id()));
        Ok::<_, HandlerError>(())
    });
    for id in ["1", "2", "3"] {
        client.send(id, "emit", Value::Null).await;
        client.send(id, "echo", Value::Null).await;
    }
    for id in ["1", "2", "3"] {
        assert_eq!(client.event("event").await, id);
        assert_eq!(client.response().await["channel"], "emit");
        assert_eq!(client.response().await["channel"], "echo");
    }
}

// Panics.

#[tokio::test]
async fn a_panic_fails_only_its_own_request() {
    let (failed, mut failures) = calls();
    let (server, port) = start(config().on_error(failed)).await;
    type Answer = std::future::Ready<Result<Payload, HandlerError>>;
    server.on_request("in the closure", |_: Payload, _: RequestContext| -> Answer { panic!("closure") });
    server.on_request("at once", |_: Payload, _: RequestContext| async {
        if true {
            panic!("at once");
        }
        Ok::<_, HandlerError>(())
    });
    server.on_request("after a pause", |_: Payload, _: RequestContext| async {
        tokio::task::yield_now().await;
        if true {
            std::panic::panic_any(7_u64);
        }
        Ok::<_, HandlerError>(())
    });
    let (gate, mut began) = waiting(&server, "wait");
    let mut client = Client::connect(port).await;
    let mut other = Client::connect(port).await;
    client.send("waits", "wait", Value::Null).await;
    assert_eq!(began.next().await, "waits");
    for channel in ["in the closure", "at once", "after a pause"] {
        let response = client.ask(channel, Value::Null).await;
        assert_eq!(response["error"], json!({ "code": "HANDLER_ERROR", "message": "Internal error" }));
        match failures.next().await {
            ServerError::HandlerPanicked { channel: reported } => assert_eq!(reported, channel),
            unexpected => panic!("{unexpected}"),
        }
        client.assert_alive().await;
        other.assert_alive().await;
    }
    gate.add_permits(1);
    assert_eq!(client.response().await["id"], "waits");
    assert_eq!(failures.drain(), 0);
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test]
async fn a_handler_that_panics_while_it_is_dropped_is_contained_too() {
    let (failed, mut failures) = calls();
    let (disconnected, mut disconnects) = calls();
    let mut config = config().on_error(failed).on_disconnection(disconnected);
    config.limits.handler_timeout = Duration::from_millis(20);
    let (server, port) = start(config).await;
    let hang = |_: Payload, _: RequestContext| async {
        let _guard = PanicsOnDrop;
        std::future::pending::<()>().await;
        Ok::<_, HandlerError>(())
    };
    server.on_request("timed out", hang);
    server.on_request_within("left over", Duration::from_secs(600), hang);
    let mut other = Client::connect(port).await;
    let mut client = Client::connect(port).await;
    assert_eq!(code(&client.ask("timed out", Value::Null).await), "TIMEOUT");
    client.assert_alive().await;
    for id in ["1", "2", "3"] {
        client.send(id, "left over", Value::Null).await;
    }
    client.assert_alive().await;
    client.leave().await;
    disconnects.next().await;
    for expected in ["timed out", "left over", "left over", "left over"] {
        match failures.next().await {
            ServerError::HandlerPanicked { channel } => assert_eq!(channel, expected),
            unexpected => panic!("{unexpected}"),
        }
    }
    other.assert_alive().await;
}

// Deadlines.

#[tokio::test(start_paused = true)]
async fn a_handler_is_dropped_and_answered_with_timeout_at_its_deadline() {
    let (server, mut client) = in_memory().await;
    let (dropped, mut drops) = calls();
    let dropped = Arc::new(dropped);
    for (channel, timeout) in [("default", None), ("short", Some(200)), ("long", Some(50_000))] {
        let dropped = dropped.clone();
        let handler = move |_: Payload, _: RequestContext| {
            let guard = OnDrop { dropped: dropped.clone(), at: Instant::now() };
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok::<_, HandlerError>(())
            }
        };
        match timeout {
            None => server.on_request(channel, handler),
            Some(timeout) => server.on_request_within(channel, Duration::from_millis(timeout), handler),
        }
    }
    for channel in ["long", "default", "short"] {
        client.send(channel, channel, Value::Null).await;
    }
    for (channel, timeout_ms) in [("short", 200), ("default", 30_000), ("long", 50_000)] {
        let response = client.response().await;
        assert_eq!((response["id"].as_str(), code(&response)), (Some(channel), "TIMEOUT"));
        let lived = drops.next().await.as_millis();
        // The timers of tokio and ours have a resolution of 1 ms.
        assert!((timeout_ms..=timeout_ms + 2).contains(&lived), "{lived} of {timeout_ms} ms");
    }
    assert_eq!(server.stats().errors_with(ErrorCode::Timeout), 3);
    client.assert_alive().await;
}

/// Reports how long it lived.
struct OnDrop<F: Fn(Duration)> {
    dropped: Arc<F>,
    at: Instant,
}

impl<F: Fn(Duration)> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.dropped)(self.at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ends_in_time_is_not_timed_out_later() {
    let (server, mut client) = in_memory().await;
    server.on_request("nap", |payload: Payload, _: RequestContext| async move {
        tokio::time::sleep(Duration::from_millis(payload.parse()?.as_u64().unwrap_or_default())).await;
        Ok::<_, HandlerError>(())
    });
    for (nap, expected) in [(29_990, ""), (30_010, "TIMEOUT")] {
        client.send("1", "nap", json!(nap)).await;
        assert_eq!(code(&client.response().await), expected, "{nap} ms");
    }
    // Long enough for a stale deadline to fire.
    client.send("2", "nap", json!(29_990)).await;
    assert_eq!(client.response().await["id"], "2");
    client.assert_alive().await;
}

// The client leaves.

#[tokio::test]
async fn handlers_are_dropped_when_their_client_leaves() {
    let (disconnected, mut disconnects) = calls();
    let (server, port) = start(config().on_disconnection(disconnected)).await;
    let (dropped, mut drops) = calls();
    let dropped = Arc::new(dropped);
    let (began, mut beginnings) = calls();
    server.on_request("never", move |_: Payload, _: RequestContext| {
        let guard = OnDrop { dropped: dropped.clone(), at: Instant::now() };
        began(());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok::<_, HandlerError>(())
        }
    });
    let mut stays = Client::connect(port).await;
    stays.send("1", "never", Value::Null).await;
    beginnings.next().await;
    for politely in [true, false] {
        let mut client = Client::connect(port).await;
        for id in ["1", "2", "3"] {
            client.send(id, "never", Value::Null).await;
            beginnings.next().await;
        }
        if politely {
            client.leave().await
        } else {
            socket::reset(client.socket.into_inner())
        }
        disconnects.next().await;
        // By then all handlers of this client are dropped, and no others.
        assert_eq!(drops.drain(), 3);
    }
    stays.assert_alive().await;
    drop(stays);
    disconnects.next().await;
    assert_eq!(drops.drain(), 1);
}

// Too many at once.

#[tokio::test]
async fn at_most_max_in_flight_handlers_run_and_the_next_waits() {
    let mut config = config();
    config.limits.max_in_flight = 3;
    let (server, port) = start(config).await;
    let (gate, mut began) = waiting(&server, "wait");
    let mut client = Client::connect(port).await;
    let mut other = Client::connect(port).await;
    for id in 0..10 {
        client.send(&id.to_string(), "wait", Value::Null).await;
    }
    for id in 0..3 {
        assert_eq!(began.next().await, id.to_string());
    }
    // During a round trip of another client the server could have started a fourth.
    for _ in 0..100 {
        other.assert_alive().await;
    }
    assert_eq!(began.drain(), 0);
    for id in 3..10 {
        gate.add_permits(1);
        client.response().await;
        assert_eq!(began.next().await, id.to_string());
        assert_eq!(began.drain(), 0);
    }
    gate.add_permits(3);
    for _ in 0..3 {
        client.response().await;
    }
    client.assert_alive().await;
}

#[tokio::test]
async fn a_handler_that_never_waits_does_not_count_as_in_flight() {
    let mut config = config();
    config.limits.max_in_flight = 1;
    let (server, port) = start(config).await;
    let running = Arc::new(AtomicUsize::new(0));
    let count = running.clone();
    server.on_request("count", move |_: Payload, _: RequestContext| {
        let total = count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, HandlerError>(json!(total)) }
    });
    let mut client = Client::connect(port).await;
    for id in 0..300 {
        client.send(&id.to_string(), "count", Value::Null).await;
    }
    for id in 0..300 {
        assert_eq!(client.response().await["payload"], json!(id));
    }
    assert_eq!(running.load(Ordering::Relaxed), 300);
}

// Registering and removing handlers.

#[tokio::test]
async fn a_removed_handler_finishes_running_calls_and_starts_no_new_ones() {
    let (server, port) = start(config()).await;
    let (gate, mut began) = waiting(&server, "wait");
    let mut client = Client::connect(port).await;
    client.send("1", "wait", Value::Null).await;
    assert_eq!(began.next().await, "1");
    assert!(server.off_request("wait"));
    assert!(!server.off_request("wait"));
    assert_eq!(code(&client.ask("wait", Value::Null).await), "UNKNOWN_CHANNEL");
    gate.add_permits(1);
    assert_eq!(client.response().await["payload"], "1");

    for answer in ["old", "new"] {
        server.on_request("wait", move |_: Payload, _: RequestContext| async move {
            Ok::<_, HandlerError>(json!(answer))
        });
        assert_eq!(client.ask("wait", Value::Null).await["payload"], answer);
    }
}

#[tokio::test]
async fn a_handler_can_change_handlers() {
    let (server, mut client) = in_memory().await;
    server.on_request("once", |_: Payload, cx: RequestContext| async move {
        cx.server()
            .on_request("born", |_: Payload, _: RequestContext| async { Ok::<_, HandlerError>(json!(1)) });
        Ok::<_, HandlerError>(json!(cx.server().off_request("once")))
    });
    assert_eq!(client.ask("once", Value::Null).await["payload"], true);
    assert_eq!(client.ask("born", Value::Null).await["payload"], 1);
    assert_eq!(code(&client.ask("once", Value::Null).await), "UNKNOWN_CHANNEL");
}
