//! What bytes cost: work, allocations and memory.

use std::path::{Path, PathBuf};

use allocation_counter::measure;
use serde_json::{Value, json};
#[cfg(feature = "client")]
use switchboard::protocol::caller::{Caller, CallerLimits};
use switchboard::protocol::connection::Violation;
use switchboard::protocol::frame::Role;
use switchboard::protocol::session::{Action, Session};
use switchboard::protocol::time::Millis;
#[cfg(feature = "client")]
use switchboard::protocol::uuid::Uuid;
use switchboard::{HandlerError, Payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::setup::*;
use crate::support::frames::*;
use crate::support::socket::{self, config, pipe, server, upgrade};

/// CVE-2023-43669: incomplete input was parsed again from its start on every read.
#[test]
fn each_input_byte_is_read_once_however_small_the_reads() {
    for role in ENDS {
        let mut bytes = Vec::new();
        let mut frames = 0;
        for (index, length) in [0, 1, 125, 126, 70_000, 3, 30_000].into_iter().enumerate() {
            let first = if index == 0 { TEXT } else { CONTINUATION };
            bytes.extend(frame_to(role, first, &vec![b'x'; length]));
            bytes.extend(frame_to(role, FIN | PING, &[b'p'; 125]));
            frames += 2;
        }
        bytes.extend(frame_to(role, FIN | CONTINUATION, b"!"));
        frames += 1;
        for piece in [1, 2, 13, 4096, usize::MAX] {
            let outcome = receive(&mut end(role, 16 * MIB), &bytes, piece);
            assert_eq!(outcome.message_bytes, 100_256, "{role:?}, pieces of {piece}");
            let reads = bytes.len().div_ceil(piece);
            assert!(outcome.steps <= reads + frames, "{role:?}, pieces of {piece}: {} steps", outcome.steps);
            let cost = outcome.cost;
            assert!(cost.bytes_total as usize <= 5 * bytes.len(), "{role:?}, pieces of {piece}: {cost:?}");
        }
    }
}

/// CVE-2023-43669, in the head of a request.
#[test]
fn a_head_sent_byte_by_byte_costs_no_more_than_at_once() {
    let head = upgrade(&format!("X-Padding: {}\r\n", "x".repeat(12 * KIB)));
    let cost = |pipe_bytes| {
        measure(|| {
            run_on_pipes(async {
                let server = server(config());
                let mut near = pipe(&server, pipe_bytes);
                near.write_all(head.as_bytes()).await.expect("the server reads");
                assert_eq!(near.read_u8().await.expect("an answer"), b'H');
            });
        })
        .bytes_total as usize
    };
    // The first allocates what the clients of a thread share.
    cost(KIB);
    let (at_once, by_bytes) = (cost(64 * KIB), cost(1));
    assert!(by_bytes <= at_once + 2 * head.len(), "{by_bytes} bytes byte by byte, {at_once} at once");
}

/// CVE-2022-35922: memory was allocated for the length that a frame's header announced.
#[test]
fn an_announced_length_allocates_nothing() {
    for role in ENDS {
        for first in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
            for length in [126, 64 * KIB, 16 * MIB] {
                let mut connection = end(role, 16 * MIB);
                let mut bytes = header_to(role, first, length as u64);
                bytes.push(b'x');
                let outcome = receive(&mut connection, &bytes, usize::MAX);
                let what = format!("{role:?}, {length} bytes announced: {:?}", outcome.cost);
                assert_eq!(outcome.violation, None, "{what}");
                assert!(outcome.cost.bytes_total <= 128, "{what}");
                // What arrives is held, and at most twice its size is allocated.
                let outcome = receive(&mut connection, &[b'x'; 100], 1);
                assert!(outcome.cost.bytes_current <= 256, "{what}");
            }
            let outcome = receive(&mut end(role, 16 * MIB), &header_to(role, first, 1 << 40), usize::MAX);
            assert_eq!(outcome.violation, Some(Violation::TooBig));
            assert_eq!(outcome.cost.bytes_total, 0, "{role:?}");
        }
    }
    let cost = measure(|| {
        run(async {
            let (_server, port) = socket::start(config()).await;
            for more in ["Content-Length: 9223372036854775807\r\n", "Transfer-Encoding: chunked\r\n"] {
                let answer = answers(port, (upgrade(more) + "7fffffffffffffff\r\n").as_bytes()).await;
                assert_eq!(status(&answer), 400, "{answer}");
            }
        });
    });
    assert!(cost.bytes_max <= 256 * KIB as u64, "{cost:?}");
}

/// The same class one layer up: a message that is parsed into values takes many times its own length. The messages here are
/// from a client that has not sent the token, and from a server that names a call in an error's details.
#[test]
fn an_unauthenticated_client_costs_no_more_than_its_message() {
    let values = |many: usize| {
        let zeroes = "0,".repeat(many);
        [
            format!("[{zeroes}0]"),
            format!(r#"{{"token":[{zeroes}0],"requestId":[{zeroes}0]}}"#),
            format!(r#"{{{}"token":"","requestId":""}}"#, r#""a":0,"#.repeat(many / 5)),
        ]
    };
    // What fits into a small message is read; a large one is refused at its header.
    let small = values(1000).map(|value| (value, "UNAUTHORIZED"));
    for (value, refused) in small.into_iter().chain(values(500_000).map(|value| (value, "message too big"))) {
        let text = format!(r#"{{"type":"request","id":"1","channel":"auth","payload":{value}}}"#);
        let mut bytes = frame_to(Role::Server, FIN | TEXT, text.as_bytes());
        let mut session = session(|rules| rules.token = Some("s3cret".to_owned()));
        let mut out = Vec::with_capacity(4 * KIB);
        let cost = measure(|| {
            assert!(session.handle_input(NOW, &mut bytes, &mut out).action.is_none());
        });
        assert!(String::from_utf8_lossy(&out).contains(refused));
        assert!(cost.bytes_total <= 8 * KIB as u64, "{cost:?} for {} bytes", text.len());

        #[cfg(feature = "client")]
        {
            let text =
                format!(r#"{{"type":"response","id":"?","channel":"c","error":{{"details":{value}}}}}"#);
            let mut bytes = frame_to(Role::Client, FIN | TEXT, text.as_bytes());
            let mut caller = Caller::new(CallerLimits::default(), || [0; 4], NOW.at);
            let cost = measure(|| assert!(caller.handle_input(NOW, &mut bytes, &mut out).action.is_none()));
            // The message is kept once, because parts of it can be passed on.
            let allowed = text.len() + 4 * KIB;
            assert!(cost.bytes_total as usize <= allowed, "{cost:?} for {} bytes", text.len());
        }
    }
}

/// CVE-2020-35896: data that a peer does not read was kept without limit.
#[test]
fn a_client_that_never_reads_costs_a_bounded_amount() {
    let request =
        format!(r#"{{"type":"request","id":"1","channel":"echo","payload":"{}"}}"#, "x".repeat(1_000));
    let floods = [
        frame_to(Role::Server, FIN | PING, &[b'p'; 125]).repeat(100_000),
        frame_to(Role::Server, FIN | TEXT, request.as_bytes()).repeat(10_000),
        frame_to(Role::Server, FIN | TEXT, b"not JSON").repeat(500_000),
    ];
    for flood in &floods {
        let cost = measure(|| {
            run_on_pipes(async {
                let server = server(config());
                let mut near = upgraded(&server, 64 * KIB).await;
                assert!(
                    stalls(&mut near, flood).await,
                    "the server does not read from it while it does not read"
                );
                assert_eq!(server.client_count(), 1);
            });
        });
        assert!(cost.bytes_max <= 2 * MIB as u64, "{cost:?} for a flood of {} bytes", flood.len());
    }
}

/// CVE-2020-35896, with events that the client did not ask for.
#[test]
fn events_for_a_client_that_never_reads_stop_at_the_limit() {
    let (disconnected, mut disconnects) = socket::calls();
    let mut config = config().on_disconnection(disconnected);
    config.limits.max_outbox_bytes = 256 * KIB;
    let event = Payload::from(json!("x".repeat(10_000)));
    let cost = measure(|| {
        run_on_pipes(async {
            let server = server(config);
            let _near = upgraded(&server, KIB).await;
            for _ in 0..1_000 {
                server.emit("news", event.clone());
                tokio::task::yield_now().await;
            }
            disconnects.next().await;
        });
    });
    assert!(cost.bytes_max <= 2 * MIB as u64, "{cost:?} for 10 MB of events");
}

/// CVE-2020-35896, seen from a client whose server pings and never reads.
#[cfg(feature = "client")]
#[test]
fn a_server_that_never_reads_costs_a_bounded_amount() {
    use std::io::{Read, Write};
    use switchboard::client::{Client, ClientOptions};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    // On its own thread, so that its memory is not counted as the client's.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client comes");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head is text");
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let accept = switchboard::protocol::handshake::accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).expect("the client reads");
        let pings = frame_to(Role::Client, FIN | PING, &[b'p'; 125]).repeat(1_000);
        for _ in 0..250 {
            stream.write_all(&pings).expect("the client reads");
        }
        let done = br#"{"type":"event","channel":"done","timestamp":1}"#;
        stream.write_all(&frame_to(Role::Client, FIN | TEXT, done)).expect("the client reads");
        stream
    });
    let cost = measure(|| {
        run(async {
            let (said, mut says) = socket::calls();
            let options = ClientOptions { reconnect: false, ..ClientOptions::default() };
            let client =
                Client::connect(&format!("ws://127.0.0.1:{port}"), options).await.expect("it connects");
            // There is no await between the two, so the client's task has read nothing yet.
            client.on_message("done", move |_| said(()));
            says.next().await;
        });
    });
    drop(server.join().expect("the server accepts it"));
    // 33 MB of pongs, of which the system buffers some, and 1 MiB can wait.
    assert!(cost.bytes_max <= 3 * MIB as u64, "{cost:?}");
}

/// CVE-2026-48779: each of many tiny fragments was kept in its own allocation, for a message that never ended.
#[test]
fn fragments_of_one_byte_cost_one_byte_and_are_freed() {
    const FRAGMENTS: usize = 100_000;
    for role in ENDS {
        for first in [TEXT, BINARY] {
            let mut connection = end(role, 2 * FRAGMENTS);
            receive(&mut connection, &frame_to(role, first, b"x"), usize::MAX);
            let fragments = frame_to(role, CONTINUATION, b"x").repeat(FRAGMENTS);
            let cost = receive(&mut connection, &fragments, usize::MAX).cost;
            assert!(cost.bytes_current as usize <= 2 * FRAGMENTS + KIB, "{role:?}: {cost:?}");
            // While a buffer grows, the old and the new one both exist.
            assert!(cost.bytes_max as usize <= 4 * FRAGMENTS, "{role:?}: {cost:?}");
            // A message without an end fails at the limit, and all of it is freed.
            let held = connection.buffered_bytes();
            let outcome = receive(&mut connection, &fragments.repeat(2), usize::MAX);
            assert_eq!(outcome.violation, Some(Violation::TooBig));
            assert_eq!(connection.buffered_bytes(), 0);
            assert!(outcome.cost.bytes_current <= -(held as i64), "{role:?}: {:?}", outcome.cost);
        }
    }
}

/// CVE-2026-65623: the assembled part was scanned again for each fragment.
#[test]
fn reassembly_is_linear_in_bytes_however_many_fragments() {
    for role in ENDS {
        for fragment in [1, 64, 4096] {
            for fragments in [250, 500, 1_000, 2_000] {
                let mut bytes = frame_to(role, TEXT, b"");
                bytes.extend(frame_to(role, CONTINUATION, &vec![b'x'; fragment]).repeat(fragments));
                bytes.extend(frame_to(role, FIN | CONTINUATION, b""));
                let outcome = receive(&mut end(role, 16 * MIB), &bytes, usize::MAX);
                let length = fragment * fragments;
                let what = format!("{role:?}, {fragments} fragments of {fragment}: {:?}", outcome.cost);
                assert_eq!(outcome.message_bytes, length, "{what}");
                assert!(outcome.cost.bytes_total as usize <= 4 * length + 256, "{what}");
                assert!(outcome.cost.count_total <= 3 + u64::from(length.ilog2()), "{what}");
            }
        }
    }
}

/// The class of RUSTSEC-2026-0258: empty continuation frames of a message that never ends.
#[test]
fn empty_continuations_without_end_cost_nothing() {
    const FRAMES: usize = 200_000;
    for role in ENDS {
        let mut connection = end(role, 16 * MIB);
        receive(&mut connection, &frame_to(role, TEXT, b"{"), usize::MAX);
        let empty = frame_to(role, CONTINUATION, b"").repeat(FRAMES);
        let outcome = receive(&mut connection, &empty, usize::MAX);
        assert_eq!((outcome.cost.count_total, outcome.steps), (0, FRAMES), "{role:?}");
        let outcome = receive(&mut connection, &frame_to(role, FIN | CONTINUATION, b"}"), usize::MAX);
        assert_eq!((outcome.message_bytes, outcome.violation), (2, None), "{role:?}");
    }
}

/// CVE-2026-33151: a message declared how many parts would follow, and memory was allocated for them.
#[test]
fn counts_declared_in_a_message_allocate_nothing() {
    let mut session = session(|_| {});
    for text in [
        r#"51000000000-["x",{"_placeholder":true,"num":0}]"#,
        "451-[]",
        "2147483647",
        r#"{"type":"request","id":"1","channel":"c","attachments":4294967295,"length":1e300}"#,
        r#"{"type":"request","id":"1","channel":"c","payload":{"length":9007199254740991,"0":0}}"#,
        r#"{"type":"request","id":"1","channel":"c","payload":[{"_placeholder":true,"num":2147483647}]}"#,
    ] {
        let mut bytes = frame_to(Role::Server, FIN | TEXT, text.as_bytes());
        let mut out = Vec::with_capacity(KIB);
        let cost = measure(|| {
            let step = session.handle_input(NOW, &mut bytes, &mut out);
            if let Some(Action::Request(request)) = step.action {
                let _ = request.payload().parse();
            }
        });
        assert!(cost.bytes_total <= 2 * KIB as u64, "{text}: {cost:?}");
        // No parts are awaited: the next message is a message of its own, also a binary one.
        for first in [FIN | TEXT, FIN | BINARY] {
            let mut next = frame_to(Role::Server, first, br#"{"type":"request","id":"2","channel":"c"}"#);
            let step = session.handle_input(NOW, &mut next, &mut out);
            assert!(
                matches!(step.action, Some(Action::Request(request)) if request.raw_id() == "2"),
                "{text}"
            );
        }
        assert_eq!(session.buffered_bytes(), 0, "{text}");
    }
}

/// Hash flooding: a peer chooses names that collide in a table, or fill it.
#[test]
fn ids_and_channels_chosen_by_the_peer_fill_no_table() {
    let mut session = session(|_| {});
    let mut out = Vec::with_capacity(64 * KIB);
    let mut request = |n: usize, session: &mut Session| {
        let text = format!(r#"{{"type":"request","id":"{n:0128}","channel":"{n:0256}"}}"#);
        let mut bytes = frame_to(Role::Server, FIN | TEXT, text.as_bytes());
        out.clear();
        match session.handle_input(NOW, &mut bytes, &mut out).action {
            Some(Action::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    };
    // Ids can even be equal: they are kept in the requests, and never looked up.
    let cost = measure(|| {
        for n in 0..10_000 {
            let request = request(n % 100, &mut session);
            let slot = session.park(request, Millis(1), |_| ());
            assert!(slot.index() < 2, "a place is used again");
            session.answer_parked(NOW, slot, Err(HandlerError::new("")), &mut Vec::new());
        }
    });
    assert!(cost.bytes_current <= 0 && cost.bytes_max <= 8 * KIB as u64, "{cost:?}");
    // Channels without a handler.
    let peak = |channels: usize| {
        measure(|| {
            run_on_pipes(async {
                let server = server(config());
                let mut client = socket::Client::through_pipe(&server, 64 * KIB).await;
                for n in 0..channels {
                    let response = client.ask(&format!("{n:0256}"), Value::Null).await;
                    assert_eq!(response["error"]["code"], "UNKNOWN_CHANNEL");
                }
            });
        })
        .bytes_max
    };
    // The first allocates what the clients of a thread share.
    peak(1);
    let (few, many) = (peak(10), peak(2_000));
    assert!(many <= few + 16 * KIB as u64, "{many} bytes for 2 000 channels, {few} for 10");
    #[cfg(feature = "client")]
    {
        // Responses to requests that were never made.
        let mut caller = Caller::new(CallerLimits::default(), || [0; 4], NOW.at);
        let cost = measure(|| {
            for n in 0..10_000 {
                let id = Uuid::from_random(u128::to_be_bytes(n));
                let text = format!(r#"{{"type":"response","id":"{id}","channel":"c","timestamp":1}}"#);
                let mut bytes = frame_to(Role::Client, FIN | TEXT, text.as_bytes());
                assert!(caller.handle_input(NOW, &mut bytes, &mut Vec::new()).action.is_none());
            }
        });
        assert_eq!((caller.pending(), cost.bytes_current), (0, 0));
    }
    // Every table uses the standard library's randomly seeded hasher.
    let rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    for path in sources("src".as_ref()).into_iter().filter(rust) {
        // The trait is also how a key is hashed with the seeds of the standard library.
        let text = std::fs::read_to_string(&path).expect("a source is text").replace("BuildHasher", "");
        for word in ["Hasher", "with_hasher", "FxHash", "fnv"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}
