//! The rate window, authentication, the size of messages, requests in flight.

use serde_json::json;
use switchboard::protocol::error::WireError;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::Rules;

use switchboard::protocol::frame::Role;

use super::setup::*;
use crate::support::frames::*;
use crate::support::pair::{Network, Pair};

// Over the rate window.

#[test]
fn a_rate_window_lets_a_hundred_messages_pass() {
    check(&Rules::default(), |pair| {
        for index in 0..100 {
            pair.request(&index.to_string(), "echo", None);
        }
        assert!(pair.responses().iter().all(|response| response.code().is_empty()));
        for (wait, retry_after) in [(0, 1000), (999, 1)] {
            pair.advance(wait * MS);
            pair.request(r"late\ud800", r"\u0065cho", None);
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), ("rate_limited", "system"));
            assert_eq!(response.code(), "RATE_LIMITED");
            let expected = format!(
                r#""error":{{"code":"RATE_LIMITED","message":"Too many requests","details":{{"requestId":"late\ud800","channel":"\u0065cho","retryAfterMs":{retry_after}}}}}"#
            );
            assert!(response.text.contains(&expected), "{}", response.text);
        }
        pair.advance(MS);
        assert_alive(pair);
    });
}

#[test]
fn every_data_message_counts_and_nothing_else() {
    let rules = rules(|rules| rules.limits.rate_max_requests = 6);
    check(&rules, |pair| {
        pair.send_raw(&frame(FIN | PING, b"1"));
        pair.send_raw(&frame(FIN | PONG, b"1"));
        pair.send("not JSON");
        pair.send_binary(b"\xff");
        pair.send(r#"{"type":"event","channel":"c"}"#);
        pair.request("1", "echo", None);
        pair.request("2", "unknown", None);
        let fragments =
            [frame(TEXT, b"{"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"}")].concat();
        pair.send_raw(&fragments);
        assert_eq!(pair.session.remaining(switchboard::protocol::time::Millis(pair.now_ms())), 0);
        assert!(pair.responses().iter().all(|response| response.code() != "RATE_LIMITED"));
        // An unreadable message has no id to repeat.
        for (message, details) in [
            (&b"not JSON"[..], json!({ "retryAfterMs": 1000 })),
            (b"\xff", json!({ "retryAfterMs": 1000 })),
            (br#"{"type":"event","channel":"c"}"#, json!({ "channel": "c", "retryAfterMs": 1000 })),
        ] {
            pair.send_binary(message);
            let response = pair.response();
            assert_eq!(response.id(), "rate_limited");
            assert_eq!(response.error()["details"], details);
        }
        assert!(pair.take_request().is_some());
        assert!(pair.take_request().is_none());
        pair.advance(seconds(1));
        assert_alive(pair);
    });
}

#[test]
fn before_authentication_every_request_but_auth_is_unauthorized() {
    let rules = Rules { token: with_token().token, ..rules(|rules| rules.limits.max_auth_attempts = 10) };
    check(&rules, |pair| {
        for channel in ["echo", "Auth", "auth ", "system"] {
            pair.request("1", channel, None);
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), ("1", channel));
            assert_eq!(response.code(), "UNAUTHORIZED");
        }
        for payload in [None, Some("null"), Some("{}"), Some(r#""s3cret""#), Some(r#"{"token":7}"#)] {
            pair.request("2", "auth", payload);
            assert_eq!(pair.response().code(), "UNAUTHORIZED", "{payload:?}");
        }
        for wrong in ["", "s3cre", "s3cret ", "s3creT", "s3crets3cret", "\0s3cret"] {
            pair.request("3", "auth", Some(&json!({ "token": wrong }).to_string()));
            assert_eq!(pair.response().code(), "UNAUTHORIZED", "{wrong:?}");
        }
        assert!(!pair.session.is_open(), "no events for it");
        assert!(pair.take_request().is_none());
        pair.request("4", "auth", Some(r#"{"token":"s3cret"}"#));
        let response = pair.response();
        assert_eq!((response.id(), response.payload()), ("4", Some(r#"{"authenticated":true}"#)));
        assert_eq!(pair.authenticated(), 1);
        assert_alive(pair);
        // Authenticating again succeeds and changes nothing; a wrong token is still refused.
        pair.request("5", r"\u0061uth", Some(r#"{"token":"\u00733cret"}"#));
        assert_eq!(pair.response().code(), "");
        pair.request("6", "auth", Some(r#"{"token":"other"}"#));
        assert_eq!(pair.response().code(), "UNAUTHORIZED");
        assert_eq!(pair.authenticated(), 1);
        assert_alive(pair);
    });
}

#[test]
fn an_unauthenticated_client_is_closed_with_1008_after_ten_seconds() {
    check(&with_token(), |pair| {
        pair.advance(8_999 * MS);
        pair.request("1", "echo", None);
        assert_eq!(pair.response().code(), "UNAUTHORIZED");
        assert_eq!(pair.closed(), None);
        pair.advance(MS);
        assert_closed(pair, 1008);
    });
    check(&with_token(), |pair| {
        pair.advance(8_999 * MS);
        pair.request("1", "auth", Some(r#"{"token":"s3cret"}"#));
        assert_eq!(pair.response().code(), "");
        pair.advance(seconds(60));
        assert_alive(pair);
    });
}

#[test]
fn without_a_token_auth_is_a_channel_like_any_other() {
    check(&Rules::default(), |pair| {
        pair.request("1", "auth", None);
        assert_eq!(pair.take_request().expect("it goes to the router").raw_channel(), "auth");
    });
}

// A message over the limit.

#[test]
fn a_message_passes_up_to_its_limit_and_the_next_byte_closes_with_1009() {
    let rules = rules(|rules| rules.limits.max_message_bytes = 1000);
    check(&rules, |pair| {
        let text = request_of(1000);
        let (left, right) = text.split_at(500);
        pair.send(&text);
        assert_eq!(pair.response().id(), "long");
        pair.send_raw(&[frame(TEXT, left.as_bytes()), frame(FIN | CONTINUATION, right.as_bytes())].concat());
        assert_eq!(pair.response().id(), "long");
        pair.send(request_of(1001));
        assert_closed(pair, 1009);
    });
    check(&rules, |pair| {
        // The sum of the fragments counts, and is known from the header alone.
        pair.send_raw(&frame(TEXT, &[b' '; 500]));
        pair.send_raw(&frame(FIN | CONTINUATION, &[b' '; 501])[..8]);
        assert_closed(pair, 1009);
    });
    check(&rules, |pair| {
        pair.send_raw(&frame(FIN | BINARY, &[b' '; 1001])[..8]);
        assert_closed(pair, 1009);
    });
}

#[test]
fn a_response_longer_than_the_limit_becomes_an_error() {
    let rules = rules(|rules| rules.limits.max_message_bytes = 1000);
    check(&rules, |pair| {
        let around =
            r#"{"type":"response","id":"1","channel":"c","payload":"","timestamp":1704067201000}"#.len();
        for (length, code) in [(1000 - around, ""), (1001 - around, "HANDLER_ERROR")] {
            pair.on("c", move |_| Ok(Payload::from(json!("x".repeat(length)))));
            pair.request("1", "c", None);
            let response = pair.response();
            assert_eq!(response.code(), code);
            assert!(response.text.len() <= 1000);
        }
        let error = WireError::new("no").details(json!("x".repeat(1000)));
        pair.on("c", move |_| Err(error.clone()));
        pair.request("2", "c", None);
        let response = pair.response();
        assert_eq!((response.id(), response.code().as_str()), ("2", "HANDLER_ERROR"));
        assert!(response.text.len() <= 1000);
        assert_alive(pair);
    });
}

#[test]
fn an_announced_length_allocates_nothing_in_a_session() {
    check(&Rules::default(), |pair| {
        for first in [FIN | TEXT, FIN | BINARY, TEXT] {
            let mut pair = connected(&Rules::default(), Network::Whole);
            pair.send_raw(&header_to(Role::Server, first, 16 << 20));
            pair.send_raw(b"[");
            assert_eq!(pair.closed(), None);
            assert!(pair.session.buffered_bytes() < 64, "{} bytes", pair.session.buffered_bytes());
        }
        pair.send_raw(&header_to(Role::Server, FIN | TEXT, 1 << 62));
        assert_eq!(pair.session.buffered_bytes(), 0);
        assert_closed(pair, 1009);
    });
    check(&Rules::default(), |pair| {
        pair.send_raw(&header_to(Role::Server, TEXT, (16 << 20) + 1));
        assert_closed(pair, 1009);
    });
}

/// Sends the same bytes many times, and returns the most memory that was held between two of them.
fn peak_bytes(pair: &mut Pair, bytes: &[u8], times: usize) -> usize {
    let sendings = (0..times).map(|_| {
        pair.send_raw(bytes);
        pair.session.buffered_bytes()
    });
    sendings.max().unwrap_or_default()
}

#[test]
fn a_million_small_frames_take_no_more_memory_than_their_bytes() {
    // Without the limit of frames that add nothing to a message.
    let rules = rules(|rules| rules.limits.rate_max_requests = u32::MAX);
    for network in [Network::Whole, Network::Cut(1)] {
        let mut pair = connected(&rules, network);
        pair.send_raw(&frame(TEXT, b""));
        let empty = peak_bytes(&mut pair, &frame(CONTINUATION, b"").repeat(10_000), 100);
        assert!(empty < 64, "{empty} bytes for nothing");

        let one_byte = peak_bytes(&mut pair, &frame(CONTINUATION, b" ").repeat(10_000), 100);
        assert!((1_000_000..2_500_000).contains(&one_byte), "{one_byte} bytes for a million");

        let request = r#"{"type":"request","id":"1","channel":"echo"}"#;
        pair.send_raw(&frame(FIN | CONTINUATION, request.as_bytes()));
        assert_eq!(pair.response().id(), "1");
        assert_eq!(pair.session.buffered_bytes(), 0, "nothing is kept");

        let pings = peak_bytes(&mut pair, &frame(FIN | PING, &[b'x'; 125]).repeat(100), 100);
        assert!(pings <= 256, "{pings} bytes for control frames");
        assert_eq!(pair.pongs(), 10_000);
        assert_alive(&mut pair);
    }
}

// Too many requests in flight.

#[test]
fn reading_pauses_at_the_most_requests_in_flight_until_one_ends() {
    let rules = rules(|rules| rules.limits.rate_max_requests = 1000);
    check(&rules, |pair| {
        pair.park("slow");
        for index in 0..256 {
            pair.request(&index.to_string(), "slow", None);
        }
        assert_eq!(pair.session.in_flight(), 256);
        pair.request("after", "echo", None);
        pair.request("later", "slow", None);
        assert_eq!(pair.responses().len(), 0, "requests that are not read are not answered");
        pair.finish("17", Ok(Payload::none()));
        assert_eq!(ids(&pair.responses()), ["17", "after"]);
        assert_eq!(pair.session.in_flight(), 256, "the place was occupied again");
        pair.advance(seconds(30));
        let responses = pair.responses();
        assert_eq!(responses.len(), 256);
        assert!(responses.iter().all(|response| response.code() == "TIMEOUT"));
        assert_alive(pair);
    });
}

#[test]
fn time_without_reading_does_not_count_as_silence() {
    let rules = rules(|rules| {
        rules.limits.max_in_flight = 1;
        rules.limits.handler_timeout = seconds(600);
    });
    check(&rules, |pair| {
        pair.park("slow");
        pair.request("1", "slow", None);
        pair.mute();
        pair.advance(seconds(599));
        assert_eq!(pair.closed(), None);
        pair.finish("1", Ok(Payload::none()));
        assert_eq!(pair.response().id(), "1");
        assert_alive(pair);
    });
}
