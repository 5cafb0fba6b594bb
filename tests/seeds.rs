//! The fuzzer's seeds and its old findings, through the same properties, and a short random run.

mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use support::properties;
use support::random::Rng;
use switchboard::protocol::admission::Seats;
use switchboard::protocol::connection::Violation;
use switchboard::protocol::envelope::Envelope;
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::frame::{FrameError, Header, Role};
use switchboard::protocol::handshake::{self, AccessRules, Head};
use switchboard::protocol::json::{self, Shape};
use switchboard::protocol::outbox::Outbox;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::socket_table::Socket;
use switchboard::protocol::time::{Millis, Now};
#[cfg(feature = "client")]
use switchboard::protocol::uuid::Uuid;

type Property = fn(&[u8]);

const TARGETS: &[(&str, Property)] = &[
    ("json", properties::json),
    ("envelope", properties::envelope),
    ("frames", properties::frames),
    ("groups", properties::groups),
    ("outbox", properties::outbox),
    ("connection", properties::connection),
    ("session", properties::session),
    ("fair", properties::fair),
    #[cfg(feature = "client")]
    ("caller", properties::caller),
    #[cfg(feature = "client")]
    ("race", properties::race),
    ("upgrade", properties::upgrade),
    ("access", properties::access),
    ("admission", properties::admission),
    #[cfg(feature = "backend")]
    ("transcript", properties::transcript),
    #[cfg(feature = "backend")]
    ("sse", properties::sse),
    #[cfg(feature = "backend")]
    ("tar", properties::tar),
    #[cfg(feature = "backend")]
    ("origin", properties::origin),
];

/// Mutated seeds per target; they take a second or two without optimisation.
const MUTATIONS: usize = 2000;

/// The inputs of a target by name. A missing folder is an error; files that begin with a dot are ignored.
fn inputs(kind: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    inputs_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind), target)
}

fn inputs_below(folder: &Path, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder.join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("a readable folder"))
        .map(|entry| (entry.file_name().into_string().expect("a name of ASCII"), entry.path()))
        .filter(|(name, _)| !name.starts_with('.'))
        .map(|(_, path)| (path.display().to_string(), fs::read(path).expect("a readable file")))
        .collect();
    inputs.sort();
    inputs
}

fn check(property: Property, input: &[u8], name: &str) {
    if catch_unwind(|| property(input)).is_err() {
        panic!("{name} does not hold, bytes \"{}\"", input.escape_ascii());
    }
}

/// `CORPUS=fuzz/corpus` adds the corpora of the fuzzers.
#[test]
fn every_seed_and_every_earlier_finding_holds() {
    let corpus = std::env::var_os("CORPUS");
    for &(target, property) in TARGETS {
        let seeds = inputs("seeds", target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        let corpora = corpus.as_ref().map(|folder| inputs_below(Path::new(folder), target));
        for (name, input) in
            seeds.iter().chain(&inputs("regressions", target)).chain(corpora.iter().flatten())
        {
            check(property, input, name);
        }
        check(property, b"", target);
    }
}

/// `SEED=…` chooses another seed, such as one that failed.
#[test]
fn every_property_holds_for_mutated_seeds() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for &(target, property) in TARGETS {
        let seeds = inputs("seeds", target);
        let mut random = Rng::new(seed);
        for round in 0..MUTATIONS {
            let input = mutate(&seeds, &mut random);
            check(property, &input, &format!("SEED={seed}, {target}, round {round}"));
        }
    }
}

/// A seed with some bytes changed, taken out, put in, or continued with a part of another seed.
fn mutate(seeds: &[(String, Vec<u8>)], random: &mut Rng) -> Vec<u8> {
    let mut input = seeds[random.index(seeds.len())].1.clone();
    for _ in 0..=random.below(6) {
        let at = random.index(input.len() + 1);
        let byte = random.next().to_be_bytes()[1];
        match random.below(6) {
            0 => input.insert(at, byte),
            1 => input.truncate(at),
            2 if at < input.len() => drop(input.remove(at)),
            3 if at < input.len() => input[at] ^= 1 << (byte % 8),
            4 if at < input.len() => input[at] = byte,
            _ => {
                let other = &seeds[random.index(seeds.len())].1;
                let from = random.index(other.len());
                let to = from + random.index(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    input
}

/// The canary: each check accepts a correct result and refuses a wrong one.
#[test]
fn each_property_can_fail() {
    can_fail("json: the verdict", |wrong| {
        let text = if wrong { "[1,]" } else { "[1]" };
        properties::json::verdict_matches_serde_json(text, Ok(()));
        properties::json::verdict_matches_serde_json(r#""\ud800""#, Ok(()));
    });
    can_fail("json: the position of an error", |wrong| {
        let mut error = json::validate("[1 2]").unwrap_err();
        error.at += usize::from(wrong);
        properties::json::error_is_at_the_first_wrong_byte("[1 2]", Err(error));
    });
    can_fail("json: members", |wrong| {
        let text = r#"{"a":1,"b":2}"#;
        let mut seen = Vec::new();
        json::members(text, |member| seen.push(member)).unwrap();
        if wrong {
            seen.pop();
        }
        let shape = Shape::Object { end: text.len() - 1 };
        properties::json::members_are_those_of_serde_json(text, shape, &seen);
        properties::json::members_cover_the_text(text, shape, &seen);
    });
    can_fail("json: members that are skipped", |wrong| {
        let (text, mut seen) = (r#"{"a":[1],"b":2}"#, Vec::new());
        json::members(text, |member| seen.push(member)).unwrap();
        if wrong {
            seen.pop();
        }
        properties::json::members_are_skipped_alike(text, &seen);
    });
    can_fail("json: strings", |wrong| {
        properties::json::string_means("\"a\\u000a\"", if wrong { "a" } else { "a\n" });
    });
    can_fail("json: payloads", |wrong| {
        let made = Payload::from_json(if wrong { "[1]" } else { "[1,2]" });
        properties::json::payload_is_the_text("[1,2]", made, Ok(()));
    });
    can_fail("json: the path of a byte", |wrong| {
        let text = r#"{"a":[1]}"#;
        let mut paths = vec![String::new(); text.len()];
        properties::json::name_bytes(text, text, 0, "", &mut paths);
        properties::json::path_is_that_of_the_byte(&paths, 6, if wrong { "a" } else { "a[0]" });
    });
    can_fail("groups: their members", |wrong| {
        let mut groups = switchboard::protocol::groups::Groups::new(1, 1);
        groups.join("room 1", 2, 6).unwrap();
        let pairs = if wrong { Vec::new() } else { vec![("room 1".to_owned(), 2)] };
        properties::groups::groups_are_the_pairs(&groups, &pairs);
    });
    can_fail("admission: quotas", |wrong| {
        let uses = [(1, Millis(0), true), (2, Millis(1), true)];
        let result = if wrong { Ok(()) } else { Err(Duration::from_millis(8)) };
        properties::admission::quota_is_right(&uses, (1, Duration::from_millis(10), 2), 1, Millis(2), result);
    });
    #[cfg(feature = "client")]
    can_fail("frames: the first frame", |wrong| {
        let reason = if wrong { "no" } else { "on" }.to_owned();
        let read = handshake::FirstFrame::Close(Some(4401), reason);
        properties::frames::first_frame_is_right(&[0x88, 4, 0x11, 0x31, b'o', b'n', 0], read);
    });
    can_fail("admission: counts", |wrong| {
        properties::admission::count_is_right(&[1, 2, 1], 2, 1, wrong);
    });
    can_fail("frames: the byte that shows a violation", |wrong| {
        let start: &[u8] = if wrong { &[0x82, 0xff, 0x80] } else { &[0x82, 0xff, 0x7f] };
        properties::frames::header_is_right(Role::Server, start, Ok(None));
    });
    can_fail("connection: the byte that shows a violation", |wrong| {
        let scene =
            properties::connection::Scene { role: Role::Server, max_message_bytes: 300, closes_at: None };
        scene.can_go_on(if wrong { &[0x82, 0xfe, 2] } else { &[0x82, 0xfe, 1] });
    });
    can_fail("envelope: members", |wrong| {
        let text = r#"{"type":"event","channel":"c","payload":1,"payload":2}"#;
        let mut decoded = Envelope::decode(text);
        if let Ok(envelope) = &mut decoded
            && wrong
        {
            envelope.payload = Some("1");
        }
        properties::envelope::decoded_matches_the_text(text, decoded);
    });
    can_fail("envelope: the start of a message", |wrong| {
        let message = format!(r#"{{"id":"1","x":"{}"}}"#, "x".repeat(2000));
        let id = if wrong { None } else { Some("1") };
        properties::envelope::peeked_matches_the_start(message.as_bytes(), (id, None));
    });
    can_fail("envelope: round trip", |wrong| {
        let text = r#"{"type":"event","channel":"c","timestamp":7}"#;
        let meant = Envelope::decode(text).unwrap();
        properties::envelope::text_reads_as(text, &meant, if wrong { 8 } else { 7 });
    });
    can_fail("frames: headers", |wrong| {
        let answer = if wrong { Ok(None) } else { Err(FrameError::NotMasked) };
        properties::frames::header_is_right(Role::Server, &[0x81, 0x00], answer);
        let header = Header::decode(Role::Server, &[0x81, 0x80, 0, 0, 0, 0]);
        properties::frames::header_is_right(Role::Server, &[0x81, 0x80, 0, 0, 0, 0], header);
    });
    can_fail("frames: masks", |wrong| {
        let masked = if wrong { [0, 0] } else { [4, 1] };
        properties::frames::mask_is_applied(&[0, 0], &masked, [1, 2, 3, 4], 3);
    });
    can_fail("outbox: its bytes", |wrong| {
        let mut outbox = Outbox::default();
        if wrong {
            outbox.push(&[0x81, 0x00], 0);
        }
        properties::outbox::NaiveOutbox::default().is_mirrored_by(&outbox);
    });
    can_fail("outbox: slow clients", |wrong| {
        properties::outbox::slow_at_is_right(Some(Millis(10)), Some(Millis(if wrong { 11 } else { 10 })));
    });
    can_fail("fair: the next turn", |wrong| {
        let mut naive = properties::fair::NaiveQueue::new(3);
        for (key, number) in [(1, 1), (1, 2), (2, 3)] {
            naive.enter(key, number);
        }
        naive.admits(Some(1));
        naive.admits(Some(if wrong { 2 } else { 3 }));
    });
    #[cfg(feature = "client")]
    can_fail("caller: the end of a call", |wrong| {
        let now = Millis(if wrong { 999 } else { 1000 });
        properties::caller::ended(Some(Millis(1000)), properties::caller::Ending::TimedOut, now);
    });
    #[cfg(feature = "client")]
    can_fail("caller: ids", |wrong| {
        let text = "6ba7b810-9DAD-41d1-80b4-00c04fd430c8";
        properties::caller::ids_parse(text.as_bytes(), |text| match wrong {
            true => "6ba7b810-9dad-41d1-80b4-00c04fd430c9".parse::<Uuid>(),
            false => text.parse(),
        });
    });
    #[cfg(feature = "client")]
    can_fail("race: the next attempt", |wrong| {
        let mut naive = properties::race::NaiveRace::new(2, Millis(0));
        naive.starts(Some(0), Millis(0));
        naive.starts(Some(1), Millis(if wrong { 249 } else { 250 }));
    });
    #[cfg(feature = "client")]
    can_fail("race: the families", |wrong| {
        let given = ["[::1]:1", "[::2]:2", "1.1.1.1:3"].map(|address| address.parse().unwrap());
        let ordered = if wrong { given } else { [given[0], given[2], given[1]] };
        properties::race::families_alternate(&given, &ordered);
    });
    can_fail("connection: tungstenite", |wrong| {
        let scene =
            properties::connection::Scene { role: Role::Server, max_message_bytes: 100, closes_at: None };
        let stream = [0x81, 0x81, 0, 0, 0, 0, b'a', 0xc1, 0x80, 0, 0, 0, 0];
        let (mut run, last_frame_at) = scene.run(&stream, &[]);
        if wrong {
            run.events.remove(0);
        }
        assert_eq!(run.events.last(), Some(&failed(FrameError::ReservedBit)));
        scene.matches_tungstenite(&stream, &run, last_frame_at);
    });
    can_fail("connection: after this end has closed", |wrong| {
        let scene =
            properties::connection::Scene { role: Role::Server, max_message_bytes: 100, closes_at: Some(2) };
        let stream = [0x80, 0x81, 0, 0, 0, 0, b'a', 0x88, 0x80, 0, 0, 0, 0];
        let (mut run, _) = scene.run(&stream, &[]);
        if wrong {
            run.events.pop();
        }
        scene.ends_by_its_frames(&stream, 2, &run);
    });
    can_fail("connection: memory", |wrong| {
        properties::connection::memory_is_within(if wrong { 5000 } else { 50 }, 100);
    });
    can_fail("session: one answer", |wrong| {
        let now = Now { at: Millis(0), unix_ms: 7 };
        let text = r#"{"type":"response","id":"1","channel":"c","timestamp":7}"#.to_owned();
        let heard = [properties::session::Heard::Message(text)];
        properties::session::response(&heard, "1", "c", wrong.then_some(ErrorCode::Timeout), now);
    });
    can_fail("admission: places", |wrong| {
        let (mut seats, mut taken) = (Seats::new(1), Vec::new());
        let (first, _) = seats.enter(0, ());
        properties::admission::seat_is_right(&mut taken, 1, 0, (first, None));
        let (second, evicted) = seats.enter(1, ());
        let evicted = evicted.map(|()| first).filter(|_| !wrong);
        properties::admission::seat_is_right(&mut taken, 1, 1, (second, evicted));
    });
    can_fail("admission: wrong tokens", |wrong| {
        let wait = Duration::from_millis(if wrong { 99 } else { 100 });
        properties::admission::wait_is_right(400, 4, 100, Some(wait));
    });
    can_fail("admission: the client's address", |wrong| {
        let headers: Vec<(&str, &[u8])> = vec![("x-forwarded-for", b"1.1.1.1, 2.2.2.2, 10.0.0.2")];
        let head = Head { method: "GET", http_1_1: true, query: None, headers };
        let peer = "10.0.0.1".parse().unwrap();
        let client = if wrong { "1.1.1.1" } else { "2.2.2.2" };
        properties::admission::client_is_right(&head, peer, client.parse().unwrap());
    });
    can_fail("admission: sockets", |wrong| {
        let line = "0: 0100007F:0BB9 0100007F:C350 01 0:0 02:0 0 1000 0 7";
        let owner = if wrong { None } else { Some(1000) };
        let ends = ["127.0.0.1:3001", "127.0.0.1:50000"].map(|end| end.parse().unwrap());
        properties::admission::socket_is_right((ends[0], ends[1], owner), Socket::parse(line));
    });
    #[cfg(feature = "backend")]
    can_fail("sse: the events", |wrong| {
        let event = |data: &str| switchboard::backend::ai::sse::Event {
            name: "message".to_owned(),
            data: data.to_owned(),
            last_id: String::new(),
        };
        properties::sse::events_are_right(&[event("a")], &[event(if wrong { "b" } else { "a" })]);
    });
    #[cfg(feature = "backend")]
    can_fail("sse: memory", |wrong| properties::sse::memory_is_within(if wrong { 5000 } else { 50 }));
    #[cfg(feature = "backend")]
    can_fail("origin: the place", |wrong| {
        properties::origin::place_is(if wrong { "https://a" } else { "https://b" }, "https://a@B.:443/x");
    });
    #[cfg(feature = "backend")]
    can_fail("tar: the entries", |wrong| {
        let seed = &inputs("seeds", "tar")[0].1[4..];
        let mut entries = properties::tar::read(seed, &[0]).unwrap();
        if wrong {
            entries[0].0.name.push('x');
        }
        properties::tar::entries_are_those_of_the_crate(seed, &entries);
    });
    #[cfg(feature = "backend")]
    can_fail("tar: memory", |wrong| properties::tar::memory_is_within(if wrong { 1 << 20 } else { 50 }));
    can_fail("upgrade: the verdict", |wrong| {
        let headers: Vec<(&str, &[u8])> = vec![
            ("host", b"localhost"),
            ("upgrade", b"websocket"),
            ("connection", b"upgrade"),
            ("sec-websocket-version", b"13"),
            ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut head = Head { method: "GET", http_1_1: true, query: None, headers };
        let rules = AccessRules { loopback: true, ..AccessRules::default() };
        let verdict = handshake::check(&head, &rules);
        if wrong {
            head.headers.push(("origin", b"https://evil.example"));
        }
        properties::upgrade::verdict_is_right(&head, &rules, &verdict);
    });
    can_fail("access: the verdicts", |wrong| {
        let rules = AccessRules::default();
        let (host, origin) = ("evil.example", "http://evil.example");
        let verdicts = properties::access::verdicts(host, origin, &rules);
        properties::access::verdicts_are_right(host, origin, &rules, (verdicts.0, verdicts.1 ^ wrong));
    });
    can_fail("access: a host", |wrong| {
        let verdict = if wrong { Ok(()) } else { Err(None) };
        properties::access::host_setting_is_judged("http://x", verdict);
    });
    can_fail("access: an origin", |wrong| {
        let instead = if wrong { "app.example" } else { "https://app.example" };
        properties::access::origin_setting_is_judged("app.example", Err(Some(instead.to_owned())));
    });
    can_fail("access: a public URL", |wrong| {
        let origin = if wrong { "https://*.example" } else { "https://app.example" };
        let read = ("app.example".to_owned(), origin.to_owned());
        properties::access::public_url_is_right("https://app.example", Some(read));
    });
    #[cfg(feature = "client")]
    can_fail("upgrade: an answer", |wrong| {
        let head = Head { method: "GET", http_1_1: true, query: None, headers: Vec::new() };
        let verdict = if wrong { Ok(()) } else { handshake::check_answer(&head, "") };
        properties::upgrade::answer_verdict_is_right(&head, verdict);
    });
    can_fail("upgrade: the credential", |wrong| {
        let headers: Vec<(&str, &[u8])> = vec![("sec-websocket-protocol", b"switchboard.v1, bearer.a")];
        let head = Head { method: "GET", http_1_1: true, query: Some("token=b"), headers };
        let sent = if wrong { b"b" } else { b"a" };
        properties::upgrade::credential_is_right(&head, Some(sent.to_vec()));
    });
    can_fail("upgrade: the token", |wrong| {
        let headers: Vec<(&str, &[u8])> = vec![("authorization", b"Bearer s3cret")];
        let head = Head { method: "GET", http_1_1: true, query: None, headers };
        properties::upgrade::token_verdict_is_right(&head, Some("s3cret"), (!wrong, true));
    });
}

#[cfg(feature = "backend")]
#[test]
fn the_property_of_transcripts_can_fail() {
    use switchboard::backend::code::transcript;

    can_fail("transcript: lines", |wrong| {
        let line = if wrong { None } else { Some(b"a".to_vec()) };
        properties::transcript::lines_are_those_between_line_ends(b"a\nb", 1, &vec![(0, line)]);
    });
    can_fail("transcript: the verdict", |wrong| {
        let line = r#"{"type":"user","uuid":"a","message":{"content":"x"}}"#;
        let error = wrong.then_some(transcript::LineError::OddMembers);
        properties::transcript::verdict_matches_serde_json(line, error);
    });
    can_fail("transcript: an entry", |wrong| {
        let line = r#"{"type":"user","uuid":"a","message":{"content":"x"}}"#;
        let mut decoded = transcript::decode(line.as_bytes()).unwrap();
        if wrong {
            decoded.id = Some("b".to_owned());
        }
        properties::transcript::line_matches_serde_json(line, &decoded);
    });
}

fn failed(error: FrameError) -> properties::connection::OwnedEvent {
    properties::connection::OwnedEvent::Failed(Violation::Frame(error))
}

fn can_fail(name: &str, judge: impl Fn(bool)) {
    judge(false);
    assert!(catch_unwind(AssertUnwindSafe(|| judge(true))).is_err(), "{name} accepts a wrong answer");
}
