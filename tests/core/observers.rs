//! Observers: what they are notified of, and that a panic in one is contained.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{
    Attempt, Authenticated, Completed, Config, ErrorCode, HandlerError, Identity, Observer, Payload, Refusal,
    Refused, RequestContext, Server, ServerError, Slow, Visit,
};

use crate::support::socket::{Calls, Client, calls, config, server, waiting};

/// Reports each call as text.
struct Witness<F>(F);

impl<F: Fn(String) + Send + Sync> Observer for Witness<F> {
    fn connected(&self, visit: &Visit<'_>) {
        assert_eq!(visit.elapsed, Duration::ZERO);
        (self.0)(format!("{} connected", visit.client_id));
    }

    fn disconnected(&self, visit: &Visit<'_>) {
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
    fn connected(&self, _: &Visit<'_>) {
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

/// Reports who is let in or not, and how each connection ends.
struct Doorman<F>(F);

impl<F: Fn(String) + Send + Sync> Observer for Doorman<F> {
    fn connected(&self, visit: &Visit<'_>) {
        assert_eq!((visit.ending, visit.elapsed), (None, Duration::ZERO));
        (self.0)(format!("connected {:?} {:?}", visit.identity, visit.peer));
    }

    fn disconnected(&self, visit: &Visit<'_>) {
        let ending = visit.ending.expect("it has ended");
        (self.0)(format!(
            "ended {:?} after {} s and {}: {ending}, by client: {}",
            visit.identity,
            visit.elapsed.as_secs(),
            visit.requests,
            ending.by_client
        ));
    }

    fn authenticated(&self, client: &Authenticated<'_>) {
        let renewed = if client.is_renewal { "renewed" } else { "authenticated" };
        (self.0)(format!("{renewed} {:?}", client.identity));
    }

    fn refused(&self, refused: &Refused<'_>) {
        (self.0)(format!("refused {} {}", refused.status, refused.reason));
    }

    fn slow(&self, client: &Slow<'_>) {
        let kind = if client.is_closed { "closed" } else { "slow" };
        (self.0)(format!("{kind} with {} bytes", client.waiting_bytes));
    }
}

/// A server with these observers, and what they are called with.
fn watched(config: Config) -> (Server, Calls<String>) {
    let server = server(config);
    let (report, reports) = calls();
    server.observe(Arc::new(Doorman(report)));
    (server, reports)
}

async fn token(client: &mut Client<tokio::io::DuplexStream>, token: &str) {
    client.ask("auth", json!({ "token": token })).await;
}

#[tokio::test(start_paused = true)]
async fn observers_see_who_is_let_in_and_how_each_connection_ends() {
    let mut config = config();
    config.limits.auth_timeout = Duration::from_secs(3);
    let (server, mut reports) = watched(config);
    server.authenticate(|attempt: Attempt| async move {
        match attempt.bearer() {
            Some("panic") => panic!("asked to"),
            Some("eve") => Err(Refusal::forbidden("suspended")),
            Some(name @ ("ann" | "bob")) => Ok(Identity::new(name)),
            Some(_) => Err(Refusal::unauthorized("unknown")),
            None => Err(Refusal::AwaitAuth),
        }
    });
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    token(&mut client, "wrong").await;
    assert_eq!(reports.next().await, "refused 401 unknown");
    token(&mut client, "panic").await;
    assert_eq!(reports.next().await, "refused 500 Internal error");
    token(&mut client, "ann").await;
    assert_eq!(reports.next().await, "authenticated Some(\"ann\")");
    assert_eq!(reports.next().await, "connected Some(\"ann\") None");
    token(&mut client, "ann").await;
    assert_eq!(reports.next().await, "renewed Some(\"ann\")");
    token(&mut client, "bob").await;
    assert_eq!(reports.next().await, "refused 401 the credential is of another identity");
    tokio::time::sleep(Duration::from_secs(7)).await;
    client.assert_alive().await;
    assert_eq!(server.disconnect_identity("ann", 4403, "kicked"), 1);
    assert_eq!(client.close_code().await, 4403);
    assert_eq!(reports.next().await, "ended Some(\"ann\") after 7 s and 6: 4403 kicked, by client: false");

    // Refused once, for the same reason that closes the connection.
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    token(&mut client, "eve").await;
    assert_eq!((client.close_code().await, reports.next().await), (1008, "refused 403 suspended".to_owned()));
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    assert_eq!(client.close_code().await, 1008);
    assert_eq!(reports.next().await, "refused 401 authentication timeout");
    // It leaves by itself.
    Client::through_pipe(&server, 64 << 10).await.leave().await;
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    token(&mut client, "bob").await;
    client.leave().await;
    for line in [
        "authenticated Some(\"bob\")",
        "connected Some(\"bob\") None",
        "ended Some(\"bob\") after 0 s and 1: 1005, by client: true",
    ] {
        assert_eq!(reports.next().await, line);
    }
    server.stop().await;
    assert_eq!(reports.drain(), 0);

    let stats = server.stats();
    assert_eq!(stats.credentials, [2, 1, 4], "accepted, renewed, refused");
    assert_eq!([401, 403, 500].map(|status| stats.refused_with(status)), [3, 1, 1]);
    let ends = [("server", 4403), ("server", 1008), ("client", 1005)];
    assert_eq!(ends.map(|(by, code)| stats.ended_with(by, code)), [1, 2, 2]);
    assert_eq!(stats.ended.iter().sum::<u64>(), stats.connections);
}

#[tokio::test(start_paused = true)]
async fn observers_see_the_token_of_the_configuration_and_clients_that_are_slow() {
    let mut config = config().token("a long secret text");
    config.limits.soft_outbox_bytes = 2000;
    config.limits.soft_outbox_timeout = Duration::from_secs(9);
    let (server, mut reports) = watched(config);
    let mut client = Client::through_pipe(&server, 500).await;
    token(&mut client, "wrong").await;
    assert_eq!(reports.next().await, "refused 401 Token is wrong");
    token(&mut client, "a long secret text").await;
    assert_eq!(reports.next().await, "authenticated None");
    assert_eq!(reports.next().await, "connected None None");
    for _ in 0..5 {
        server.emit("news", json!("x".repeat(1000)));
    }
    let slow = reports.next().await;
    assert!(slow.starts_with("slow with 4"), "{slow}");
    server.emit("news", json!("x".repeat(1000)));
    let closed = reports.next().await;
    assert!(closed.starts_with("closed with 5"), "{closed}");
    assert_eq!(client.close_code().await, 1008);
    assert_eq!(reports.next().await, "ended None after 9 s and 2: 1008 slow consumer, by client: false");
    drop(Client::through_pipe(&server, 500).await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    server.stop().await;
    assert_eq!(reports.drain(), 0, "each once");
    let stats = server.stats();
    assert_eq!((stats.credentials, stats.ended_with("none", 1006)), ([1, 0, 1], 1));
}
