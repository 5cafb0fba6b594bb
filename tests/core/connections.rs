//! The handle to a client's connection: its data, its end, and what it keeps alive.

use std::sync::{Arc, Mutex, Weak};

use futures_util::SinkExt;
use serde_json::{Value, json};
use switchboard::{Connection, HandlerError, Payload, RequestContext, Server};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::socket::{Calls, Client, calls, config, server, start, waiting};

#[derive(Debug, PartialEq)]
struct Name(String);
#[derive(Debug, PartialEq)]
struct Score(u32);

/// A server that reports how its connections end.
fn reporting(server: &Server) -> Calls<String> {
    let (report, reports) = calls();
    server.on_disconnection(move |_, ending| report(format!("{ending}, by client: {}", ending.by_client)));
    reports
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_one_value_of_each_type_until_its_end() {
    let server = server(config());
    let (keep, mut kept) = calls::<(Connection, Weak<Name>)>();
    server.on_connection(|connection| connection.set_data(Name("first".to_owned())));
    server.on_disconnection(move |connection, _| {
        let name = connection.data::<Name>().expect("the data can be read until now");
        keep((connection, Arc::downgrade(&name)));
    });
    server.on_request("set", |_: Payload, cx: RequestContext| async move {
        let connection = cx.connection();
        assert_eq!(connection.data::<Name>().as_deref(), Some(&Name("first".to_owned())));
        assert_eq!(connection.data::<Score>(), None);
        connection.set_data(Score(1));
        connection.set_data(Score(2));
        connection.set_data(Name("second".to_owned()));
        Ok::<_, HandlerError>(())
    });
    server.on_request("get", |_: Payload, cx: RequestContext| async move {
        let connection = cx.connection();
        let name = connection.data::<Name>().map(|name| name.0.clone());
        Ok::<_, HandlerError>(json!([name, connection.data::<Score>().map(|score| score.0)]))
    });
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    let mut other = Client::through_pipe(&server, 64 << 10).await;
    client.ask("set", Value::Null).await;
    assert_eq!(client.ask("get", Value::Null).await["payload"], json!(["second", 2]));
    assert_eq!(other.ask("get", Value::Null).await["payload"], json!(["first", null]));
    client.leave().await;
    let (connection, name) = kept.next().await;
    other.assert_alive().await;
    assert!(!connection.is_open());
    assert!(name.upgrade().is_none(), "the data is released with the connection, not with its handle");
    connection.set_data(Score(3));
    connection.emit("late", json!(1));
    connection.close(4000, "late");
    assert_eq!(connection.data::<Score>(), None);
}

#[tokio::test(start_paused = true)]
async fn a_handler_closes_its_connection_after_its_response() {
    let server = server(config());
    let mut endings = reporting(&server);
    for (channel, is_late) in [("bye", false), ("later", true)] {
        server.on_request(channel, move |_: Payload, cx: RequestContext| async move {
            if is_late {
                tokio::task::yield_now().await;
            }
            cx.connection().emit("last", json!(1));
            cx.connection().close(4000, "signed out");
            cx.connection().close(4001, "only the first counts");
            Ok::<_, HandlerError>(json!("done"))
        });
        let mut client = Client::through_pipe(&server, 64 << 10).await;
        client.send("1", channel, Value::Null).await;
        assert_eq!(client.event("last").await, 1);
        assert_eq!(client.response().await["payload"], "done");
        assert_eq!(client.close_code().await, 4000);
        assert_eq!(endings.next().await, "4000 signed out, by client: false");
    }
}

#[tokio::test(start_paused = true)]
async fn closing_drops_what_is_in_flight_and_sends_what_was_emitted() {
    let server = server(config());
    let mut endings = reporting(&server);
    let (_gate, mut began) = waiting(&server, "wait");
    for code in [999, 1004, 1005, 1006, 1015, 5000] {
        let mut client = Client::through_pipe(&server, 64 << 10).await;
        client.send("1", "wait", Value::Null).await;
        began.next().await;
        let connection = server.connection(client.id.parse().unwrap()).expect("it is connected");
        assert_eq!(connection.id().to_string(), client.id);
        connection.emit("news", json!(1));
        connection.close(code, &"é".repeat(100));
        assert_eq!(client.event("news").await, 1);
        assert_eq!(client.next().await, Err(1000), "{code} must not be sent");
        assert!(endings.next().await.starts_with("1000 éé"));
        assert_eq!(server.connection(connection.id()), None);
    }
}

#[tokio::test(start_paused = true)]
async fn how_a_connection_has_ended_is_reported_once() {
    let server = server(config());
    let mut endings = reporting(&server);
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    client.socket.close(Some(CloseFrame { code: 4100.into(), reason: "enough".into() })).await.unwrap();
    assert_eq!(endings.next().await, "4100 enough, by client: true");
    let client = Client::through_pipe(&server, 64 << 10).await;
    client.leave().await;
    assert_eq!(endings.next().await, "1005, by client: true");
    drop(Client::through_pipe(&server, 64 << 10).await);
    assert_eq!(endings.next().await, "1006 connection lost, by client: false");
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    client.socket.send(Message::Binary(vec![b'x'; 17 << 20].into())).await.unwrap_or_default();
    assert_eq!(endings.next().await, "1009 message too big, by client: false");
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    tokio::join!(server.stop(), client.close_code());
    assert_eq!(endings.next().await, "1001 server stopping, by client: false");
    assert_eq!(endings.drain(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_is_reported_and_the_others_still_run() {
    let (failed, mut failures) = calls();
    let server = server(config().on_error(move |error| failed(error.to_string())));
    server.on_connection(|_| panic!("a callback"));
    server.on_disconnection(|_, _| panic!("a callback"));
    let (report, mut reports) = calls();
    server.on_connection(move |connection| report(connection.id().to_string()));
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    client.assert_alive().await;
    assert_eq!(reports.next().await, client.id);
    client.leave().await;
    for _ in 0..2 {
        assert_eq!(failures.next().await, "callback panicked");
    }
}

#[tokio::test]
async fn a_connection_and_its_information_name_the_address() {
    let (server, port) = start(config()).await;
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    server.on_connection(move |connection| seen.lock().unwrap().push(connection.peer()));
    let mut client = Client::connect(port).await;
    client.assert_alive().await;
    let loopback = Some("127.0.0.1".parse().unwrap());
    assert_eq!(*peers.lock().unwrap(), [loopback]);
    let info = server.client_info(client.id.parse().unwrap()).expect("it is connected");
    assert_eq!((info.peer, info.identity), (loopback, None));
    let unknown = Client::through_pipe(&server, 64 << 10).await;
    assert_eq!(server.client_info(unknown.id.parse().unwrap()).expect("it is connected").peer, None);
}
