//! Groups of connections: events for their members and for no other client, within limits, and nothing that is left behind.

use serde_json::{Value, json};
use switchboard::{ClientId, Connection, HandlerError, JoinError, Payload, RequestContext, Server};

use crate::support::socket::{Client, calls, config, server};

type Piped = Client<tokio::io::DuplexStream>;

async fn in_memory(server: &Server) -> Piped {
    Client::through_pipe(server, 64 << 10).await
}

fn connection(server: &Server, client: &Piped) -> Connection {
    server.connection(client.id.parse().unwrap()).expect("it is connected")
}

fn names(connection: &Connection) -> Vec<String> {
    connection.groups().iter().map(|name| name.to_string()).collect()
}

#[tokio::test]
async fn members_get_the_events_of_their_groups_and_others_do_not() {
    let server = server(config());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(in_memory(&server).await);
    }
    let [a, b, c] = [0, 1, 2].map(|at| connection(&server, &clients[at]));
    for (connection, group) in [(&a, "x"), (&b, "x"), (&b, "y"), (&b, "y"), (&c, "y")] {
        connection.join(group).unwrap();
    }
    let (x, y) = (server.group("x"), server.group("y"));
    assert_eq!((x.count(), y.count(), server.group("z").count()), (2, 2, 0));
    assert_eq!(names(&b), ["x", "y"]);
    let mut members: Vec<ClientId> = y.connections().iter().map(Connection::id).collect();
    members.sort();
    let mut expected = [b.id(), c.id()];
    expected.sort();
    assert_eq!(members, expected);

    x.emit("e", json!(1));
    y.emit_except(&b, "e", json!(2));
    y.emit_except(&a, "e", json!(3));
    server.group("z").emit("e", json!(4));
    assert!(b.leave("x") && !b.leave("x") && !b.leave("z"));
    x.emit("e", json!(5));
    server.emit("e", json!("end"));
    for (client, expected) in clients.iter_mut().zip([&[1, 5][..], &[1, 3], &[2, 3]]) {
        for event in expected {
            assert_eq!(client.event("e").await, json!(event));
        }
        assert_eq!(client.event("e").await, "end");
    }
    assert_eq!(server.stats().events_sent, 9);
    y.close(4000, "the room is closed");
    for client in &mut clients[1..] {
        assert_eq!(client.next().await.unwrap_err(), 4000);
    }
    clients[0].assert_alive().await;
    assert_eq!((names(&b), y.count()), (Vec::new(), 0));
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_and_changes_nothing() {
    let mut config = config();
    (config.max_groups, config.max_groups_per_connection) = (3, 2);
    let server = server(config);
    server.on_request("join", |payload: Payload, cx: RequestContext| async move {
        let group = payload.read(serde_json::from_str::<String>)?;
        cx.connection().join(&group)?;
        Ok::<_, HandlerError>(())
    });
    let (mut first, second) = (in_memory(&server).await, in_memory(&server).await);
    for group in ["a", "b", "a"] {
        assert_eq!(first.ask("join", json!(group)).await.get("error"), None);
    }
    let error = first.ask("join", json!("c")).await["error"].clone();
    assert_eq!(error, json!({ "code": "HANDLER_ERROR", "message": "already in 2 groups, 2 allowed" }));
    let (own, other) = (connection(&server, &first), connection(&server, &second));
    for name in [String::new(), "x".repeat(257)] {
        assert_eq!(own.join(&name), Err(JoinError::NameLength(name.len())));
    }
    other.join(&"x".repeat(256)).unwrap();
    assert_eq!(other.join("d"), Err(JoinError::TooMany(3)));
    other.join("a").unwrap();
    assert!(own.leave("b") && other.leave("a"));
    other.join("d").unwrap();
    assert_eq!((names(&own), server.group("a").count()), (vec!["a".to_owned()], 1));
}

#[tokio::test]
async fn a_connection_that_ends_leaves_its_groups_and_joins_no_other() {
    let (seen, mut ends) = calls();
    let server = server(config());
    server.on_connection(|connection| connection.join("lobby").expect("there is room"));
    server.on_disconnection(move |connection, _| seen((names(&connection), connection)));
    let mut stays = in_memory(&server).await;
    let leaves = in_memory(&server).await;
    connection(&server, &leaves).join("own").unwrap();
    assert_eq!(server.group("lobby").count(), 2);
    leaves.leave().await;
    let (groups, ended) = ends.next().await;
    assert_eq!(groups, ["lobby", "own"], "while the callback runs");
    // The callback runs before the groups are left, but the client is no member of them then.
    stays.assert_alive().await;
    assert_eq!((server.group("lobby").count(), server.group("own").count()), (1, 0));
    ended.join("lobby").unwrap();
    assert_eq!((names(&ended), server.group("lobby").connections().len()), (Vec::new(), 1));
    server.group("lobby").emit("e", Value::Null);
    assert_eq!(stays.event("e").await, Value::Null);
}

#[tokio::test]
async fn a_hundred_thousand_memberships_leave_no_memory() {
    let server = server(config());
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(in_memory(&server).await);
    }
    let connections: Vec<_> = clients.iter().map(|client| connection(&server, client)).collect();
    let move_about = || {
        for round in 0..10_000 / 50 {
            for name in (0..50).map(|room| format!("room:{round}:{room}")) {
                connections.iter().for_each(|connection| connection.join(&name).unwrap());
            }
            for name in (0..50).map(|room| format!("room:{round}:{room}")) {
                connections.iter().for_each(|connection| assert!(connection.leave(&name)));
            }
        }
    };
    // The roots of the two trees stay.
    connections[0].join("first").unwrap();
    assert!(connections[0].leave("first"));
    let memory = allocation_counter::measure(move_about);
    assert_eq!((memory.bytes_current, memory.count_current), (0, 0));
    assert!(memory.bytes_max < 1 << 20, "{} bytes for 500 memberships", memory.bytes_max);
}

/// Allocations are what an emit costs beside its members: the frame, and the list of those to wake.
#[tokio::test]
async fn an_emit_does_nothing_for_clients_that_are_not_members() {
    let mut costs = Vec::new();
    for others in [0, 300] {
        let server = server(config());
        let mut clients = Vec::new();
        for at in 0..10 + others {
            let client = in_memory(&server).await;
            if at < 10 {
                connection(&server, &client).join("room").unwrap();
            }
            clients.push(client);
        }
        let memory = allocation_counter::measure(|| server.group("room").emit("e", json!(1)));
        costs.push(memory.count_total);
    }
    assert_eq!(costs[0], costs[1]);
}

/// Emits and moves of several threads: a client gets the events of a group exactly while it is in it, and all clients get the events
/// that several get in one order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_groups_have_one_order_with_all_others() {
    const EVENTS: usize = 1000;
    let (server, port) = crate::support::socket::start(config()).await;
    let mut readers = Vec::new();
    let mut connections = Vec::new();
    for at in 0..6 {
        let mut client = Client::connect(port).await;
        let own = server.connection(client.id.parse().unwrap()).unwrap();
        for group in ["a", "b"].iter().skip(at % 2) {
            own.join(group).unwrap();
        }
        connections.push(own);
        readers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                match client.event("e").await {
                    Value::String(event) => seen.push(event),
                    _ => return seen,
                }
            }
        }));
    }
    let ids: Vec<_> = connections.iter().map(Connection::id).collect();
    let emitters: Vec<_> = (0..3)
        .map(|thread| {
            let (server, ids) = (server.clone(), ids.clone());
            std::thread::spawn(move || {
                for n in 0..EVENTS {
                    let event = json!(format!("{thread} {n}"));
                    match n % 4 {
                        0 => server.group("a").emit("e", event),
                        1 => server.group("b").emit("e", event),
                        2 => server.emit("e", event),
                        _ => server.emit_to_many(&ids[..4], "e", event),
                    }
                }
            })
        })
        .collect();
    for emitter in emitters {
        emitter.join().unwrap();
    }
    server.emit("e", Value::Null);
    let mut all = Vec::new();
    for reader in readers {
        all.push(reader.await.unwrap());
    }
    let places: Vec<std::collections::HashMap<_, _>> =
        all.iter().map(|events| events.iter().zip(0..).collect()).collect();
    for place in &places {
        for events in &all {
            let common: Vec<_> = events.iter().filter_map(|event| place.get(event)).collect();
            assert!(common.len() >= EVENTS / 4 * 3 && common.is_sorted());
        }
    }
    server.stop().await;
}
