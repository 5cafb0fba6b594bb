//! Handlers that are called in process: what a request would get, without a socket.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{HandlerError, Identity, Payload, RateLimit, RequestContext, ServerError};

use crate::support::socket::{calls, config, server};

fn value(payload: Payload) -> Value {
    payload.parse().unwrap()
}

#[tokio::test]
async fn a_call_gets_result_and_events_as_a_client_with_its_identity() {
    let server = server(config());
    server.on_request("play", |payload: Payload, cx: RequestContext| async move {
        cx.connection().join("room").unwrap();
        cx.emit("own", json!({ "\u{e9}\"": 1 }));
        tokio::task::yield_now().await;
        cx.server().emit("all", ());
        cx.server().group("room").emit("room", json!([cx.data::<u8>().map(|data| *data)]));
        let identity = cx.identity().map(|identity| identity.id().to_owned());
        Ok::<_, HandlerError>(json!([identity, payload.parse()?, cx.server().client_count()]))
    });
    let call = server.call("play", json!(7)).identity(Identity::new("user:1").data(3_u8));
    let called = call.outcome().await;
    assert_eq!(value(called.result.unwrap()), json!(["user:1", 7, 1]));
    let events: Vec<_> =
        called.events.into_iter().map(|(channel, payload)| (channel, value(payload))).collect();
    let expected = [("own", json!({ "\u{e9}\"": 1 })), ("all", Value::Null), ("room", json!([3]))];
    assert_eq!(events, expected.map(|(channel, payload)| (channel.to_owned(), payload)));
    assert_eq!(value(server.call("play", ()).await.unwrap()), json!([null, null, 1]));
    // The caller has left.
    assert_eq!((server.client_count(), server.group("room").count()), (0, 0));
    assert_eq!(server.call("none", ()).await.unwrap_err().code, "UNKNOWN_CHANNEL");
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("asked to panic");
    }
}

#[tokio::test(start_paused = true)]
async fn guards_deadlines_and_panics_are_those_of_a_request() {
    let (failed, mut failures) = calls();
    let server = server(config().on_error(failed));
    server.guard_prefix("limited", RateLimit::per_identity(1, Duration::from_secs(1)));
    server.on_request("limited", |_: Payload, _: RequestContext| async { Ok(()) });
    type Never = std::future::Pending<Result<Payload, HandlerError>>;
    server.on_request("panics", |_: Payload, _: RequestContext| -> Never { panic!("asked to panic") });
    server.on_request("panics later", |_: Payload, _: RequestContext| async {
        tokio::task::yield_now().await;
        if true {
            panic!("asked to panic");
        }
        Ok::<_, HandlerError>(())
    });
    server.on_request_within(
        "hangs",
        Duration::from_millis(50),
        |_: Payload, cx: RequestContext| async move {
            let _guard = PanicsOnDrop;
            cx.emit("begun", ());
            std::future::pending::<()>().await;
            Ok::<_, HandlerError>(())
        },
    );
    let call = |id: &str| server.call("limited", ()).identity(Identity::new(id));
    call("user:1").await.unwrap();
    let refused = call("user:1").await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.details.as_str()),
        ("RATE_LIMITED", Some("{\"retryAfterMs\":1000}"))
    );
    call("user:2").await.unwrap();
    for channel in ["panics", "panics later"] {
        assert_eq!(server.call(channel, ()).await.unwrap_err().to_string(), "HANDLER_ERROR: Internal error");
    }
    let called = server.call("hangs", ()).outcome().await;
    assert_eq!((called.result.unwrap_err().code, called.events.len()), (switchboard::ErrorCode::Timeout, 1));
    for expected in ["panics", "panics later", "hangs"] {
        match failures.next().await {
            ServerError::HandlerPanicked { channel } => assert_eq!(channel, expected),
            unexpected => panic!("{unexpected}"),
        }
    }
    // A call that is not waited for ends its handler.
    let waiting = tokio::time::timeout(Duration::from_millis(10), server.call("hangs", ()).into_future());
    assert!(waiting.await.is_err());
    assert_eq!(server.client_count(), 0);
}
