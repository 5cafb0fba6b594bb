//! Connected pairs, frames and the rules of a test.

use std::time::Duration;

use switchboard::protocol::session::Rules;

use crate::support::frames::*;
use crate::support::pair::{Message, Network, Pair};

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a script on every network with exact time. `server:connected` was received before.
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

/// The connection still works.
pub(super) fn assert_alive(pair: &mut Pair) {
    pair.request("alive", "echo", Some("1"));
    let response = pair.response();
    assert_eq!((response.id(), response.payload()), ("alive", Some("1")));
    assert_eq!(pair.closed(), None);
}

/// Nothing more is received, whatever the client sends.
pub(super) fn assert_closed(pair: &mut Pair, code: u16) {
    assert_eq!(pair.closed().map(|(code, _)| code), Some(code));
    pair.messages();
    pair.send_raw(&text_frame(r#"{"type":"request","id":"late","channel":"echo"}"#));
    pair.advance(seconds(1));
    assert_eq!(pair.messages().len(), 0, "silence after the close frame");
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
