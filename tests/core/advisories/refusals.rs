//! What is refused: heads, frames, other sites.

use serde_json::Value;
use switchboard::protocol::connection::{CloseCode, Event, Violation};
use switchboard::protocol::frame::{self, FrameError, Header, Role};
use switchboard::protocol::handshake::{self, AccessRules, Head, Refusal};

use super::setup::*;
use crate::support::frames::*;
use crate::support::socket::{self, config, upgrade, with_pages};

/// A head with more fields than a fixed table has places for. hyper accepts at most 100.
#[test]
fn a_hundred_fields_pass_and_101_are_refused() {
    run(async {
        let (_server, port) = socket::start(config()).await;
        // The upgrade itself has five.
        let with = |fields: usize| (5..fields).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
        for (fields, expected) in [(100, 101), (101, 431), (1_000, 431)] {
            let answer = answers(port, upgrade(&with(fields)).as_bytes()).await;
            assert_eq!(status(&answer), expected, "{fields} fields: {answer}");
        }
        socket::Client::connect(port).await.assert_alive().await;
    });
}

/// CVE-2026-45736: a close frame was sent with uninitialised memory.
#[test]
fn a_close_frame_holds_a_code_and_a_reason_and_nothing_else() {
    const SECRET: [u8; 125] = [b'S'; 125];
    for role in ENDS {
        let far = if role == Role::Server { Role::Client } else { Role::Server };
        // All buffers that are reused, the machine's and the caller's, are full of bytes that must not be sent.
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
            // The answer to a close frame repeats its code, but not its reason.
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
            header_to(role, FIN | CONTINUATION, 1 << 40),
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
                        let mut bytes = header_to(role, first, length);
                        bytes.extend_from_slice(&[b'x'; 1_000]);
                        let outcome = receive(&mut connection, &bytes, piece);
                        let what = format!("{role:?}, {length} after {held}, {max_message_bytes} allowed");
                        let expected = match length {
                            HALF.. => Some(Violation::Frame(FrameError::BadLength)),
                            _ if max_message_bytes < usize::MAX => Some(Violation::TooBig),
                            // Where a usize is shorter, no message can be that long.
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
            let outcome = receive(&mut end(role, usize::MAX), &header_to(role, first, HALF - 1), 1);
            assert_eq!(outcome.violation, Some(Violation::Frame(FrameError::ControlTooLong)));
        }
    }
    // The outbox computes with the lengths of its frames.
    let frames = [header_to(Role::Client, BINARY, HALF - 1), header_to(Role::Client, BINARY, HALF - 1)];
    let frames = frames.concat();
    for sent in 0..=frames.len() + 1 {
        assert!(frame::rest_of_current(&frames, sent) <= frames.len());
    }
}

/// RUSTSEC-2021-0020, and requests hidden in the body of an upgrade: two parties disagree on where a request
/// ends.
#[test]
fn bytes_after_a_request_are_never_read_as_another_request() {
    run(async {
        let config = with_pages(config());
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
            // An upgrade has no body: frames follow, and no frame begins like this.
            ("Content-Length: 0\r\n", hidden, "101"),
        ];
        for (fields, early, expected) in upgrades {
            let answer = answers(port, (upgrade(fields) + early).as_bytes()).await;
            assert_eq!(status(&answer).to_string(), expected, "{fields}{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}{answer}");
        }
        // Ordinary requests: one per connection, whatever they declare about their length and keep-alive.
        let served = if cfg!(feature = "pages") { 200 } else { 426 };
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
                assert!([served, 400, 405].contains(&status(&answer)), "{request}{answer}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{request}{answer}");
            }
        }
    });
}

/// A compressed message can expand to any size. Compression needs an extension, and none is ever agreed on.
#[test]
fn rsv1_is_refused_as_no_extension_is_agreed_on() {
    // 10 MB of zeroes would compress to 10 KB; the content does not matter, as it is never unpacked.
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
    #[cfg(feature = "client")]
    {
        // Our client accepts no response that turns one on.
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
}

/// CVE-2025-24964 and CVE-2026-25253: pages of other sites, and of names that were rebound, talked to a server on
/// localhost. A request without `Origin` is not a browser's: `Host` and token are still checked.
#[test]
fn other_sites_and_rebound_names_are_refused() {
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
        // A token that the page has obtained does not change its origin.
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
        let config = with_pages(config().token("s3cret"));
        let (_server, port) = socket::start(config).await;
        for path in ["/", "/client.js", "/react.js", "/metrics", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
            assert_eq!(status(&answers(port, request.as_bytes()).await), 403, "{path}");
        }
        let mut client = socket::Client::connect(port).await;
        for channel in ["echo", "system:ping", "unknown"] {
            assert_eq!(client.ask(channel, Value::Null).await["error"]["code"], "UNAUTHORIZED", "{channel}");
        }
    });
}
