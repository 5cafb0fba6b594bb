//! The wire rules, in virtual time: each rule on both sides of its boundary, each script on a network that delivers
//! whole, byte by byte, and in seeded pieces.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::connection::CloseCode;
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::Rules;

use crate::support::pair::{EPOCH_MS, Message, Network, Pair, Rng};

const MS: Duration = Duration::from_millis(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a script on every network on which time is exact. `server:connected` has come already.
fn check(rules: &Rules, script: impl Fn(&mut Pair)) {
    for network in Network::exact() {
        let mut pair = connected(rules, network);
        script(&mut pair);
    }
}

fn connected(rules: &Rules, network: Network) -> Pair {
    let mut pair = Pair::new(rules, network);
    pair.on("echo", Ok);
    pair.advance(seconds(1));
    assert_eq!(pair.messages().len(), 1, "server:connected");
    pair
}

fn rules(change: impl FnOnce(&mut Rules)) -> Rules {
    let mut rules = Rules::default();
    change(&mut rules);
    rules
}

/// The connection has survived what came before.
fn assert_alive(pair: &mut Pair) {
    pair.request("alive", "echo", Some("1"));
    let response = pair.response();
    assert_eq!((response.id(), response.payload()), ("alive", Some("1")));
    assert_eq!(pair.closed(), None);
}

/// Nothing more comes, whatever the client still sends.
fn assert_closed(pair: &mut Pair, code: u16) {
    assert_eq!(pair.closed().map(|(code, _)| code), Some(code));
    pair.messages();
    pair.send_raw(&text_frame(r#"{"type":"request","id":"late","channel":"echo"}"#));
    pair.advance(seconds(1));
    assert_eq!(pair.messages().len(), 0, "silence after the close frame");
}

/// A frame of a client. The mask is zero, so that the payload can be read in a failure's dump.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

fn text_frame(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A header of a client that announces `length` bytes, of which none follow.
fn announcement(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// An echo request whose message is `length` bytes long.
fn request_of(length: usize) -> String {
    let empty = r#"{"type":"request","id":"long","channel":"echo","payload":""}"#;
    let text = "x".repeat(length - empty.len());
    format!(r#"{{"type":"request","id":"long","channel":"echo","payload":"{text}"}}"#)
}

fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::id).collect()
}

// Upgrade accepted.

#[test]
fn server_connected_comes_before_the_answer_to_what_the_client_sent_early() {
    for network in Network::exact() {
        let mut pair = Pair::before_open(&Rules::default(), network);
        pair.on("echo", Ok);
        pair.open();
        pair.request("1", "echo", None);
        let messages = pair.messages();
        let first: Value = serde_json::from_str(&messages[0].text).unwrap();
        let id = pair.session.id().to_string();
        assert_eq!(first["channel"], "server:connected");
        assert_eq!(first["payload"], json!({ "clientId": id, "serverTime": EPOCH_MS }));
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].id(), "1");
    }
}

// Requests and their responses.

#[test]
fn members_stand_in_order_and_an_absent_payload_stays_absent() {
    check(&Rules::default(), |pair| {
        let connected_for = pair.now_ms();
        let timestamp = EPOCH_MS + connected_for;
        for (payload, member) in [
            (None, ""),
            (Some("null"), r#","payload":null"#),
            (Some(r#"{"b":1,"a":[ ]}"#), r#","payload":{"b":1,"a":[ ]}"#),
        ] {
            pair.request("1", "echo", payload);
            let expected =
                format!(r#"{{"type":"response","id":"1","channel":"echo"{member},"timestamp":{timestamp}}}"#);
            assert_eq!(pair.response().text, expected);
        }
    });
}

#[test]
fn id_and_channel_come_back_as_the_client_wrote_them() {
    check(&Rules::default(), |pair| {
        for (id, channel) in [
            (r"\ud800", "echo"),
            (r"\udc00\ud800", r"\u0065cho"),
            (r#"\"\\\/\b\f\n\r\t"#, r"ech\u006F"),
            ("é🦀\u{7f}", "echo"),
        ] {
            let text =
                format!(r#"{{"type":"request","id":"{id}","channel":"{channel}","payload":"\ud800"}}"#);
            pair.send(&text);
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), (id, channel));
            assert_eq!(response.payload(), Some(r#""\ud800""#));
        }
        pair.send(r#"{"type":"request","id":"1","channel":"\ud800"}"#);
        let request = pair.take_request().expect("it is for the router to say that there is no such channel");
        assert_eq!(request.channel(), None);
        pair.answer(request, Ok(Payload::none()));
        assert_eq!(pair.response().channel(), r"\ud800");
    });
}

#[test]
fn members_may_come_in_any_order_and_the_last_of_two_wins() {
    check(&Rules::default(), |pair| {
        for text in [
            r#"{"payload":7,"channel":"echo","id":"1","type":"request"}"#,
            r#" { "type" : "request" , "id" : "1" , "channel" : "echo" , "payload" : 7 } "#,
            r#"{"type":"event","id":"0","channel":"x","payload":0,"type":"request","id":"1","channel":"echo","payload":7}"#,
            r#"{"type":"request","id":"1","channel":"echo","payload":7,"unknown":{"id":"2"},"":[]}"#,
            r#"{"type":"request","id":"1","channel":"echo","payload":7,"timestamp":1704067200000}"#,
            r#"{"type":"request","id":"1","channel":"echo","payload":7,"timestamp":-1.5e3}"#,
            r#"{"\u0074ype":"re\u0071uest","id":"1","channel":"echo","payload":7}"#,
        ] {
            pair.send(text);
            let response = pair.response();
            assert_eq!((response.id(), response.payload()), ("1", Some("7")), "{text}");
        }
    });
}

#[test]
fn a_binary_frame_is_read_as_text() {
    check(&Rules::default(), |pair| {
        pair.send_binary(br#"{"type":"request","id":"1","channel":"echo","payload":"\u00e9"}"#);
        assert_eq!(pair.response().id(), "1");
        pair.send_binary(b"{\"type\":\"request\",\"id\":\"\xff\"}");
        let response = pair.response();
        assert_eq!((response.id(), response.channel()), ("invalid_message", "system"));
        assert_eq!(response.code(), "INVALID_MESSAGE");
        assert!(says_byte(&response, 24), "{}", response.text);
        assert_alive(pair);
    });
}

#[test]
fn a_message_may_come_in_fragments_with_control_frames_between_them() {
    check(&Rules::default(), |pair| {
        let text = r#"{"type":"request","id":"é🦀","channel":"echo"}"#;
        for first in [TEXT, BINARY] {
            let mut bytes = frame(first, &[]);
            for (index, byte) in text.bytes().enumerate() {
                bytes.extend(frame(CONTINUATION, &[byte]));
                if index % 10 == 0 {
                    bytes.extend(frame(FIN | PING, b"still there?"));
                    bytes.extend(frame(FIN | PONG, b"unasked"));
                }
            }
            bytes.extend(frame(FIN | CONTINUATION, &[]));
            pair.send_raw(&bytes);
            assert_eq!(pair.response().id(), "é🦀");
        }
        assert_eq!(pair.pongs(), 2 * text.len().div_ceil(10));
        assert_alive(pair);
    });
}

#[test]
fn every_length_of_a_frame_is_read_and_written() {
    for network in [Network::Whole, Network::Bytes, Network::Cut(1)] {
        let mut pair = connected(&Rules::default(), network);
        for length in [100, 125, 126, 127, 0xffff, 0x1_0000, 0x1_0001] {
            let text = request_of(length);
            pair.send(&text);
            let response = pair.response();
            assert_eq!(response.payload().map(str::len), Some(length - 58), "{length}");
            assert!(text.contains(response.payload().unwrap()));
        }
    }
}

// Malformed JSON, wrong shape, a response or event from a client.

fn says_byte(response: &Message, byte: usize) -> bool {
    let message = response.error()["message"].as_str().unwrap_or_default().to_owned();
    message.contains(&format!("at byte {byte}")) && !message.contains(&format!("at byte {byte}0"))
}

#[test]
fn what_is_no_request_is_answered_with_its_place_and_the_connection_stays() {
    const NO_ID: &str = "invalid_message";
    const NO_CHANNEL: &str = "system";
    let depth_129 = format!(
        r#"{{"type":"request","id":"a","channel":"echo","payload":{}1{}}}"#,
        "[".repeat(128),
        "]".repeat(128)
    );
    let cases: [(&str, &str, &str, usize); 31] = [
        ("", NO_ID, NO_CHANNEL, 0),
        ("   ", NO_ID, NO_CHANNEL, 3),
        ("{", NO_ID, NO_CHANNEL, 1),
        ("hello", NO_ID, NO_CHANNEL, 0),
        (r#"{"type":"request","id":"a","channel":"c""#, NO_ID, NO_CHANNEL, 40),
        (r#"{"type":"request","id":"a","channel":"c"}}"#, NO_ID, NO_CHANNEL, 41),
        (r#"{"type":"request","id":"a","channel":"c",}"#, NO_ID, NO_CHANNEL, 41),
        (r#"{"type":"request","id":"a","channel":"c","payload":01}"#, NO_ID, NO_CHANNEL, 52),
        (r#"{"type":"request","id":"a","channel":"c","payload":"\x"}"#, NO_ID, NO_CHANNEL, 53),
        (r#"{"type":"request","id":"a","channel":"c","payload":1e999}"#, NO_ID, NO_CHANNEL, 51),
        ("{\"type\":\"request\",\"id\":\"a\nb\",\"channel\":\"c\"}", NO_ID, NO_CHANNEL, 25),
        (&depth_129, NO_ID, NO_CHANNEL, 181),
        ("[]", NO_ID, NO_CHANNEL, 0),
        (" null", NO_ID, NO_CHANNEL, 1),
        ("\"request\"", NO_ID, NO_CHANNEL, 0),
        ("{}", NO_ID, NO_CHANNEL, 1),
        (r#"{"id":"a","channel":"c"}"#, "a", "c", 23),
        (r#"{"type":"Request","id":"a","channel":"c"}"#, "a", "c", 8),
        (r#"{"type":null,"id":"a","channel":"c"}"#, "a", "c", 8),
        (r#"{"type":"response","id":"a","channel":"c"}"#, "a", "c", 8),
        (r#"{"type":"event","id":"a","channel":"c"}"#, "a", "c", 8),
        (r#"{"type":"event","channel":"c"}"#, NO_ID, "c", 8),
        (r#"{"type":"request","channel":"c"}"#, NO_ID, "c", 31),
        (r#"{"type":"request","id":"","channel":"c"}"#, NO_ID, "c", 23),
        (r#"{"type":"request","id":7,"channel":"c"}"#, NO_ID, "c", 23),
        (r#"{"type":"request","id":"a"}"#, "a", NO_CHANNEL, 26),
        (r#"{"type":"request","id":"a","channel":""}"#, "a", NO_CHANNEL, 37),
        (r#"{"type":"request","id":"a","channel":["c"]}"#, "a", NO_CHANNEL, 37),
        (r#"{"type":"request","id":"a","channel":"c","timestamp":"now"}"#, "a", "c", 53),
        (r#"{"type":"request","id":"a","channel":"c","timestamp":null}"#, "a", "c", 53),
        (r#"{"type":"request","id":"a","id":null,"channel":"c"}"#, NO_ID, "c", 32),
    ];
    check(&Rules::default(), |pair| {
        for (text, id, channel, byte) in cases {
            pair.send(text);
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), (id, channel), "{text}");
            assert_eq!(response.code(), "INVALID_MESSAGE", "{text}");
            assert!(says_byte(&response, byte), "byte {byte} of {text}: {}", response.text);
        }
        assert_alive(pair);
    });
}

#[test]
fn a_byte_order_mark_is_no_json() {
    check(&Rules::default(), |pair| {
        pair.send("\u{feff}{}");
        assert_eq!(pair.response().code(), "INVALID_MESSAGE");
        assert_alive(pair);
    });
}

#[test]
fn names_pass_up_to_their_limits_in_bytes() {
    check(&Rules::default(), |pair| {
        for (id, channel, usable) in [
            ("x".repeat(128), "y".repeat(256), (true, true)),
            ("x".repeat(129), "y".repeat(256), (false, true)),
            ("x".repeat(128), "y".repeat(257), (true, false)),
            ("é".repeat(64), "🦀".repeat(64), (true, true)),
            ("é".repeat(65), "🦀".repeat(65), (false, false)),
            (r"\u0041".repeat(21), r"\u0041".repeat(42), (true, true)),
            (r"\u0041".repeat(22), r"\u0041".repeat(43), (false, false)),
        ] {
            pair.request(&id, &channel, None);
            if usable == (true, true) {
                let request = pair.take_request().expect("both names are within their limits");
                assert_eq!((request.raw_id(), request.raw_channel()), (id.as_str(), channel.as_str()));
            } else {
                assert!(pair.take_request().is_none());
                let response = pair.response();
                assert_eq!(response.code(), "INVALID_MESSAGE");
                assert_eq!(response.id(), if usable.0 { &id } else { "invalid_message" });
                assert_eq!(response.channel(), if usable.1 { &channel } else { "system" });
            }
        }
        assert_alive(pair);
    });
}

#[test]
fn nesting_passes_up_to_depth_128() {
    check(&Rules::default(), |pair| {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            // The envelope is the first of them.
            for (depth, passes) in [(127, true), (128, false)] {
                let payload = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                pair.request("deep", "echo", Some(&payload));
                let response = pair.response();
                assert_eq!(response.payload(), passes.then_some(payload.as_str()));
                assert_eq!(response.code(), if passes { "" } else { "INVALID_MESSAGE" });
            }
        }
        pair.send("[".repeat(100_000));
        assert_eq!(pair.response().code(), "INVALID_MESSAGE");
        assert_alive(pair);
    });
}

// The handler returned an error.

#[test]
fn a_handlers_error_reaches_the_client_with_code_message_and_details() {
    check(&Rules::default(), |pair| {
        for code in ErrorCode::ALL {
            let error = WireError::with_code(code, "not \"today\"\n");
            pair.on("plain", move |_| Err(error.clone()));
            pair.request("1", "plain", Some("{}"));
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), ("1", "plain"));
            assert_eq!(response.error(), json!({ "code": code.as_str(), "message": "not \"today\"\n" }));

            let error = WireError::with_code(code, "no").details(json!({ "retry": [1, null] }));
            pair.on("detailed", move |_| Err(error.clone()));
            pair.request("2", "detailed", None);
            let expected =
                json!({ "code": code.as_str(), "message": "no", "details": { "retry": [1, null] } });
            assert_eq!(pair.response().error(), expected);
        }
        assert_alive(pair);
    });
}

// The handler is over its deadline.

#[test]
fn a_request_is_answered_with_timeout_at_its_deadline_and_not_before() {
    check(&Rules::default(), |pair| {
        pair.park("default");
        pair.park_within("short", 200 * MS);
        pair.request("1", "default", None);
        pair.request("2", "short", None);
        pair.request("3", "default", None);
        pair.advance(199 * MS);
        assert_eq!(pair.responses().len(), 0);
        pair.advance(MS);
        let response = pair.response();
        assert_eq!((response.id(), response.code().as_str()), ("2", "TIMEOUT"));
        pair.advance(29_799 * MS);
        assert_eq!(pair.responses().len(), 0);
        pair.finish("3", Ok(Payload::from(json!("just in time"))));
        assert_eq!(pair.response().id(), "3");
        pair.advance(MS);
        let response = pair.response();
        assert_eq!((response.id(), response.code().as_str()), ("1", "TIMEOUT"));
        assert_eq!(pair.session.in_flight(), 0);
        assert_alive(pair);
    });
}

// Over the rate window.

#[test]
fn the_hundredth_message_of_a_window_passes_and_the_next_waits_for_its_end() {
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
        pair.request("2", "nobody", None);
        let fragments =
            [frame(TEXT, b"{"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"}")].concat();
        pair.send_raw(&fragments);
        assert_eq!(pair.session.remaining(switchboard::protocol::time::Millis(pair.now_ms())), 0);
        assert!(pair.responses().iter().all(|response| response.code() != "RATE_LIMITED"));
        // What cannot be read cannot be named.
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

// Authentication.

fn with_token() -> Rules {
    rules(|rules| rules.token = Some("s3cret".to_owned()))
}

#[test]
fn before_authentication_every_request_but_auth_is_unauthorized() {
    check(&with_token(), |pair| {
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
        // Again is fine, and changes nothing; a wrong token is still wrong.
        pair.request("5", r"\u0061uth", Some(r#"{"token":"\u00733cret"}"#));
        assert_eq!(pair.response().code(), "");
        pair.request("6", "auth", Some(r#"{"token":"other"}"#));
        assert_eq!(pair.response().code(), "UNAUTHORIZED");
        assert_eq!(pair.authenticated(), 1);
        assert_alive(pair);
    });
}

#[test]
fn who_does_not_authenticate_is_closed_with_1008_after_ten_seconds() {
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
        // The sum counts, and is known from the header alone.
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
fn a_response_passes_up_to_the_limit_and_turns_into_an_error_past_it() {
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
fn an_announcement_takes_no_memory() {
    check(&Rules::default(), |pair| {
        for first in [FIN | TEXT, FIN | BINARY, TEXT] {
            let mut pair = connected(&Rules::default(), Network::Whole);
            pair.send_raw(&announcement(first, 16 << 20));
            pair.send_raw(b"[");
            assert_eq!(pair.closed(), None);
            assert!(pair.session.buffered_bytes() < 64, "{} bytes", pair.session.buffered_bytes());
        }
        pair.send_raw(&announcement(FIN | TEXT, 1 << 62));
        assert_eq!(pair.session.buffered_bytes(), 0);
        assert_closed(pair, 1009);
    });
    check(&Rules::default(), |pair| {
        pair.send_raw(&announcement(TEXT, (16 << 20) + 1));
        assert_closed(pair, 1009);
    });
}

/// Sends bytes again and again, and answers the most memory that was held between two of them.
fn peak_bytes(pair: &mut Pair, bytes: &[u8], times: usize) -> usize {
    let sendings = (0..times).map(|_| {
        pair.send_raw(bytes);
        pair.session.buffered_bytes()
    });
    sendings.max().unwrap_or_default()
}

#[test]
fn a_million_small_frames_take_no_more_memory_than_their_bytes() {
    for network in [Network::Whole, Network::Cut(1)] {
        let mut pair = connected(&Rules::default(), network);
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
        ("64-bit length for 65535", announcement(FIN | TEXT, 0xffff), 1002),
        ("length with its highest bit set", announcement(FIN | TEXT, 1 << 63), 1002),
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
        // Only to get its network: each case has a connection of its own.
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
fn what_is_next_to_a_violation_passes() {
    check(&Rules::default(), |pair| {
        pair.send_raw(&frame(FIN | PING, &[b'x'; 125]));
        pair.send_raw(&frame(FIN | PING, b""));
        assert_eq!(pair.pongs(), 2);
        for text in ["\u{10ffff}", "\u{d7ff}\u{e000}", "\u{80}", "\u{800}", "\u{10000}"] {
            let payload = format!("\"{text}\"");
            pair.request("1", "echo", Some(&payload));
            assert_eq!(pair.response().payload(), Some(payload.as_str()));
        }
        // Half a character may wait for its other half.
        pair.send_raw(&frame(TEXT, b"{\"type\":\"request\",\"channel\":\"echo\",\"id\":\"\xe2\x82"));
        assert_eq!(pair.closed(), None);
        pair.send_raw(&frame(FIN | CONTINUATION, b"\xac\"}"));
        assert_eq!(pair.response().id(), "€");
        assert_alive(pair);
    });
}

// The client closes.

#[test]
fn a_close_is_answered_with_its_own_code_and_ends_everything() {
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
fn a_polite_client_gets_its_close_back() {
    check(&Rules::default(), |pair| {
        pair.close(CloseCode::Normal, "bye");
        assert_eq!(pair.closed(), Some((1000, "")));
        assert!(pair.session.is_finished());
    });
}

// Silence.

#[test]
fn silence_is_pinged_every_thirty_seconds_and_an_answering_client_stays() {
    check(&Rules::default(), |pair| {
        pair.advance(28_999 * MS);
        assert_eq!(pair.pings(), 0);
        pair.advance(MS);
        assert_eq!(pair.pings(), 1);
        pair.advance(seconds(3600));
        assert_eq!(pair.pings(), 121);
        assert_alive(pair);
        pair.advance(29_999 * MS);
        assert_eq!(pair.pings(), 121, "a message is a sign of life too");
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
fn any_byte_puts_the_idle_deadline_off() {
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
fn without_pings_whoever_says_nothing_is_closed() {
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
fn a_close_that_is_not_answered_is_waited_for_five_seconds() {
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
        assert_eq!(pair.responses().len(), 0, "what is not read is not answered");
        pair.finish("17", Ok(Payload::none()));
        assert_eq!(ids(&pair.responses()), ["17", "after"]);
        assert_eq!(pair.session.in_flight(), 256, "the place was taken again");
        pair.advance(seconds(30));
        let responses = pair.responses();
        assert_eq!(responses.len(), 256);
        assert!(responses.iter().all(|response| response.code() == "TIMEOUT"));
        assert_alive(pair);
    });
}

#[test]
fn a_client_that_is_not_read_from_is_not_blamed_for_its_silence() {
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

// The server stops.

#[test]
fn stop_says_so_answers_what_is_in_flight_and_closes_with_1001() {
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
fn stop_tells_a_client_that_has_not_authenticated_nothing_but_its_close() {
    check(&with_token(), |pair| {
        pair.stop();
        assert_eq!(pair.messages().len(), 0);
        assert_closed(pair, 1001);
    });
}

// Any network.

#[test]
fn each_request_is_answered_once_and_in_order_however_late_the_bytes_are() {
    let rules = rules(|rules| rules.limits.rate_max_requests = u32::MAX);
    for network in Network::slow() {
        let mut pair = connected(&rules, network);
        let mut rng = Rng(0x5eed);
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
                    let payload = format!("\"{}\"", "x".repeat(rng.below(400)));
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
