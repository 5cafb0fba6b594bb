//! The life of a server: it finds a port, serves, calls its callbacks, emits events, stops, and starts again.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use switchboard::{ClientId, Config, HandlerError, Payload, RequestContext, Server, ServerError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::socket::{self, Client, calls, config, pipe, reset, serve_hyper, server, start, within};

#[tokio::test]
async fn a_server_listens_on_its_reported_port_and_lists_its_clients() {
    let server = server(config());
    assert_eq!((server.port(), server.is_running(), server.client_count()), (None, false, 0));
    let port = server.start().await.unwrap();
    assert_eq!((server.port(), server.is_running()), (Some(port), true));

    let mut first = Client::connect(port).await;
    let second = Client::connect(port).await;
    first.assert_alive().await;
    assert_eq!(server.client_count(), 2);
    let mut ids: Vec<String> = server.client_ids().iter().map(ClientId::to_string).collect();
    ids.sort();
    let mut expected = [first.id.clone(), second.id.clone()];
    expected.sort();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn client_info_follows_what_the_client_does() {
    let mut config = config();
    config.limits.rate_max_requests = 3;
    config.limits.rate_window = Duration::from_secs(3600);
    let (server, port) = start(config).await;
    let before = unix_ms();
    let mut client = Client::connect(port).await;
    let id: ClientId = client.id.parse().unwrap();
    let fresh = server.client_info(id).unwrap();
    assert_eq!((fresh.id, fresh.request_count, fresh.remaining), (id, 0, 3));
    assert!((before..=unix_ms()).contains(&fresh.connected_at_unix_ms));
    for (count, remaining, code) in
        [(1, 2, Value::Null), (2, 1, Value::Null), (3, 0, Value::Null), (4, 0, json!("RATE_LIMITED"))]
    {
        client.send("1", "echo", Value::Null).await;
        assert_eq!(client.response().await["error"]["code"], code);
        let info = server.client_info(id).unwrap();
        assert_eq!((info.request_count, info.remaining), (count, remaining));
        // The milliseconds of the two clocks do not start together.
        assert!((fresh.connected_at_unix_ms..=unix_ms() + 1).contains(&info.last_activity_unix_ms));
    }
    assert!(server.client_info("00000000-0000-4000-8000-000000000000".parse().unwrap()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_sees_its_own_request_in_client_info() {
    let mut config = config();
    config.limits.rate_max_requests = 100;
    let server = server(config);
    let own = |cx: &RequestContext| {
        let info = cx.server().client_info(cx.client_id).expect("it is connected");
        json!([info.request_count, info.remaining, info.last_activity_unix_ms - info.connected_at_unix_ms])
    };
    server.on_request("info", move |_: Payload, cx: RequestContext| {
        let info = own(&cx);
        async move { Ok::<_, HandlerError>(info) }
    });
    server.on_request("later", move |_: Payload, cx: RequestContext| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, HandlerError>(own(&cx))
    });
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    // The clock of the server has whole milliseconds.
    let within = |info: &Value, expected: [u64; 3]| {
        let [count, remaining, silent] = [0, 1, 2].map(|at| info[at].as_u64().unwrap());
        assert_eq!([count, remaining], expected[..2], "{info}");
        assert!(silent.abs_diff(expected[2]) <= 1, "{info}");
    };
    tokio::time::sleep(Duration::from_secs(7)).await;
    within(&client.ask("info", Value::Null).await["payload"], [1, 99, 7000]);
    // Several that come at once: the window of the first has ended.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let text = |channel| format!(r#"{{"type":"request","id":"1","channel":"{channel}"}}"#);
    for channel in ["info", "later", "info"] {
        client.socket.feed(Message::text(text(channel))).await.unwrap();
    }
    client.socket.flush().await.unwrap();
    within(&client.response().await["payload"], [2, 99, 9000]);
    within(&client.response().await["payload"], [4, 97, 9000]);
    within(&client.response().await["payload"], [4, 97, 9000]);
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

// Ports and addresses.

async fn addresses_of_localhost() -> Vec<IpAddr> {
    let found = tokio::net::lookup_host(("localhost", 0)).await.unwrap();
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[tokio::test]
async fn every_address_of_the_host_is_served() {
    let (_server, port) = start(config()).await;
    for ip in addresses_of_localhost().await {
        let stream = TcpStream::connect(SocketAddr::new(ip, port)).await.unwrap();
        Client::on(stream).await.assert_alive().await;
    }
}

#[tokio::test]
async fn a_port_taken_on_any_address_is_skipped() {
    for ip in addresses_of_localhost().await {
        let taken = TcpListener::bind(SocketAddr::new(ip, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let (server, found) = start(config().port(port)).await;
        assert!((port + 1..port + 10).contains(&found), "{found} after {port}");
        assert_eq!(server.port(), Some(found));
        Client::connect(found).await.assert_alive().await;
    }
}

#[tokio::test]
async fn the_configured_number_of_ports_is_tried() {
    let (first, second) = two_ports_in_a_row().await;
    let port = first.local_addr().unwrap().port();
    for attempts in [1, 2] {
        let mut config = config().port(port);
        config.max_port_attempts = attempts;
        let server = server(config);
        assert_eq!(server.start().await.unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(!server.is_running());
    }
    drop(second);
    let mut config = config().port(port);
    config.max_port_attempts = 2;
    assert_eq!(server(config).start().await.unwrap(), port + 1);
}

#[tokio::test]
async fn an_exact_port_that_is_taken_is_an_error_that_names_it() {
    let (taken, second) = two_ports_in_a_row().await;
    drop(second);
    let port = taken.local_addr().unwrap().port();
    let exact = server(config().port(port).exact_port());
    let error = exact.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&format!("port {port} is in use")), "{error}");
    assert!(!exact.is_running());
    drop(taken);
    assert_eq!(exact.start().await.unwrap(), port);
}

async fn two_ports_in_a_row() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let Some(next) = first.local_addr().unwrap().port().checked_add(1) else { continue };
        if let Ok(second) = TcpListener::bind(("127.0.0.1", next)).await {
            return (first, second);
        }
    }
}

#[tokio::test]
async fn the_search_for_a_port_ends_at_65535() {
    // Whichever socket has it, the port is taken.
    let _taken = TcpListener::bind("127.0.0.1:65535").await;
    let error = server(config().port(65535)).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn listening_beyond_loopback_needs_a_token_or_an_explicit_setting() {
    for host in ["0.0.0.0", "::", "[::]"] {
        let open = || config().host(host);
        let error = server(open()).start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{host}");
        start(open().token("s3cret")).await;
        let mut insecure = open();
        insecure.insecure = true;
        start(insecure).await;
    }
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert_eq!(server(config()).serve(listener).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    for host in ["127.0.0.1", "127.8.8.8", "::1", "[::1]"] {
        start(config().host(host)).await;
    }
}

#[tokio::test]
async fn contradictory_settings_are_refused() {
    type Change = fn(&mut Config);
    let cases: [(Change, Change); 9] = [
        (|config| config.token = Some("x".to_owned()), |config| config.token = Some(String::new())),
        (|config| config.max_port_attempts = 1, |config| config.max_port_attempts = 0),
        (|config| config.limits.max_in_flight = 1, |config| config.limits.max_in_flight = 0),
        (|config| config.max_handshakes = 1, |config| config.max_handshakes = 0),
        (|config| config.max_unauthenticated = 1, |config| config.max_unauthenticated = 0),
        (|config| config.max_wrong_tokens = 1, |config| config.max_wrong_tokens = 0),
        (
            |config| config.trusted_proxies = vec!["::1".to_owned(), "10.0.0.0/32".to_owned()],
            |config| config.trusted_proxies = vec!["10.0.0.0/33".to_owned()],
        ),
        (|_| {}, |config| config.trusted_proxies = vec!["proxy.example".to_owned()]),
        (|config| config.max_head_bytes = 8 << 10, |config| config.max_head_bytes = (8 << 10) - 1),
    ];
    for (allow, refuse) in cases {
        let mut allowed = config();
        allow(&mut allowed);
        start(allowed).await;
        let mut refused = config();
        refuse(&mut refused);
        assert_eq!(server(refused).start().await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let unknown = server(config().host("no-such-host.invalid")).start().await;
    assert!(unknown.is_err());
}

// Start, stop, and again.

#[tokio::test]
async fn a_server_that_runs_cannot_be_started_again() {
    let (server, port) = start(config()).await;
    assert_eq!(server.start().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap();
    assert_eq!(server.serve(listener).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(server.port(), Some(port));
    Client::connect(port).await.assert_alive().await;
    assert!(TcpStream::connect(other).await.is_err(), "a server that was not started does not listen");
}

#[tokio::test]
async fn stop_emits_shutdown_answers_requests_in_flight_and_closes_with_1001() {
    let (disconnected, mut disconnects) = calls();
    let (server, port) = start(config().on_disconnection(disconnected)).await;
    let (started, mut starts) = calls();
    server.on_request("never", move |_: Payload, _: RequestContext| {
        started(());
        std::future::pending::<Result<Payload, HandlerError>>()
    });
    let mut busy = Client::connect(port).await;
    let mut idle = Client::connect(port).await;
    busy.send("7", "never", Value::Null).await;
    starts.next().await;

    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.stop().await }
    });
    assert_eq!(busy.event("server:shutdown").await, json!({ "reason": "Server stopping" }));
    let response = busy.response().await;
    assert_eq!((&response["id"], &response["error"]["code"]), (&json!("7"), &json!("CONNECTION_CLOSED")));
    assert_eq!(busy.next().await, Err(1001));
    assert_eq!(idle.event("server:shutdown").await, json!({ "reason": "Server stopping" }));
    assert_eq!(idle.next().await, Err(1001));
    within("stop", stopping).await.unwrap();
    assert_eq!(disconnects.drain(), 2, "every client is disconnected when stop returns");
    assert_eq!((server.port(), server.is_running(), server.client_count()), (None, false, 0));
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_server_restarts_on_the_same_port_with_its_handlers() {
    let (server, port) = start(config()).await;
    for _ in 0..3 {
        let client = Client::connect(port).await;
        let (stopped, code) = tokio::join!(server.stop(), async {
            let mut client = client;
            client.close_code().await
        });
        assert_eq!(((), 1001), (stopped, code));
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let serving = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener).await }
        });
        Client::connect(port).await.assert_alive().await;
        assert_eq!(server.port(), Some(port));
        server.stop().await;
        within("serve to return", serving).await.unwrap().unwrap();
        let again = server.start().await.unwrap();
        Client::connect(again).await.assert_alive().await;
        server.stop().await;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        drop(listener);
        tokio::spawn({
            let server = server.clone();
            async move { server.serve(TcpListener::bind(("127.0.0.1", port)).await?).await }
        });
        until(|| server.is_running()).await;
    }
}

/// Waits for a condition that another task will fulfil.
async fn until(is_so: impl Fn() -> bool) {
    within("another task", async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dropped_stop_future_still_stops() {
    let (server, port) = start(config()).await;
    let mut client = Client::connect(port).await;
    {
        let mut stopping = Box::pin(server.stop());
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(stopping.as_mut().poll(cx)));
        assert!(once.await.is_pending());
    }
    assert_eq!(client.close_code().await, 1001);
    until(|| server.client_count() == 0).await;
    within("the port to close", async { while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {} })
        .await;
    let again = server.start().await.unwrap();
    Client::connect(again).await.assert_alive().await;
}

#[tokio::test]
async fn a_handler_can_stop_its_own_server() {
    let (server, port) = start(config()).await;
    server.on_request("stop", |_: Payload, cx: RequestContext| async move {
        cx.server().stop().await;
        Ok::<_, HandlerError>(())
    });
    let mut client = Client::connect(port).await;
    client.send("1", "stop", Value::Null).await;
    client.event("server:shutdown").await;
    assert_eq!(client.response().await["error"]["code"], "CONNECTION_CLOSED");
    assert_eq!(client.next().await, Err(1001));
    until(|| !server.is_running()).await;
}

#[tokio::test]
async fn a_server_runs_on_when_every_handle_is_dropped() {
    let (server, port) = start(config()).await;
    drop(server);
    Client::connect(port).await.assert_alive().await;
}

// Inside a hyper server of the embedder.

#[tokio::test]
async fn a_hyper_server_of_the_embedder_upgrades_through_this_one() {
    let (connected, mut connects) = calls();
    let (disconnected, mut disconnects) = calls();
    let server = server(config().on_connection(connected).on_disconnection(disconnected));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn({
        let server = server.clone();
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_hyper(server.clone(), stream));
            }
        }
    });

    let mut theirs = TcpStream::connect(address).await.unwrap();
    theirs.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("their answer", theirs.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("theirs"), "{answer}");

    let mut refused = TcpStream::connect(address).await.unwrap();
    refused.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("our refusal", refused.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");

    let mut client = Client::on(TcpStream::connect(address).await.unwrap()).await;
    client.assert_alive().await;
    assert_eq!(connects.next().await.to_string(), client.id);
    server.emit("news", json!(1));
    assert_eq!(client.event("news").await, json!(1));
    assert!(!server.is_running(), "it does not listen itself");
    client.leave().await;
    disconnects.next().await;

    let mut last = Client::on(TcpStream::connect(address).await.unwrap()).await;
    tokio::join!(server.stop(), async { assert_eq!(last.close_code().await, 1001) });
    assert_eq!((connects.drain(), disconnects.drain()), (1, 1));
}

// Connecting and disconnecting.

#[tokio::test]
async fn each_connect_callback_has_one_disconnect_callback() {
    let (connected, mut connects) = calls();
    let (disconnected, mut disconnects) = calls();
    let mut config = config().on_connection(connected).on_disconnection(disconnected);
    config.limits.close_timeout = Duration::from_millis(50);
    let (server, port) = start(config).await;
    server.on_request("never", |_: Payload, _: RequestContext| {
        std::future::pending::<Result<Payload, HandlerError>>()
    });
    for way in 0..6 {
        let mut client = Client::connect(port).await;
        let id = connects.next().await;
        assert_eq!(id.to_string(), client.id);
        client.send("1", "never", Value::Null).await;
        client.assert_alive().await;
        let stream = client.socket.get_mut();
        match way {
            0 => client.leave().await,
            1 => drop(client),
            2 => stream.shutdown().await.unwrap(),
            3 => reset(client.socket.into_inner()),
            4 => stream.write_all(b"no frame at all").await.unwrap(),
            _ => stream.write_all(&[0x81, 0xfe]).await.unwrap(),
        }
        if way == 5 {
            // Half a frame: only the end of the server disconnects this one.
            break;
        }
        assert_eq!(disconnects.next().await, id);
        assert_eq!(server.client_count(), 0);
        assert!(server.client_info(id).is_none());
    }
    server.stop().await;
    disconnects.next().await;
    assert_eq!((connects.drain(), disconnects.drain()), (0, 0));
}

#[tokio::test]
async fn refused_and_unauthenticated_clients_trigger_no_callback() {
    let (connected, mut connects) = calls();
    let (disconnected, mut disconnects) = calls();
    let (server, port) =
        start(config().token("s3cret").on_connection(connected).on_disconnection(disconnected)).await;
    let mut stranger = Client::connect(port).await;
    assert_eq!(stranger.ask("echo", Value::Null).await["error"]["code"], "UNAUTHORIZED");
    assert_eq!((server.client_count(), server.client_ids().len()), (0, 0));
    stranger.leave().await;

    let mut friend = Client::connect(port).await;
    server.emit("secret", json!("not for strangers"));
    server.emit_to(friend.id.parse().unwrap(), "secret", json!("nor for those to be"));
    assert_eq!(server.stats().events_sent, 0);
    assert_eq!(
        friend.ask("auth", json!({ "token": "s3cret" })).await["payload"],
        json!({ "authenticated": true })
    );
    let id = connects.next().await;
    assert_eq!(id.to_string(), friend.id);
    assert_eq!(server.client_count(), 1);
    friend.leave().await;
    assert_eq!(disconnects.next().await, id);
    assert_eq!((connects.drain(), disconnects.drain()), (0, 0));
}

#[test]
fn a_runtime_that_ends_disconnects_every_client() {
    let (connected, mut connects) = calls();
    let (disconnected, mut disconnects) = calls();
    let server = server(config().on_connection(connected).on_disconnection(disconnected));
    for _ in 0..2 {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clients = runtime.block_on(async {
            let port = server.start().await.unwrap();
            server.on_request("never", |_: Payload, _: RequestContext| {
                std::future::pending::<Result<Payload, HandlerError>>()
            });
            let mut clients = Vec::new();
            for _ in 0..5 {
                let mut client = Client::connect(port).await;
                client.send("1", "never", Value::Null).await;
                client.assert_alive().await;
                clients.push(client);
            }
            clients
        });
        drop(runtime);
        assert_eq!((connects.drain(), disconnects.drain()), (5, 5));
        assert_eq!(server.client_count(), 0);
        drop(clients);
        // The listeners ended with the runtime; stop reports that.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.stop());
    }
}

#[tokio::test]
async fn a_panicking_callback_affects_no_client() {
    let (failed, mut failures) = calls();
    let config = config()
        .on_connection(|_| panic!("on_connection"))
        .on_disconnection(|_| panic!("on_disconnection"))
        .on_error(move |error: ServerError| {
            failed(error.to_string());
            panic!("on_error");
        });
    let (server, port) = start(config).await;
    let mut client = Client::connect(port).await;
    assert_eq!(failures.next().await, "callback panicked");
    client.assert_alive().await;
    client.leave().await;
    assert_eq!(failures.next().await, "callback panicked");
    Client::connect(port).await.assert_alive().await;
    assert_eq!(server.client_count(), 1);
}

// Events.

#[tokio::test]
async fn events_arrive_in_order_and_only_at_their_clients() {
    let (server, port) = start(config()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(port).await);
    }
    let ids: Vec<ClientId> = clients.iter().map(|client| client.id.parse().unwrap()).collect();
    let absent: ClientId = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    for round in 0..100 {
        server.emit("all", json!(round));
        server.emit_to(ids[0], "one", json!(round));
        server.emit_to(absent, "unknown", json!(round));
        server.emit_to_many(&[ids[1], absent, ids[2]], "some", json!(round));
        server.emit_to_many(&[], "unknown", json!(round));
    }
    server.emit("end", Payload::none());
    for (index, client) in clients.iter_mut().enumerate() {
        for round in 0..100 {
            assert_eq!(client.event("all").await, json!(round));
            match index {
                0 => assert_eq!(client.event("one").await, json!(round)),
                1 | 2 => assert_eq!(client.event("some").await, json!(round)),
                _ => {}
            }
        }
        client.event("end").await;
    }
    assert_eq!(server.stats().events_sent, 4 * 100 + 100 + 200 + 4);
}

#[tokio::test]
async fn an_event_is_the_same_text_for_every_client() {
    let (server, port) = start(config()).await;
    let mut clients = [Client::connect(port).await, Client::connect(port).await];
    for (channel, payload, text) in [
        ("a", Payload::none(), r#"{"type":"event","channel":"a","timestamp":"#),
        ("a", Payload::from(Value::Null), r#"{"type":"event","channel":"a","payload":null,"timestamp":"#),
        ("\"é\"\n", Payload::from(json!({"b": [1], "a": 2})), ""),
    ] {
        server.emit(channel, payload);
        let mut texts = Vec::new();
        for client in &mut clients {
            let message = within("an event", futures_util::StreamExt::next(&mut client.socket)).await;
            texts.push(message.unwrap().unwrap().into_text().unwrap().to_string());
        }
        assert_eq!(texts[0], texts[1]);
        assert!(texts[0].starts_with(text), "{}", texts[0]);
        let event: Value = serde_json::from_str(&texts[0]).unwrap();
        assert_eq!(event["channel"], channel);
        assert!(event["timestamp"].is_u64());
    }
}

#[tokio::test]
async fn events_emitted_on_connection_follow_server_connected() {
    let server = std::sync::Arc::new(std::sync::OnceLock::<Server>::new());
    let known = server.clone();
    let config = config().on_connection(move |id| {
        let server = known.get().expect("it runs");
        server.emit_to(id, "welcome", json!(server.client_count()));
    });
    server.set(socket::server(config)).unwrap();
    let port = server.get().unwrap().start().await.unwrap();
    // The client expects server:connected first, and fails on anything before it.
    let mut client = Client::connect(port).await;
    assert_eq!(client.event("welcome").await, json!(1));
}

#[tokio::test]
async fn an_event_longer_than_the_limit_reaches_no_client() {
    let (failed, mut failures) = calls();
    let mut config = config().on_error(failed);
    config.limits.max_message_bytes = 1000;
    let server = server(config);
    let mut client = Client::through_pipe(&server, 64 << 10).await;
    let around = r#"{"type":"event","channel":"c","payload":"","timestamp":1704067200000}"#.len();
    server.emit("c", json!("x".repeat(1000 - around)));
    assert_eq!(client.event("c").await.as_str().map(str::len), Some(1000 - around));
    assert_eq!(failures.drain(), 0);
    server.emit("c", json!("x".repeat(1001 - around)));
    match failures.next().await {
        ServerError::EventTooBig { channel, bytes } => assert_eq!((channel.as_str(), bytes), ("c", 1001)),
        other => panic!("{other}"),
    }
    server.emit("c", json!("next"));
    assert_eq!(client.event("c").await, "next");
    drop(pipe(&server, 1));
}
