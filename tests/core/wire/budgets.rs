//! What one client can cost: refused messages, bytes, wrong tokens, large messages, memory.

use allocation_counter::measure;
use serde_json::json;
use switchboard::protocol::frame::Role;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{MAX_INLINE_BYTES, Rules};
use switchboard::protocol::time::Millis;

use super::setup::*;
use crate::support::frames::*;
use crate::support::pair::{Network, Pair};

// Refused messages.

#[test]
fn ten_windows_of_refusals_in_a_row_close_with_1008() {
    for (most, refusals) in [(3, 30), (0, 10)] {
        check(&rules(|rules| rules.limits.rate_max_requests = most), |pair| {
            for index in 0..most + refusals - 1 {
                pair.send("not JSON");
                assert_eq!(pair.response().code() == "RATE_LIMITED", index >= most);
            }
            assert_eq!(pair.closed(), None);
            pair.send("not JSON");
            assert_eq!(pair.response().code(), "RATE_LIMITED", "the last one is answered");
            assert_eq!(pair.closed(), Some((1008, "too many refused messages")));
            assert_closed(pair, 1008);
        });
    }
}

#[test]
fn a_flood_of_frames_without_a_message_closes_with_1008() {
    let ping = frame(FIN | PING, b"beat");
    let pong = frame(FIN | PONG, b"");
    let empty = frame(CONTINUATION, b"");
    for (rate_max_requests, most) in [(1, 1000), (100, 1000), (200, 2000)] {
        for flood in [&ping, &pong, &empty] {
            let rules = rules(|rules| rules.limits.rate_max_requests = rate_max_requests);
            let mut pair = connected(&rules, Network::Whole);
            if flood[0] == CONTINUATION {
                pair.send_raw(&frame(TEXT, &[b'"'; 16]));
            }
            // In one window as many as are allowed, then again in the next one.
            for _ in 0..2 {
                pair.send_raw(&flood.repeat(most));
                assert_eq!(pair.closed(), None, "{most} of {:?}", &flood[..2]);
                pair.advance(seconds(1));
            }
            pair.send_raw(&flood.repeat(most + 1));
            assert_eq!(pair.closed(), Some((1008, "too many frames without a message")));
        }
    }
}

#[test]
fn fragments_that_carry_something_are_no_flood() {
    check(&rules(|rules| rules.limits.rate_max_requests = 1), |pair| {
        let fragments = frame(CONTINUATION, b" ").repeat(3000);
        let end = frame(FIN | CONTINUATION, br#"{"type":"request","id":"1","channel":"echo"}"#);
        pair.send_raw(&[frame(TEXT, b""), fragments, end].concat());
        assert_eq!(pair.response().code(), "");
        pair.advance(seconds(1));
        assert_alive(pair);
    });
}

#[test]
fn a_message_that_passes_starts_the_count_of_refusals_again() {
    check(&rules(|rules| rules.limits.rate_max_requests = 1), |pair| {
        for _ in 0..5 {
            for index in 0..10 {
                pair.send("{}");
                assert_eq!(pair.response().code() == "RATE_LIMITED", index > 0);
            }
            pair.advance(seconds(1));
        }
        assert_alive(pair);
    });
}

#[test]
fn of_a_refused_message_only_the_first_kib_is_looked_at() {
    check(&rules(|rules| rules.limits.rate_max_requests = 0), |pair| {
        let pad = |bytes: usize| "x".repeat(bytes);
        let start = r#"{"channel":"c","id":"i","pad":""#;
        let late = r#"{"pad":"","channel":"c"#;
        for (message, id, channel) in [
            // A message within the KiB is decoded as any other: the last member counts, and errors show.
            (r#"{"id":"a","\u0069d":"b","channel":"c"}"#.to_owned(), Some("b"), Some("c")),
            (r#"{"id":"a","channel":"c"]"#.to_owned(), None, None),
            (r#"["id","a"]"#.to_owned(), None, None),
            // Of a longer one, what is complete within the KiB counts, whatever follows.
            (format!(r#"{start}{}"}}"#, pad(2000)), Some("i"), Some("c")),
            (format!(r#"{start}{}","id":"late"}}"#, pad(2000)), Some("i"), Some("c")),
            (format!(r#"{start}{}"#, pad(2000)), Some("i"), Some("c")),
            (format!(r#"{start}{}" not JSON"#, pad(2000)), Some("i"), Some("c")),
            (format!(r#"{start}{}"}}"#, "é".repeat(1000)), Some("i"), Some("c")),
            (format!(r#"{start}" not JSON {}"#, pad(2000)), None, None),
            (format!(r#"{{"pad":"{}","id":"i","channel":"c"}}"#, pad(2000)), None, None),
            (format!(r#"{{"pad":"{}","channel":"c"}}"#, pad(1024 - late.len())), None, None),
            (format!(r#"{{"pad":"{}","channel":"c"}}"#, pad(1023 - late.len())), None, Some("c")),
        ] {
            pair.send(&message);
            let mut details = json!({ "retryAfterMs": 1000 - pair.now_ms() % 1000 });
            let named = [("requestId", id), ("channel", channel)];
            for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                details[name] = json!(value);
            }
            assert_eq!(pair.response().error()["details"], details, "{message}");
            if pair.closed().is_some() {
                *pair = connected(&rules(|rules| rules.limits.rate_max_requests = 0), pair.network());
            }
        }
    });
}

#[test]
fn the_window_counts_bytes_and_its_last_message_passes() {
    let rules = rules(|rules| rules.limits.rate_max_bytes = 1000);
    check(&rules, |pair| {
        for (message, passes) in [(request_of(999), true), (request_of(5000), true), ("1".to_owned(), false)]
        {
            pair.send(message);
            assert_eq!(pair.response().code() != "RATE_LIMITED", passes);
        }
        pair.send_raw(&frame(FIN | PING, &[b' '; 100]));
        pair.advance(seconds(1));
        pair.send(request_of(1000));
        assert_eq!(pair.response().code(), "", "one message of the limit passes");
        pair.send("1");
        assert_eq!(pair.response().code(), "RATE_LIMITED");
        pair.advance(seconds(1));
        assert_alive(pair);
    });
}

#[test]
fn sessions_that_share_a_window_use_it_up_together() {
    use std::sync::{Arc, Mutex};
    let rules = rules(|rules| rules.limits.rate_max_requests = 3);
    let mut pairs = [1, 2].map(|_| connected(&rules, Network::Whole));
    let window = Arc::new(Mutex::default());
    for pair in &mut pairs {
        pair.session.share_window(window.clone());
    }
    for (index, passes) in [(0, true), (1, true), (0, true), (1, false), (0, false)] {
        pairs[index].request("1", "echo", None);
        assert_eq!(pairs[index].response().code() != "RATE_LIMITED", passes);
    }
    for pair in &mut pairs {
        assert_eq!(pair.session.remaining(Millis(pair.now_ms())), 0);
    }
    for pair in &mut pairs {
        pair.advance(seconds(1));
        assert_alive(pair);
    }
}

// Before authentication.

#[test]
fn before_authentication_a_message_is_small() {
    let auth = |bytes: usize| {
        let around =
            r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"s3cret","x":""}}"#.len();
        let pad = "x".repeat(bytes - around);
        format!(
            r#"{{"type":"request","id":"1","channel":"auth","payload":{{"token":"s3cret","x":"{pad}"}}}}"#
        )
    };
    check(&with_token(), |pair| {
        pair.send(auth(8 << 10));
        assert_eq!(pair.response().code(), "");
        pair.send(request_of(100_000));
        assert_eq!(pair.response().code(), "", "afterwards the limit is the usual one");
        // A token is looked for in a small payload only, so that a large one is not read twice.
        pair.send(auth(16 << 10));
        assert_eq!(pair.response().error()["message"], "Payload must be {token: string}");
        assert_alive(pair);
    });
    check(&with_token(), |pair| {
        pair.send(auth((8 << 10) + 1));
        assert_closed(pair, 1009);
    });
    check(&with_token(), |pair| {
        pair.send_raw(&header_to(Role::Server, FIN | TEXT, (8 << 10) + 1));
        assert_closed(pair, 1009);
    });
    let smaller = Rules { token: with_token().token, ..rules(|rules| rules.limits.max_message_bytes = 200) };
    check(&smaller, |pair| {
        pair.send(auth(201));
        assert_closed(pair, 1009);
    });
}

#[test]
fn the_third_wrong_token_closes_with_1008() {
    let send = |pair: &mut Pair, token: &str| {
        pair.request("1", "auth", Some(&format!(r#"{{"token":"{token}"}}"#)));
        pair.response().code()
    };
    check(&with_token(), |pair| {
        for _ in 0..2 {
            assert_eq!(send(pair, "guess"), "UNAUTHORIZED");
        }
        // A payload without a token is not a guess.
        pair.request("1", "auth", None);
        assert_eq!(pair.response().code(), "UNAUTHORIZED");
        assert_eq!(send(pair, "s3cret"), "");
        assert_eq!((pair.session.take_wrong_tokens(), pair.session.take_wrong_tokens()), (2, 0));
        assert_alive(pair);
        // Authentication does not forgive: the token could be looked for on a connection that has one.
        assert_eq!(send(pair, "guess"), "UNAUTHORIZED");
        assert_eq!(pair.session.take_wrong_tokens(), 1);
        assert_eq!(pair.closed(), Some((1008, "too many wrong tokens")));
        assert_closed(pair, 1008);
    });
}

// Large messages.

#[test]
fn a_large_message_is_answered_in_its_turn() {
    check(&Rules::default(), |pair| {
        let large = request_of(MAX_INLINE_BYTES + 1);
        let mut frames = [text_frame(&request_of(MAX_INLINE_BYTES)), text_frame(&large)].concat();
        frames.extend(text_frame(r#"{"type":"request","id":"next","channel":"echo"}"#));
        frames.extend(frame(FIN | BINARY, large.as_bytes()));
        frames.extend(frame(FIN | BINARY, &vec![0xff; MAX_INLINE_BYTES + 1]));
        frames.extend(text_frame(&format!("{{\"id\":\"broken\",\"x\":\"{}\"", "x".repeat(MAX_INLINE_BYTES))));
        pair.send_raw(&frames);
        let responses = pair.responses();
        assert_eq!(ids(&responses), ["long", "long", "next", "long", "invalid_message", "invalid_message"]);
        let lengths: Vec<_> =
            responses.iter().map(|response| response.payload().map_or(0, str::len)).collect();
        let empty = request_of(100).len() - 100
            + r#"{"type":"request","id":"long","channel":"echo","payload":}"#.len();
        assert_eq!(lengths[..4], [MAX_INLINE_BYTES - empty, MAX_INLINE_BYTES + 1 - empty, 0, lengths[1]]);
        assert_alive(pair);
    });
}

// Memory.

#[test]
fn reading_pauses_while_payloads_in_flight_and_the_next_message_are_over_the_limit() {
    let payload = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    check(&rules(|rules| rules.limits.max_in_flight_bytes = 1000), |pair| {
        pair.park("slow");
        pair.request("1", "slow", Some(&payload(600)));
        assert_eq!((pair.session.held_bytes(), pair.session.wants_input()), (600, true));
        let large = format!(r#"{{"type":"request","id":"2","channel":"slow","payload":{}}}"#, payload(2000));
        let (header, rest) = (header_to(Role::Server, FIN | TEXT, large.len() as u64), large.as_bytes());
        pair.send_raw(&header);
        pair.send_raw(rest);
        pair.request("3", "echo", None);
        assert_eq!((pair.session.in_flight(), pair.session.wants_input()), (1, false));
        assert!(pair.session.held_bytes() > 2600, "announced bytes count: {}", pair.session.held_bytes());
        assert!(pair.session.buffered_bytes() < 1000, "they do not arrive");
        pair.advance(seconds(25));
        assert_eq!(pair.responses().len(), 0, "nothing is read");
        pair.finish("1", Ok(Payload::none()));
        // The message is larger than the limit, and fits because nothing else is in flight.
        assert_eq!((pair.session.in_flight(), pair.session.held_bytes()), (1, 2000));
        assert_eq!(ids(&pair.responses()), ["1"]);
        pair.finish("2", Ok(Payload::none()));
        assert_eq!(ids(&pair.responses()), ["2", "3"]);
        assert_eq!(pair.session.held_bytes(), 0);
        assert_alive(pair);
    });
}

#[test]
fn a_request_keeps_its_parts_and_not_its_message() {
    let junk = format!(r#""junk":"{}""#, "x".repeat(1 << 20));
    let small = format!(r#"{{"type":"request",{junk},"id":"1","channel":"slow","payload":{{"a":[1]}}}}"#);
    let junk_after = format!(r#"{{"type":"request","id":"2","channel":"slow","payload":"p",{junk}}}"#);
    for (message, payload) in [(small, r#"{"a":[1]}"#), (junk_after, r#""p""#)] {
        let mut pair = connected(&Rules::default(), Network::Whole);
        pair.park("slow");
        let mut kept = None;
        let held = measure(|| {
            pair.send(&message);
            let request = pair.parked().next().expect("it is parked");
            kept = Some((request.id(), request.payload()));
        });
        assert!(held.bytes_current < 4096, "{held:?} for a payload of {} bytes", payload.len());
        assert_eq!(kept.map(|(_, kept)| kept.as_str().map(str::to_owned)), Some(Some(payload.to_owned())));
    }
    // The id of a large request does not keep its payload.
    let mut pair = connected(&Rules::default(), Network::Whole);
    let mut kept = None;
    let held = measure(|| {
        pair.request("1", "unknown", Some(&format!("\"{}\"", "x".repeat(1 << 20))));
        let request = pair.take_request().expect("no handler has the channel");
        kept = Some(request.id());
        pair.answer(request, Ok(Payload::none()));
    });
    assert!(held.bytes_current < 4096, "{held:?} for an id");
    assert_eq!(kept.map(|id| id.to_string()).as_deref(), Some("1"));
}

#[test]
fn what_was_collected_is_dropped_when_the_connection_starts_to_close() {
    use switchboard::protocol::connection::CloseCode;
    let whole = text_frame(&request_of(1 << 20));
    for start in [whole[..1 << 19].to_vec(), frame(TEXT, &[b' '; 1 << 19])] {
        check(&Rules::default(), |pair| {
            pair.mute();
            pair.park("slow");
            pair.request("1", "slow", Some(&format!("\"{}\"", "x".repeat(1 << 16))));
            pair.send_raw(&start);
            assert!(pair.session.held_bytes() >= (1 << 19) + (1 << 16));
            pair.on_server(|session, now, out| session.close(now.at, CloseCode::Away, "bye", out));
            assert_eq!((pair.session.held_bytes(), pair.session.buffered_bytes()), (0, 0));
            pair.send_raw(&vec![b'x'; 1 << 20]);
            assert!(pair.session.buffered_bytes() <= 256, "nothing more is collected");
            assert_eq!(pair.session.held_bytes(), 0);
        });
    }
}
