//! What went wrong elsewhere, held here: one test for each class of published advisory against a WebSocket or HTTP
//! implementation. The doc line names the advisory, the name says what holds here.
//!
//! Cost is counted in work, never in seconds: bytes given to a machine, allocations, bytes allocated in all (`bytes_total`,
//! so that memory moved again and again shows) and held at once (`bytes_max`). The allocator that counts is of the crate
//! `allocation-counter`, as one of our own would need `unsafe`; it counts each thread by itself, so tests do not disturb
//! each other. How often the bytes of a text are looked at is counted beside the machine, in `src/protocol/connection.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use serde_json::{Value, json};
use switchboard::protocol::caller::{Caller, CallerLimits};
use switchboard::protocol::connection::{CloseCode, Connection, Event, Violation};
use switchboard::protocol::frame::{self, FrameError, Header, Role};
use switchboard::protocol::handshake::{self, AccessRules, Head, Refusal};
use switchboard::protocol::session::{Action, Rules, Session};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use switchboard::{HandlerError, Payload, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use crate::support::socket::{self, config, pipe, server, within};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const NOW: Now = Now { at: Millis(0), unix_ms: 0 };

// First bytes of frames.
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// Both ends of a connection: what the one must bear from clients, the other must bear from servers.
const ENDS: [Role; 2] = [Role::Server, Role::Client];

fn end(role: Role, max_message_bytes: usize) -> Connection {
    match role {
        Role::Server => Connection::server(max_message_bytes),
        Role::Client => Connection::client(max_message_bytes, || [0; 4]),
    }
}

/// The start of a frame for this end, in the shortest form of its length.
fn announcement(to: Role, first: u8, length: u64) -> Vec<u8> {
    let masked = if to == Role::Server { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(masked | length as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    if to == Role::Server {
        // A mask of zeroes leaves the payload as it is.
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

fn frame_to(to: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = announcement(to, first, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// What a connection did with bytes.
#[derive(Debug, Default)]
struct Outcome {
    /// Calls of the machine.
    steps: usize,
    /// Bytes of the messages that came of it.
    message_bytes: usize,
    violation: Option<Violation>,
    cost: AllocationInfo,
}

/// Gives bytes to a connection in pieces, each byte once. A machine that wants to see a byte again fails here.
fn receive(connection: &mut Connection, bytes: &[u8], piece: usize) -> Outcome {
    let mut bytes = bytes.to_vec();
    let mut outcome = Outcome::default();
    let mut out = Vec::with_capacity(4 * KIB);
    outcome.cost = measure(|| {
        for piece in bytes.chunks_mut(piece) {
            let mut used = 0;
            while used < piece.len() {
                out.clear();
                let received = connection.receive(&mut piece[used..], &mut out);
                assert!(received.consumed > 0, "no progress: the byte is wanted again");
                used += received.consumed;
                outcome.steps += 1;
                match received.event {
                    Some(Event::Text(text)) => outcome.message_bytes += text.len(),
                    Some(Event::Binary(bytes)) => outcome.message_bytes += bytes.len(),
                    Some(Event::Failed(violation)) => outcome.violation = Some(violation),
                    Some(Event::Closed { .. }) | None => {}
                }
            }
        }
    });
    outcome
}

fn session(change: impl FnOnce(&mut Rules)) -> Session {
    let mut rules = Rules::default();
    rules.limits.rate_max_requests = u32::MAX;
    change(&mut rules);
    let authenticated = rules.token.is_none();
    Session::new(Arc::new(rules), Uuid::from_random([7; 16]), authenticated, NOW.at)
}

/// Runs something on this thread alone, whose allocations are then all of them.
fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// The same for what stays in memory: the clock goes on only when nobody has anything to do.
fn run_on_pipes<T>(future: impl Future<Output = T>) -> T {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime").block_on(future)
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The head of an upgrade with more fields.
fn upgrade(more: &str) -> String {
    format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{more}\r\n")
}

/// What a server answers on a connection of its own until the connection ends or nothing more comes.
async fn answers(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    // The server may have seen enough before it is all sent.
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// A client's end of a pipe whose upgrade was answered and whose `server:connected` was taken.
async fn upgraded(server: &Server, pipe_bytes: usize) -> DuplexStream {
    let mut near = pipe(server, pipe_bytes);
    near.write_all(upgrade("").as_bytes()).await.expect("the server reads");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        let byte = within("server:connected", near.read_u8()).await;
        bytes.push(byte.expect("the upgrade is accepted"));
    }
    near
}

/// Writes until the other end takes no more. `false` if it took everything.
async fn stalls(near: &mut DuplexStream, bytes: &[u8]) -> bool {
    // On a paused clock the time is over once nobody has anything to do.
    tokio::time::timeout(Duration::from_millis(1), near.write_all(bytes)).await.is_err()
}

/// CVE-2023-43669: input that was not complete was parsed again from its start on every read.
#[test]
fn input_is_taken_once_however_small_the_reads_are() {
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
fn a_head_that_comes_byte_by_byte_costs_what_it_costs_at_once() {
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
    // The first brings what the clients of a thread share.
    cost(KIB);
    let (at_once, by_bytes) = (cost(64 * KIB), cost(1));
    assert!(by_bytes <= at_once + 2 * head.len(), "{by_bytes} bytes byte by byte, {at_once} at once");
}

/// CVE-2022-35922: memory was taken for the length that a frame's header announced.
#[test]
fn an_announced_length_takes_no_memory() {
    for role in ENDS {
        for first in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
            for length in [126, 64 * KIB, 16 * MIB] {
                let mut connection = end(role, 16 * MIB);
                let mut bytes = announcement(role, first, length as u64);
                bytes.push(b'x');
                let outcome = receive(&mut connection, &bytes, usize::MAX);
                let what = format!("{role:?}, {length} bytes announced: {:?}", outcome.cost);
                assert_eq!(outcome.violation, None, "{what}");
                assert!(outcome.cost.bytes_total <= 128, "{what}");
                // What comes is held, and at most as much again.
                let outcome = receive(&mut connection, &[b'x'; 100], 1);
                assert!(outcome.cost.bytes_current <= 256, "{what}");
            }
            let outcome = receive(&mut end(role, 16 * MIB), &announcement(role, first, 1 << 40), usize::MAX);
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

/// The same class one layer up: a message that is read into values takes many times its own length. What this looks into is
/// from a client that has not shown the token, and from a server that names a call in an error's details.
#[test]
fn a_stranger_is_not_worth_more_memory_than_its_message() {
    let zeroes = "0,".repeat(500_000);
    for value in [
        format!("[{zeroes}0]"),
        format!(r#"{{"token":[{zeroes}0],"requestId":[{zeroes}0]}}"#),
        format!(r#"{{{}"token":"","requestId":""}}"#, r#""a":0,"#.repeat(100_000)),
    ] {
        let text = format!(r#"{{"type":"request","id":"1","channel":"auth","payload":{value}}}"#);
        let mut bytes = frame_to(Role::Server, FIN | TEXT, text.as_bytes());
        let mut session = session(|rules| rules.token = Some("s3cret".to_owned()));
        let mut out = Vec::with_capacity(4 * KIB);
        let cost = measure(|| {
            assert!(session.handle_input(NOW, &mut bytes, &mut out).action.is_none());
        });
        assert!(String::from_utf8_lossy(&out).contains("UNAUTHORIZED"));
        assert!(cost.bytes_total <= 4 * KIB as u64, "{cost:?} for {} bytes", text.len());

        let text = format!(r#"{{"type":"response","id":"?","channel":"c","error":{{"details":{value}}}}}"#);
        let mut bytes = frame_to(Role::Client, FIN | TEXT, text.as_bytes());
        let mut caller = Caller::new(CallerLimits::default(), || [0; 4], NOW.at);
        let cost = measure(|| assert!(caller.handle_input(NOW, &mut bytes, &mut out).1.is_none()));
        // The message is kept once, for what may be handed on of it.
        let allowed = text.len() + 4 * KIB;
        assert!(cost.bytes_total as usize <= allowed, "{cost:?} for {} bytes", text.len());
    }
}

/// CVE-2020-35896: what a peer does not read was kept without limit.
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
                assert!(stalls(&mut near, flood).await, "it is not read from while it does not read");
                assert_eq!(server.client_count(), 1);
            });
        });
        assert!(cost.bytes_max <= 2 * MIB as u64, "{cost:?} for a flood of {} bytes", flood.len());
    }
}

/// CVE-2020-35896, with what a client has not even asked for.
#[test]
fn events_for_a_client_that_never_reads_end_at_the_limit() {
    let (left, mut leaves) = socket::calls();
    let mut config = config().on_disconnection(left);
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
            leaves.next().await;
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
    // On a thread of its own, whose memory is not the client's.
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
        let accept = handshake::accept_key(key.as_bytes());
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
            // Nothing is awaited between the two, so the client's task has read nothing yet.
            client.on_message("done", move |_| said(()));
            says.next().await;
        });
    });
    drop(server.join().expect("the server is content"));
    // 33 MB of pongs, of which the system holds some, and 1 MiB may wait.
    assert!(cost.bytes_max <= 3 * MIB as u64, "{cost:?}");
}

/// CVE-2026-48779: each of many tiny fragments was kept in a box of its own, for a message that never ended.
#[test]
fn fragments_of_one_byte_are_held_as_their_bytes_and_given_back() {
    const FRAGMENTS: usize = 100_000;
    for role in ENDS {
        for first in [TEXT, BINARY] {
            let mut connection = end(role, 2 * FRAGMENTS);
            receive(&mut connection, &frame_to(role, first, b"x"), usize::MAX);
            let fragments = frame_to(role, CONTINUATION, b"x").repeat(FRAGMENTS);
            let cost = receive(&mut connection, &fragments, usize::MAX).cost;
            assert!(cost.bytes_current as usize <= 2 * FRAGMENTS + KIB, "{role:?}: {cost:?}");
            // While memory grows, the old and the new are both there.
            assert!(cost.bytes_max as usize <= 4 * FRAGMENTS, "{role:?}: {cost:?}");
            // Without an end of its own the message ends at the limit, and all of it is given back.
            let held = connection.buffered_bytes();
            let outcome = receive(&mut connection, &fragments.repeat(2), usize::MAX);
            assert_eq!(outcome.violation, Some(Violation::TooBig));
            assert_eq!(connection.buffered_bytes(), 0);
            assert!(outcome.cost.bytes_current <= -(held as i64), "{role:?}: {:?}", outcome.cost);
        }
    }
}

/// CVE-2026-65623: what had been put together was gone through again for each fragment.
#[test]
fn reassembly_is_linear_in_the_bytes_however_many_the_fragments_are() {
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

/// The class of RUSTSEC-2026-0258: frames without content that continue what never ends.
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

/// CVE-2026-33151: a message said how many parts would follow, and that was believed.
#[test]
fn counts_that_a_message_declares_are_not_believed() {
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
        // Nothing is waited for: the next message is a message, and so is a binary one.
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

/// A head with more fields than a fixed table has places for: 101, where 100 are the most that hyper takes.
#[test]
fn a_hundred_fields_pass_and_101_are_refused() {
    run(async {
        let (_server, port) = socket::start(config()).await;
        // An upgrade has five.
        let with = |fields: usize| (5..fields).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
        for (fields, expected) in [(100, 101), (101, 431), (1_000, 431)] {
            let answer = answers(port, upgrade(&with(fields)).as_bytes()).await;
            assert_eq!(status(&answer), expected, "{fields} fields: {answer}");
        }
        socket::Client::connect(port).await.assert_alive().await;
    });
}

/// CVE-2026-45736: a close frame went out with bytes of memory that nobody had written to.
#[test]
fn a_close_frame_holds_a_code_and_a_reason_and_nothing_else() {
    const SECRET: [u8; 125] = [b'S'; 125];
    for role in ENDS {
        let far = if role == Role::Server { Role::Client } else { Role::Server };
        // Whatever may be used again is full of what must not get out: the machine's buffers, and the caller's.
        let filled = || {
            let mut connection = end(role, 16 * MIB);
            for first in [FIN | PING, FIN | TEXT] {
                receive(&mut connection, &frame_to(role, first, &SECRET), 1);
            }
            receive(&mut connection, &frame_to(role, TEXT, &SECRET), 1);
            let mut out = SECRET.repeat(4);
            out.clear();
            (connection, out)
        };
        let check = |out: &mut [u8], code: Option<u16>, reason: &str| {
            let header = Header::decode(far, out).expect("a frame").expect("a whole header");
            let (_, payload) = out.split_at_mut(header.header_bytes);
            if let Some(mask) = header.mask {
                frame::unmask(payload, mask, 0);
            }
            assert_eq!((header.opcode, header.length), (frame::CLOSE, payload.len() as u64));
            let code = code.map(u16::to_be_bytes);
            let expected = [code.as_ref().map_or(&[][..], |code| code), reason.as_bytes()].concat();
            assert_eq!(payload, expected, "{role:?}, {code:?} {reason:?}");
        };
        for length in 0..300 {
            // Our own close: the reason is cut where a close frame ends, and never inside a character.
            for (reason, room) in [("r".repeat(length), 123), ("é".repeat(length), 122)] {
                let (mut connection, mut out) = filled();
                connection.close(CloseCode::Away, &reason, &mut out);
                check(&mut out, Some(1001), &reason[..reason.len().min(room)]);
            }
            // The answer to the other end's close repeats its code, and nothing of its reason.
            if length <= 123 {
                for piece in [1, usize::MAX] {
                    let (mut connection, mut out) = filled();
                    let mut bytes = frame_to(role, FIN | CLOSE, &[&[0x03, 0xe8], &SECRET[..length]].concat());
                    for piece in bytes.chunks_mut(piece) {
                        let mut used = 0;
                        while used < piece.len() {
                            used += connection.receive(&mut piece[used..], &mut out).consumed;
                        }
                    }
                    check(&mut out, Some(1000), "");
                }
            }
        }
        let (mut connection, mut out) = filled();
        connection.receive(&mut frame_to(role, FIN | CLOSE, b""), &mut out);
        check(&mut out, None, "");
        for violation in [
            frame_to(role, FIN | RSV1 | TEXT, &SECRET),
            frame_to(role, FIN | TEXT, &SECRET),
            frame_to(role, FIN | CONTINUATION, &[b"\xff", &SECRET[..]].concat()),
            frame_to(role, FIN | CLOSE, b"\x03"),
            announcement(role, FIN | CONTINUATION, 1 << 40),
        ] {
            let (mut connection, mut out) = filled();
            let mut bytes = violation.clone();
            let received = connection.receive(&mut bytes, &mut out);
            let Some(Event::Failed(violation)) = received.event else { panic!("{violation:?} passes") };
            check(&mut out, Some(violation.code().into()), violation.as_str());
        }
    }
}

/// The class of RUSTSEC-2026-0007: sums of lengths that overflow.
#[test]
fn lengths_near_2_to_63_neither_overflow_nor_take_memory() {
    const HALF: u64 = 1 << 63;
    for role in ENDS {
        for max_message_bytes in [16 * MIB, usize::MAX] {
            for held in [0, 10] {
                for length in [HALF - 11, HALF - 1, HALF, HALF + 1, u64::MAX - 10, u64::MAX] {
                    for piece in [1, usize::MAX] {
                        let mut connection = end(role, max_message_bytes);
                        let mut first = BINARY;
                        if held > 0 {
                            receive(&mut connection, &frame_to(role, BINARY, &vec![b'x'; held]), usize::MAX);
                            first = CONTINUATION;
                        }
                        let mut bytes = announcement(role, first, length);
                        bytes.extend_from_slice(&[b'x'; 1_000]);
                        let outcome = receive(&mut connection, &bytes, piece);
                        let what = format!("{role:?}, {length} behind {held}, {max_message_bytes} allowed");
                        let expected = match length {
                            HALF.. => Some(Violation::Frame(FrameError::BadLength)),
                            _ if max_message_bytes < usize::MAX => Some(Violation::TooBig),
                            // No message may be that long where a usize is shorter.
                            _ if usize::BITS < 64 => Some(Violation::TooBig),
                            _ => None,
                        };
                        assert_eq!(outcome.violation, expected, "{what}");
                        assert!(outcome.cost.bytes_total <= 8 * KIB as u64, "{what}: {:?}", outcome.cost);
                    }
                }
            }
        }
        for first in [FIN | CLOSE, FIN | PING] {
            let outcome = receive(&mut end(role, usize::MAX), &announcement(role, first, HALF - 1), 1);
            assert_eq!(outcome.violation, Some(Violation::Frame(FrameError::ControlTooLong)));
        }
    }
    // What an outbox asks of frames that it was given.
    let frames = [announcement(Role::Client, BINARY, HALF - 1), announcement(Role::Client, BINARY, HALF - 1)];
    let frames = frames.concat();
    for sent in 0..=frames.len() + 1 {
        assert!(frame::rest_of_current(&frames, sent) <= frames.len());
    }
}

/// RUSTSEC-2021-0020, and requests that hide in the body of an upgrade: two parties that disagree on where a request
/// ends.
#[test]
fn nothing_behind_a_request_is_taken_for_another_one() {
    run(async {
        let mut config = config();
        config.serve_health = true;
        let (_server, port) = socket::start(config).await;
        let hidden = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let length = format!("Content-Length: {}\r\n", hidden.len());
        let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
        let upgrades: [(&str, &str, &str); 16] = [
            (&length, hidden, "400"),
            ("Content-Length: 5\r\n", hidden, "400"),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", hidden, "400"),
            ("Content-Length: 0\r\nContent-Length: 44\r\n", hidden, "400"),
            ("Content-Length: 0, 44\r\n", hidden, "400"),
            ("Content-Length: +0\r\n", hidden, "400"),
            ("Content-Length: -1\r\n", hidden, "400"),
            ("Content-Length: 0x0\r\n", hidden, "400"),
            ("Transfer-Encoding: chunked\r\n", &chunked, "400"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &chunked, "400"),
            ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &chunked, "400"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunked, "400"),
            ("Transfer-Encoding: xchunked\r\n", &chunked, "400"),
            ("Transfer-Encoding : chunked\r\n", &chunked, "400"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", &chunked, "400"),
            // No body: what follows is frames, and no frame begins like this.
            ("Content-Length: 0\r\n", hidden, "101"),
        ];
        for (fields, behind, expected) in upgrades {
            let answer = answers(port, (upgrade(fields) + behind).as_bytes()).await;
            assert_eq!(status(&answer).to_string(), expected, "{fields}{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}{answer}");
        }
        // Ordinary requests: one a connection, whatever they say about their length and about going on.
        for fields in [
            "Connection: keep-alive\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        ] {
            for method in ["GET", "POST"] {
                let request =
                    format!("{method} /healthz HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{chunked}{hidden}");
                let answer = answers(port, request.as_bytes()).await;
                assert!(matches!(status(&answer), 200 | 400 | 405), "{request}{answer}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request}{answer}");
            }
        }
    });
}

/// Compressed messages, whose length says nothing about what becomes of them, need an extension that is never agreed on.
#[test]
fn rsv1_is_refused_as_no_extension_is_agreed_on() {
    // 10 MB of zeroes would be some 10 KB; what they are does not matter, as nobody unpacks them.
    let packed = vec![0_u8; 10 * KIB];
    for role in ENDS {
        for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, 10] {
            for reserved in 1..8 {
                for fin in [0, FIN] {
                    let bytes = frame_to(role, fin | reserved << 4 | opcode, &packed);
                    for piece in [1, usize::MAX] {
                        let outcome = receive(&mut end(role, 16 * MIB), &bytes, piece);
                        assert_eq!(outcome.violation, Some(Violation::Frame(FrameError::ReservedBit)));
                        assert_eq!(outcome.cost.bytes_total, 0, "{:?}", outcome.cost);
                    }
                }
            }
        }
    }
    run(async {
        let (_server, port) = socket::start(config()).await;
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let answer = answers(port, upgrade(offer).as_bytes()).await;
        assert_eq!(status(&answer), 101, "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("sec-websocket-extensions"), "{answer}");
    });
    // And our client takes no answer that turns one on.
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let accept = handshake::accept_key(key.as_bytes());
    let mut headers: Vec<(&str, &[u8])> = vec![
        ("upgrade", b"websocket"),
        ("connection", b"Upgrade"),
        ("sec-websocket-accept", accept.as_bytes()),
    ];
    let check = |headers: &[(&str, &[u8])]| {
        let head = Head { method: "", http_1_1: true, query: None, headers: headers.to_vec() };
        handshake::check_answer(&head, key)
    };
    assert_eq!(check(&headers), Ok(()));
    headers.push(("sec-websocket-extensions", b"permessage-deflate"));
    assert!(check(&headers).is_err());
}

/// CVE-2025-24964 and CVE-2026-25253: pages of other sites, and of names that were made to point here, talked to a server on
/// localhost. A request without `Origin` is not a browser's: `Host` and token are asked of it all the same.
#[test]
fn pages_of_other_sites_and_rebound_names_do_not_get_in() {
    let rules = AccessRules { loopback: true, ..AccessRules::default() };
    let with_token = AccessRules { token: Some("s3cret"), ..rules };
    let ask = |rules: &AccessRules<'_>, fields: &[(&str, &str)]| {
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("upgrade", b"websocket"),
            ("connection", b"Upgrade"),
            ("sec-websocket-version", b"13"),
            ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(fields.iter().map(|(name, value)| (*name, value.as_bytes())));
        let head = Head { method: "GET", http_1_1: true, query: None, headers };
        handshake::check(&head, rules).map(|accepted| accepted.authenticated)
    };
    let (here, page) = (("host", "localhost:3001"), ("origin", "http://localhost:5173"));
    assert_eq!(ask(&rules, &[here, page]), Ok(true));
    for origin in [
        "https://evil.example",
        "null",
        "",
        "http://localhost.evil.example",
        "file://",
        "http://127.0.0.1.nip.io",
    ] {
        let evil = ("origin", origin);
        assert_eq!(ask(&rules, &[here, evil]), Err(Refusal::Origin), "{origin}");
        // A token that the page has got hold of does not change where it comes from.
        let token = ("authorization", "Bearer s3cret");
        assert_eq!(ask(&with_token, &[here, evil, token]), Err(Refusal::Origin), "{origin}");
        assert_eq!(ask(&rules, &[here, page, evil]), Err(Refusal::Origin), "{origin}, one of two");
    }
    for host in [
        "evil.example",
        "evil.example:3001",
        "localhost.evil.example",
        "127.0.0.1.nip.io:3001",
        "0.0.0.0",
        "",
    ] {
        let rebound = ("host", host);
        let same = format!("http://{host}");
        assert_eq!(ask(&rules, &[rebound]), Err(Refusal::Host), "{host}, Origin left out");
        assert_eq!(ask(&rules, &[rebound, ("origin", &same)]), Err(Refusal::Host), "{host}, its own origin");
        assert_eq!(ask(&rules, &[rebound, page]), Err(Refusal::Host), "{host}, a good origin");
    }
    assert_eq!(ask(&rules, &[here]), Ok(true), "no browser");
    assert_eq!(ask(&with_token, &[here]), Ok(false), "no browser, and no token yet");
    assert_eq!(ask(&with_token, &[here, ("authorization", "Bearer guess")]), Err(Refusal::Token));

    run(async {
        let mut config = config().token("s3cret");
        (config.serve_console, config.serve_client, config.serve_metrics) = (true, true, true);
        config.serve_health = true;
        let (_server, port) = socket::start(config).await;
        for path in ["/", "/client.js", "/react.js", "/metrics", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
            assert_eq!(status(&answers(port, request.as_bytes()).await), 403, "{path}");
        }
        let mut client = socket::Client::connect(port).await;
        for channel in ["echo", "system:ping", "nobody"] {
            assert_eq!(client.ask(channel, Value::Null).await["error"]["code"], "UNAUTHORIZED", "{channel}");
        }
    });
}

/// Hash flooding: names that a peer chooses so that they collide in a table, or fill it.
#[test]
fn ids_and_channels_of_the_peers_choice_fill_no_table() {
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
    // Ids may even be the same: they are kept in the requests, and looked up nowhere.
    let cost = measure(|| {
        for n in 0..10_000 {
            let request = request(n % 100, &mut session);
            let slot = session.park(request, Millis(1));
            assert!(slot.index() < 2, "a place is used again");
            session.answer_parked(NOW, slot, Err(HandlerError::new("")), &mut Vec::new());
        }
    });
    assert!(cost.bytes_current <= 0 && cost.bytes_max <= 8 * KIB as u64, "{cost:?}");
    // Channels that nobody serves, asked for on a server.
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
    // The first brings what the clients of a thread share.
    peak(1);
    let (few, many) = (peak(10), peak(2_000));
    assert!(many <= few + 16 * KIB as u64, "{many} bytes for 2 000 channels, {few} for 10");
    // Answers that a client never asked for.
    let mut caller = Caller::new(CallerLimits::default(), || [0; 4], NOW.at);
    let cost = measure(|| {
        for n in 0..10_000 {
            let id = Uuid::from_random(u128::to_be_bytes(n));
            let text = format!(r#"{{"type":"response","id":"{id}","channel":"c","timestamp":1}}"#);
            let mut bytes = frame_to(Role::Client, FIN | TEXT, text.as_bytes());
            assert!(caller.handle_input(NOW, &mut bytes, &mut Vec::new()).1.is_none());
        }
    });
    assert_eq!((caller.pending(), cost.bytes_current), (0, 0));
    // Tables that exist are seeded anew in each: the standard library's own hasher, and no other.
    for path in sources("src".as_ref()) {
        let text = std::fs::read_to_string(&path).expect("a source is text");
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
