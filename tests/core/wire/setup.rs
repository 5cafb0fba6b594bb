//! Connected pairs, frames and the rules of a test.

use std::time::Duration;

use switchboard::protocol::session::Rules;

use crate::support::pair::{Message, Network, Pair};

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a script on every network on which time is exact. `server:connected` has come already.
pub(super) fn check(rules: &Rules, script: impl Fn(&mut Pair)) {
    for network in Network::exact() {
        let mut pair = connected(rules, network);
        script(&mut pair);
    }
}

pub(super) fn connected(rules: &Rules, network: Network) -> Pair {
    let mut pair = Pair::new(rules, network);
    pair.on("echo", Ok);
    pair.advance(seconds(1));
    assert_eq!(pair.messages().len(), 1, "server:connected");
    pair
}

pub(super) fn rules(change: impl FnOnce(&mut Rules)) -> Rules {
    let mut rules = Rules::default();
    change(&mut rules);
    rules
}

/// The connection has survived what came before.
pub(super) fn assert_alive(pair: &mut Pair) {
    pair.request("alive", "echo", Some("1"));
    let response = pair.response();
    assert_eq!((response.id(), response.payload()), ("alive", Some("1")));
    assert_eq!(pair.closed(), None);
}

/// Nothing more comes, whatever the client still sends.
pub(super) fn assert_closed(pair: &mut Pair, code: u16) {
    assert_eq!(pair.closed().map(|(code, _)| code), Some(code));
    pair.messages();
    pair.send_raw(&text_frame(r#"{"type":"request","id":"late","channel":"echo"}"#));
    pair.advance(seconds(1));
    assert_eq!(pair.messages().len(), 0, "silence after the close frame");
}

/// A frame of a client. The mask is zero, so that the payload can be read in a failure's dump.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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

pub(super) const FIN: u8 = 0x80;
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

pub(super) fn text_frame(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A header of a client that announces `length` bytes, of which none follow.
pub(super) fn announcement(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// An echo request whose message is `length` bytes long.
pub(super) fn request_of(length: usize) -> String {
    let empty = r#"{"type":"request","id":"long","channel":"echo","payload":""}"#;
    let text = "x".repeat(length - empty.len());
    format!(r#"{{"type":"request","id":"long","channel":"echo","payload":"{text}"}}"#)
}

pub(super) fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::id).collect()
}

// Authentication.

pub(super) fn with_token() -> Rules {
    rules(|rules| rules.token = Some("s3cret".to_owned()))
}
