//! Observers: what they are notified of, and that a panic in one is contained.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{
    Completed, ErrorCode, HandlerError, Observer, Payload, RequestContext, ServerError, Visit,
};

use crate::support::socket::{Client, calls, config, server, waiting};

/// Reports each call as text.
struct Witness<F>(F);

impl<F: Fn(String) + Send + Sync> Observer for Witness<F> {
    fn connected(&self, visit: &Visit) {
        assert_eq!(visit.elapsed, Duration::ZERO);
        (self.0)(format!("{} connected", visit.client_id));
    }

    fn disconnected(&self, visit: &Visit) {
        (self.0)(format!("{} disconnected", visit.client_id));
    }

    fn completed(&self, request: &Completed<'_>) {
        assert!(request.at_unix_ms > 1_500_000_000_000);
        let code = request.error.map_or("ok", |error| error.code.as_str());
        (self.0)(format!("{} {code} {}", request.channel.unwrap_or("-"), request.elapsed.as_millis()));
    }
}

#[tokio::test(start_paused = true)]
async fn observers_see_the_outcome_of_each_request_once() {
    let mut config = config().token("secret");
    config.limits.rate_max_requests = 13;
    config.limits.max_message_bytes = 4096;
    let server = server(config);
    let (report, mut reports) = calls();
    server.observe(Arc::new(Witness(report)));
    server.on_request("fail", |_: Payload, _: RequestContext| async {
        Err::<(), _>(HandlerError::with_code(ErrorCode::Unauthorized, "not yours"))
    });
    server.on_request("panic", |_: Payload, _: RequestContext| async {
        tokio::task::yield_now().await;
        if true {
            panic!("late");
        }
        Ok::<_, HandlerError>(())
    });
    server.on_request("huge", |_: Payload, _: RequestContext| async {
        Ok::<_, HandlerError>(json!("x".repeat(5000)))
    });
    server.on_request("nap", |_: Payload, _: RequestContext| async {
        tokio::time::sleep(Duration::from_millis(70)).await;
        Ok::<_, HandlerError>(())
    });
    server.on_request_within("never", Duration::from_millis(300), |_: Payload, _: RequestContext| async {
        std::future::pending::<()>().await;
        Ok::<_, HandlerError>(())
    });
    server.on_request_within("left", Duration::from_secs(600), |_: Payload, _: RequestContext| async {
        std::future::pending::<()>().await;
        Ok::<_, HandlerError>(())
    });
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    for (text, line) in [
        (r#"{"type":"request","id":"1","channel":"echo"}"#, "- UNAUTHORIZED 0"),
        (r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"wrong"}}"#, "- UNAUTHORIZED 0"),
    ] {
        client.send_text(text).await;
        client.response().await;
        assert_eq!(reports.next().await, line);
    }
    client.send_text(r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"secret"}}"#).await;
    client.response().await;
    assert_eq!(reports.next().await, format!("{} connected", client.id));
    for (text, line) in [
        ("{", "- INVALID_MESSAGE 0"),
        (r#"{"type":"event","channel":"echo"}"#, "- INVALID_MESSAGE 0"),
        (r#"{"type":"request","id":"1","channel":"unknown"}"#, "- UNKNOWN_CHANNEL 0"),
        (r#"{"type":"request","id":"1","channel":"\u0065cho"}"#, "echo ok 0"),
        (r#"{"type":"request","id":"1","channel":"fail"}"#, "fail UNAUTHORIZED 0"),
        (r#"{"type":"request","id":"1","channel":"panic"}"#, "panic HANDLER_ERROR 0"),
        (r#"{"type":"request","id":"1","channel":"huge"}"#, "huge HANDLER_ERROR 0"),
    ] {
        client.send_text(text).await;
        client.response().await;
        assert_eq!(reports.next().await, line, "{text}");
    }
    for (channel, begins, at_least) in [("nap", "nap ok ", 70), ("never", "never TIMEOUT ", 300)] {
        client.ask(channel, Value::Null).await;
        let line = reports.next().await;
        let elapsed: u64 = line.strip_prefix(begins).expect(&line).parse().unwrap();
        assert!((at_least..at_least + 3).contains(&elapsed), "{line}");
    }
    client.send("9", "left", Value::Null).await;
    client.send("10", "echo", Value::Null).await;
    assert_eq!(client.response().await["error"]["code"], "RATE_LIMITED");
    assert_eq!(reports.next().await, "- RATE_LIMITED 0");
    let id = client.id.clone();
    client.leave().await;
    assert!(reports.next().await.starts_with("left CONNECTION_CLOSED "));
    assert_eq!(reports.next().await, format!("{id} disconnected"));
    assert_eq!(reports.drain(), 0);
}

struct Panics;

impl Observer for Panics {
    fn connected(&self, _: &Visit) {
        panic!("connected");
    }

    fn completed(&self, _: &Completed<'_>) {
        panic!("completed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_is_reported_and_the_others_still_run() {
    let (failed, mut failures) = calls();
    let server = server(config().on_error(failed));
    let (report, mut reports) = calls();
    server.observe(Arc::new(Panics));
    server.observe(Arc::new(Witness(report)));
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    client.assert_alive().await;
    assert_eq!(reports.next().await, format!("{} connected", client.id));
    assert!(reports.next().await.starts_with("echo ok"));
    for _ in 0..2 {
        assert!(matches!(failures.next().await, ServerError::CallbackPanicked));
    }
}

#[tokio::test(start_paused = true)]
async fn observers_see_requests_that_stopping_the_server_aborts() {
    let server = server(config());
    let (report, mut reports) = calls();
    let mut before = Client::through_pipe(&server, 64 << 10).await;
    before.assert_alive().await;
    server.observe(Arc::new(Witness(report)));
    let (_gate, mut began) = waiting(&server, "wait");
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    assert_eq!(reports.next().await, format!("{} connected", client.id));
    for client in [&mut client, &mut before] {
        client.send("1", "wait", Value::Null).await;
        began.next().await;
    }
    server.stop().await;
    assert!(reports.next().await.starts_with("wait CONNECTION_CLOSED"));
    assert_eq!(reports.next().await, format!("{} disconnected", client.id));
    assert_eq!(reports.drain(), 0, "clients connected before are not observed");
}

#[tokio::test(start_paused = true)]
async fn a_request_aborted_by_stop_is_reported_once_if_the_client_answers() {
    let server = server(config());
    let (report, mut reports) = calls();
    server.observe(Arc::new(Witness(report)));
    let (_gate, mut began) = waiting(&server, "wait");
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    assert_eq!(reports.next().await, format!("{} connected", client.id));
    client.send("1", "wait", Value::Null).await;
    began.next().await;
    let ((), code) = tokio::join!(server.stop(), client.close_code());
    assert_eq!(code, 1001);
    assert!(reports.next().await.starts_with("wait CONNECTION_CLOSED"));
    assert_eq!(reports.next().await, format!("{} disconnected", client.id));
    assert_eq!(reports.drain(), 0, "each request ends once");
}
