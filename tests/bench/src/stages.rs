//! Repeats one stage of a request, for an instruction counter: `stages NAME TIMES`; without arguments it lists the stages.
//! Called by `tests/bench/stages.sh`.

use std::hint::black_box;

use switchboard::protocol::envelope::{self, Body, Envelope};
use switchboard::protocol::frame::{self, Header, Role};
use switchboard::protocol::json;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{Action, Rules, Session};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;

/// The name of a stage, its input and its work.
type Stage = (&'static str, fn(usize));

const STAGES: &[Stage] = &[
    ("scan of 16 KiB of members", |times| scan(&members(), times)),
    ("scan of 16 KiB of text", |times| scan(&format!("\"{}\"", "x".repeat(16 << 10)), times)),
    ("envelope with 64 B", envelope),
    ("header of a frame", header),
    ("unmasking 64 B", |times| unmask(64, times)),
    ("unmasking 16 KiB", |times| unmask(16 << 10, times)),
    ("response with 64 B", response),
    ("session, from 64 B in to 64 B out", |times| session("x".repeat(64), times)),
    ("session, from 16 KiB in to 16 KiB out", |times| session("x".repeat(16 << 10), times)),
];

const NOW: Now = Now { at: Millis(1000), unix_ms: 1_767_225_600_000 };

fn request(payload: &str) -> String {
    format!(
        r#"{{"type":"request","id":"10000000","channel":"echo","payload":"{payload}","timestamp":1767225600000}}"#
    )
}

fn members() -> String {
    let members = (0..900).map(|i| match i % 5 {
        0 => format!("\"k{i}\":{}", i * 37),
        1 => format!("\"name{i}\":\"value {i}\""),
        2 => format!("\"f{i}\":true"),
        3 => format!("\"x{i}\":{i}.5"),
        _ => format!("\"arr{i}\":[1,2,3]"),
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn scan(text: &str, times: usize) {
    for _ in 0..times {
        black_box(json::validate(black_box(text))).expect("valid JSON");
    }
}

fn envelope(times: usize) {
    let text = request(&"x".repeat(64));
    for _ in 0..times {
        black_box(Envelope::decode(black_box(&text))).expect("a valid envelope");
    }
}

fn header(times: usize) {
    let mut bytes = Vec::new();
    frame::write_text(&mut bytes, Some([1, 2, 3, 4]), &[&request(&"x".repeat(64))]);
    for _ in 0..times {
        let _ = black_box(Header::decode(Role::Server, black_box(&bytes)));
    }
}

fn unmask(bytes: usize, times: usize) {
    let mut payload = vec![b'x'; bytes];
    for _ in 0..times {
        frame::unmask(black_box(&mut payload), black_box([1, 2, 3, 4]), 0);
    }
}

fn response(times: usize) {
    let payload = format!("\"{}\"", "x".repeat(64));
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        let timestamp = envelope::Timestamp::new(black_box(NOW.unix_ms));
        let body = Body::Payload(Some(black_box(&payload)));
        frame::write_text(&mut out, None, &envelope::response("10000000", "echo", body, &timestamp));
    }
}

/// From a frame to a request, and from a response to a frame.
fn session(payload: String, times: usize) {
    let mut rules = Rules::default();
    rules.limits.rate_max_requests = u32::MAX;
    let mut session = Session::<()>::new(rules.into(), Uuid::from_random([7; 16]), true, NOW.at);
    let mut bytes = Vec::new();
    frame::write_text(&mut bytes, Some([1, 2, 3, 4]), &[&request(&payload)]);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    for _ in 0..times {
        input.clear();
        input.extend_from_slice(&bytes);
        out.clear();
        let step = session.handle_input(NOW, &mut input, &mut out);
        let Some(Action::Request(request)) = step.action else { panic!("no request: {step:?}") };
        let payload: Payload = request.payload();
        session.answer(NOW, request, Ok(payload), &mut out);
        black_box(&out);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (name, times) = (arguments.next(), arguments.next().and_then(|times| times.parse().ok()));
    match (name, times) {
        (Some(name), Some(times)) => {
            let stage =
                STAGES.iter().find(|stage| stage.0 == name).expect("the argument is the name of a stage");
            stage.1(times);
        }
        _ => STAGES.iter().for_each(|stage| println!("{}", stage.0)),
    }
}
