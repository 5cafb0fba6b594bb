//! Violations of RFC 6455, closing, silence, the end of the server.

use switchboard::protocol::connection::CloseCode;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::Rules;

use switchboard::protocol::frame::Role;

use super::setup::*;
use crate::support::frames::*;
use crate::support::pair::Network;
use crate::support::random::Rng;

// Violations of RFC 6455.

#[test]
fn a_violation_closes_at_once_with_its_code() {
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("reserved bit", frame(0x40 | FIN | TEXT, b""), 1002),
        ("reserved bit in a control frame", frame(0x10 | FIN | PING, b""), 1002),
        ("reserved opcode", frame(FIN | 0x3, b""), 1002),
        ("reserved control opcode", frame(FIN | 0xb, b""), 1002),
        ("not masked", vec![FIN | TEXT, 0], 1002),
        ("ping of 126 bytes", frame(FIN | PING, &[0; 126])[..2].to_vec(), 1002),
        ("ping in fragments", frame(PING, b"")[..2].to_vec(), 1002),
        ("close in fragments", frame(CLOSE, b"")[..2].to_vec(), 1002),
        ("stray continuation", frame(FIN | CONTINUATION, b""), 1002),
        ("stray first continuation", frame(CONTINUATION, b"x"), 1002),
        (
            "continuation after a whole message",
            [text_frame("{}"), frame(FIN | CONTINUATION, b"")].concat(),
            1002,
        ),
        ("message inside a message", [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat(), 1002),
        ("binary inside a text", [frame(TEXT, b"{"), frame(FIN | BINARY, b"}")].concat(), 1002),
        ("16-bit length for 125", vec![FIN | TEXT, 0xfe, 0, 125, 0, 0, 0, 0], 1002),
        (
            "64-bit length for 65535",
            [vec![FIN | TEXT, 0xff], 0xffff_u64.to_be_bytes().to_vec(), vec![0; 4]].concat(),
            1002,
        ),
        ("length with its highest bit set", header_to(Role::Server, FIN | TEXT, 1 << 63), 1002),
        ("close of one byte", close(&[3]), 1002),
        ("close reason that is not UTF-8", close(&[3, 232, 0xff]), 1007),
        ("close reason that is cut", close(&[3, 232, 0xc3]), 1007),
        ("text that is not UTF-8", frame(FIN | TEXT, b"\xff"), 1007),
        ("text that is cut", frame(FIN | TEXT, b"{\"\xc3"), 1007),
        ("surrogate in UTF-8", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        ("overlong UTF-8", frame(FIN | TEXT, b"\xc0\x80"), 1007),
        ("past U+10FFFF", frame(FIN | TEXT, b"\xf4\x90\x80\x80"), 1007),
        ("bad byte of a long frame", frame(FIN | TEXT, &[0xff; 1000])[..9].to_vec(), 1007),
        ("bad byte in a fragment", frame(TEXT, b"\xff"), 1007),
        ("bad byte deep in a fragment", frame(TEXT, b"{\"\xc3\x28......")[..11].to_vec(), 1007),
        (
            "character broken off by the next fragment",
            [frame(TEXT, b"\xe2\x82"), frame(CONTINUATION, b"x")].concat(),
            1007,
        ),
        (
            "character broken off by the end",
            [frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"")].concat(),
            1007,
        ),
    ];
    check(&Rules::default(), |pair| {
        // Only the network is used: each case has its own connection.
        let network = pair.network();
        for (what, bytes, code) in &cases {
            let mut pair = connected(&Rules::default(), network);
            pair.park("parked");
            pair.request("1", "parked", None);
            pair.send_raw(bytes);
            assert_eq!(pair.closed().map(|(code, _)| code), Some(*code), "{what}");
            assert!(pair.session.is_finished(), "{what}");
            assert_eq!(pair.session.in_flight(), 0, "{what}");
            assert_eq!(pair.session.buffered_bytes(), 0, "{what}");
            assert_closed(&mut pair, *code);
        }
    });
}

#[test]
fn valid_input_next_to_each_violation_passes() {
    check(&Rules::default(), |pair| {
        pair.send_raw(&frame(FIN | PING, &[b'x'; 125]));
        pair.send_raw(&frame(FIN | PING, b""));
        assert_eq!(pair.pongs(), 2);
        for text in ["\u{10ffff}", "\u{d7ff}\u{e000}", "\u{80}", "\u{800}", "\u{10000}"] {
            let payload = format!("\"{text}\"");
            pair.request("1", "echo", Some(&payload));
            assert_eq!(pair.response().payload(), Some(payload.as_str()));
        }
        // Half a character can wait for its other half.
        pair.send_raw(&frame(TEXT, b"{\"type\":\"request\",\"channel\":\"echo\",\"id\":\"\xe2\x82"));
        assert_eq!(pair.closed(), None);
        pair.send_raw(&frame(FIN | CONTINUATION, b"\xac\"}"));
        assert_eq!(pair.response().id(), "€");
        assert_alive(pair);
    });
}

// The client closes.

#[test]
fn a_close_frame_is_answered_with_its_code_and_ends_the_session() {
    for (payload, answer) in [
        (&[][..], Some(1005)),
        (&1000_u16.to_be_bytes(), Some(1000)),
        (&1003_u16.to_be_bytes(), Some(1003)),
        (&1007_u16.to_be_bytes(), Some(1007)),
        (&1014_u16.to_be_bytes(), Some(1014)),
        (&3000_u16.to_be_bytes(), Some(3000)),
        (&4999_u16.to_be_bytes(), Some(4999)),
        (b"\x03\xe8bye \xe2\x82\xac", Some(1000)),
        (&0_u16.to_be_bytes(), None),
        (&999_u16.to_be_bytes(), None),
        (&1004_u16.to_be_bytes(), None),
        (&1005_u16.to_be_bytes(), None),
        (&1006_u16.to_be_bytes(), None),
        (&1015_u16.to_be_bytes(), None),
        (&2999_u16.to_be_bytes(), None),
        (&5000_u16.to_be_bytes(), None),
    ] {
        check(&Rules::default(), |pair| {
            pair.park("parked");
            pair.request("1", "parked", None);
            pair.send_raw(&frame(FIN | CLOSE, payload));
            assert!(pair.session.is_finished());
            assert_eq!(pair.session.in_flight(), 0);
            assert_closed(pair, answer.unwrap_or(1002));
        });
    }
}

#[test]
fn a_client_that_closes_receives_a_close_frame() {
    check(&Rules::default(), |pair| {
        pair.close(CloseCode::Normal, "bye");
        assert_eq!(pair.closed(), Some((1000, "")));
        assert!(pair.session.is_finished());
    });
}

// Silence.

#[test]
fn a_silent_client_is_pinged_every_30_seconds_and_stays_if_it_answers() {
    check(&Rules::default(), |pair| {
        pair.advance(28_999 * MS);
        assert_eq!(pair.pings(), 0);
        pair.advance(MS);
        assert_eq!(pair.pings(), 1);
        pair.advance(seconds(3600));
        assert_eq!(pair.pings(), 121);
        assert_alive(pair);
        pair.advance(29_999 * MS);
        assert_eq!(pair.pings(), 121, "a message counts as activity too");
    });
}

#[test]
fn a_client_without_a_byte_is_closed_at_its_deadline() {
    check(&Rules::default(), |pair| {
        pair.mute();
        pair.advance(118_999 * MS);
        assert_eq!((pair.pings(), pair.closed()), (3, None));
        pair.advance(MS);
        assert_eq!(pair.closed(), Some((1001, "idle timeout")));
        assert_eq!(pair.pings(), 3);
        assert_closed(pair, 1001);
    });
}

#[test]
fn any_byte_moves_the_idle_deadline() {
    check(&Rules::default(), |pair| {
        pair.mute();
        pair.advance(118_999 * MS);
        // Half a header.
        pair.send_raw(&[FIN | TEXT]);
        pair.advance(119_999 * MS);
        assert_eq!(pair.closed(), None);
        pair.advance(MS);
        assert_eq!(pair.closed(), Some((1001, "idle timeout")));
    });
}

#[test]
fn without_pings_a_silent_client_is_closed() {
    let rules = rules(|rules| rules.limits.ping_interval = None);
    check(&rules, |pair| {
        pair.advance(118_999 * MS);
        assert_alive(pair);
        pair.advance(119_999 * MS);
        assert_eq!((pair.pings(), pair.closed()), (0, None));
        pair.advance(MS);
        assert_eq!(pair.closed(), Some((1001, "idle timeout")));
    });
}

#[test]
fn an_unanswered_close_frame_is_awaited_for_five_seconds() {
    check(&Rules::default(), |pair| {
        pair.mute();
        pair.stop();
        assert_eq!(pair.closed().map(|(code, _)| code), Some(1001));
        assert!(!pair.session.is_finished());
        pair.advance(4_999 * MS);
        assert_eq!(pair.cut_at_ms(), None);
        pair.advance(MS);
        assert_eq!(pair.cut_at_ms(), Some(6_000));
    });
}

// The server stops.

#[test]
fn shut_down_emits_answers_requests_in_flight_and_closes_with_1001() {
    check(&Rules::default(), |pair| {
        pair.park("slow");
        pair.request("1", "slow", None);
        pair.request("2", "slow", None);
        pair.stop();
        let messages = pair.messages();
        assert_eq!(messages.len(), 3);
        assert_eq!((messages[0].is_event(), messages[0].channel()), (true, "server:shutdown"));
        assert_eq!(messages[0].payload(), Some(r#"{"reason":"Server stopping"}"#));
        assert_eq!(ids(&messages[1..]), ["1", "2"]);
        assert!(messages[1..].iter().all(|response| response.code() == "CONNECTION_CLOSED"));
        assert!(pair.session.is_finished(), "the client answered");
        assert_closed(pair, 1001);
    });
}

#[test]
fn shut_down_sends_only_a_close_frame_to_unauthenticated_clients() {
    check(&with_token(), |pair| {
        pair.stop();
        assert_eq!(pair.messages().len(), 0);
        assert_closed(pair, 1001);
    });
}

#[test]
fn a_session_that_drains_ends_after_its_requests_in_flight_and_refuses_others() {
    check(&Rules::default(), |pair| {
        pair.park("slow");
        pair.request("1", "slow", None);
        pair.request("2", "slow", None);
        pair.drain();
        pair.drain();
        pair.close_drained();
        pair.request("3", "echo", None);
        pair.request("4", "slow", None);
        pair.finish("2", Ok(Payload::none()));
        pair.close_drained();
        assert_eq!((pair.closed(), pair.session.is_draining()), (None, true));
        pair.finish("1", Ok(Payload::none()));
        pair.close_drained();
        let messages = pair.messages();
        assert_eq!((messages[0].is_event(), messages[0].channel()), (true, "server:shutdown"));
        assert_eq!(ids(&messages[1..]), ["3", "4", "2", "1"], "one event, and one answer a request");
        let codes = messages[1..].iter().map(|response| response.code());
        assert_eq!(codes.collect::<Vec<_>>(), ["CONNECTION_CLOSED", "CONNECTION_CLOSED", "", ""]);
        assert_closed(pair, 1001);
    });
}

#[test]
fn a_session_that_drains_can_be_shut_down() {
    check(&Rules::default(), |pair| {
        pair.park("slow");
        pair.request("1", "slow", None);
        pair.drain();
        pair.stop();
        let messages = pair.messages();
        assert_eq!(messages.len(), 2, "server:shutdown is sent once");
        assert_eq!(messages[0].channel(), "server:shutdown");
        assert_eq!(messages[1].code(), "CONNECTION_CLOSED");
        assert_closed(pair, 1001);
    });
}

#[test]
fn a_session_that_drains_still_judges_credentials() {
    check(&with_token(), |pair| {
        pair.drain();
        assert_eq!(pair.messages().len(), 0);
        assert_closed(pair, 1001);
    });
    check(&with_token(), |pair| {
        pair.park("slow");
        let token = Some(r#"{"token":"s3cret"}"#);
        pair.request("0", "auth", token);
        pair.request("1", "slow", None);
        pair.drain();
        pair.request("2", "auth", token);
        pair.close_drained();
        assert_eq!(pair.closed(), None);
        let messages = pair.messages();
        assert_eq!((messages[0].id(), messages[1].channel()), ("0", "server:shutdown"));
        assert_eq!((messages[2].id(), messages[2].code()), ("2", String::new()));
    });
}

// Any network.

#[test]
fn each_request_is_answered_once_and_in_order_however_late_bytes_are() {
    let rules = rules(|rules| rules.limits.rate_max_requests = u32::MAX);
    for network in Network::slow() {
        let mut pair = connected(&rules, network);
        let mut rng = Rng::new(0x5eed);
        pair.park("slow");
        let mut parked = Vec::new();
        for index in 0..200 {
            let id = index.to_string();
            match rng.below(8) {
                0 => {
                    pair.request(&id, "slow", None);
                    parked.push(id);
                }
                1 => {
                    pair.send_raw(&frame(TEXT, br#"{"type":"request","channel":"echo","#));
                    pair.send_raw(&frame(FIN | PING, b"hello"));
                    pair.send_raw(&frame(FIN | CONTINUATION, format!(r#""id":"{id}"}}"#).as_bytes()));
                }
                2 => pair
                    .send_binary(format!(r#"{{"type":"request","channel":"echo","id":"{id}"}}"#).as_bytes()),
                _ => {
                    let payload = format!("\"{}\"", "x".repeat(rng.index(400)));
                    pair.request(&id, "echo", Some(&payload));
                }
            }
            pair.advance(rng.below(30) as u32 * MS);
        }
        pair.advance(seconds(1));
        let echoed: Vec<usize> =
            pair.responses().iter().map(|response| response.id().parse().unwrap()).collect();
        assert!(echoed.is_sorted_by(|a, b| a < b), "{echoed:?}");
        for id in parked.iter().rev() {
            pair.finish(id, Ok(Payload::none()));
        }
        pair.advance(seconds(1));
        let late = pair.responses();
        assert!(ids(&late).into_iter().rev().eq(&parked));
        assert_eq!(echoed.len() + parked.len(), 200);
        assert_eq!(pair.session.buffered_bytes(), 0);
        pair.close(CloseCode::Normal, "");
        pair.advance(seconds(1));
        assert!(pair.session.is_finished());
    }
}
