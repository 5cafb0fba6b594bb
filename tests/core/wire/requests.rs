//! Requests and their responses, messages that are not requests, errors and deadlines of handlers.

use serde_json::{Value, json};
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::Rules;

use super::setup::*;
use crate::support::frames::*;
use crate::support::pair::{EPOCH_MS, Message, Network, Pair};

// Upgrade accepted.

#[test]
fn server_connected_precedes_the_response_to_an_early_request() {
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
fn members_are_written_in_order_and_an_absent_payload_stays_absent() {
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
fn id_and_channel_are_returned_as_the_client_wrote_them() {
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
        let request = pair.take_request().expect("the router refuses unknown channels");
        assert_eq!(request.channel(), None);
        pair.answer(request, Ok(Payload::none()));
        assert_eq!(pair.response().channel(), r"\ud800");
    });
}

#[test]
fn members_can_have_any_order_and_the_last_duplicate_counts() {
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
fn a_message_can_come_in_fragments_between_control_frames() {
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
fn a_message_that_is_not_a_request_is_answered_with_its_position() {
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
fn a_byte_order_mark_is_not_json() {
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
            // The envelope counts as one level.
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
        for code in ErrorCode::ALL.into_iter().chain(ErrorCode::custom("NOT_FOUND")) {
            let error = WireError::with_code(code.clone(), "not \"today\"\n");
            pair.on("plain", move |_| Err(error.clone()));
            pair.request("1", "plain", Some("{}"));
            let response = pair.response();
            assert_eq!((response.id(), response.channel()), ("1", "plain"));
            assert_eq!(response.error(), json!({ "code": code.as_str(), "message": "not \"today\"\n" }));

            let error = WireError::with_code(code.clone(), "no").details(json!({ "retry": [1, null] }));
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
