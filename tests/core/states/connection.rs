//! The connection: each input, in each state, whole and in pieces, at both ends.

use switchboard::protocol::connection::{CloseCode, Connection, Event};
use switchboard::protocol::frame::{Header, Role};

use super::table::Table;
use crate::support::frames::*;

#[test]
fn the_connection_does_what_its_table_of_states_says() {
    let table = Table::read(include_str!("../../../src/protocol/connection.rs"));
    assert_eq!(table.states, ["Open", "Closing", "Closed or Failed"]);
    assert_eq!(table.rows.len(), 9, "rows that this test walks through");
    for role in [Role::Server, Role::Client] {
        for (input, cells) in &table.rows {
            for (states, cell) in table.states.iter().zip(cells) {
                for state in states.split(" or ") {
                    check_connection(role, input, state, cell);
                }
            }
        }
    }
}

const MAX_MESSAGE_BYTES: usize = 100;

fn connection_in(state: &str, role: Role) -> Connection {
    let mut connection = match role {
        Role::Server => Connection::server(MAX_MESSAGE_BYTES),
        Role::Client => Connection::client(MAX_MESSAGE_BYTES, || [0; 4]),
    };
    let mut bytes = match state {
        "Closed" => frame_to(role, FIN | CLOSE, b""),
        "Failed" => frame_to(role, FIN | CONTINUATION, b""),
        _ => Vec::new(),
    };
    if state == "Closing" {
        connection.close(CloseCode::Normal, "", &mut Vec::new());
    }
    connection.receive(&mut bytes, &mut Vec::new());
    assert_eq!(state_of(&connection), state);
    connection
}

/// What was collected before this end closes is dropped, and the rest of it is not collected; only a close frame is.
#[test]
fn a_connection_that_closes_holds_nothing_of_messages() {
    for role in [Role::Server, Role::Client] {
        let long = frame_to(role, TEXT, &[b'x'; 90]);
        let in_fragments =
            [frame_to(role, TEXT, &[b'x'; 50]), frame_to(role, CONTINUATION, &[b'y'; 40])].concat();
        let ping = frame_to(role, FIN | PING, &[b'x'; 100]);
        for bytes in [&long, &in_fragments, &ping] {
            for cut in 0..bytes.len() {
                let mut connection = connection_in("Open", role);
                let mut out = Vec::new();
                let mut bytes = [bytes.clone(), frame_to(role, FIN | CLOSE, &[3, 232])].concat();
                let (before, after) = bytes.split_at_mut(cut);
                receive_all(&mut connection, before, &mut out);
                connection.close(CloseCode::Normal, "", &mut out);
                assert_eq!(connection.buffered_bytes() + connection.announced_bytes(), 0, "cut at {cut}");
                for byte in after {
                    assert!(!connection.is_closed(), "its close frame has not come");
                    receive_all(&mut connection, std::slice::from_mut(byte), &mut out);
                    let held = connection.buffered_bytes();
                    assert!(held <= 256, "{held} bytes");
                }
                assert_eq!(state_of(&connection), "Closed", "{role:?}, cut at {cut}");
            }
        }
    }
}

fn receive_all(connection: &mut Connection, bytes: &mut [u8], out: &mut Vec<u8>) {
    let mut used = 0;
    while used < bytes.len() {
        used += connection.receive(&mut bytes[used..], out).consumed;
    }
}

fn state_of(connection: &Connection) -> &'static str {
    match (connection.is_open(), connection.is_closed(), connection.is_failed()) {
        (true, false, false) => "Open",
        (false, false, false) => "Closing",
        (false, true, false) => "Closed",
        (false, true, true) => "Failed",
        impossible => panic!("{impossible:?}"),
    }
}

/// What a peer can send, and what the cells call the parts of it: the payload of a ping, or a close code.
fn inputs(role: Role, input: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let code = |code: u16| code.to_be_bytes().to_vec();
    let one = |first: u8, payload: &[u8]| frame_to(role, first, payload);
    let other = if role == Role::Server { Role::Client } else { Role::Server };
    match input {
        "text or binary message" => vec![
            (one(FIN | TEXT, "grüezi".as_bytes()), vec![]),
            (one(FIN | BINARY, b"\xff"), vec![]),
            ([one(TEXT, b"a"), one(CONTINUATION, b"b"), one(FIN | CONTINUATION, b"")].concat(), vec![]),
        ],
        "ping" => vec![(one(FIN | PING, b"beat"), b"beat".to_vec()), (one(FIN | PING, b""), vec![])],
        "pong" => vec![(one(FIN | PONG, b"beat"), vec![])],
        "close frame" => vec![
            (one(FIN | CLOSE, &[code(3000), b"bye".to_vec()].concat()), code(3000)),
            (one(FIN | CLOSE, b""), vec![]),
        ],
        "violation in a header or a close frame" => vec![
            (frame_to(other, FIN | TEXT, b"x"), code(1002)),
            (one(FIN | RSV1 | TEXT, b"x"), code(1002)),
            (one(FIN | CLOSE, b"x"), code(1002)),
            (one(FIN | CLOSE, &[code(1000), b"\xff".to_vec()].concat()), code(1007)),
        ],
        "violation in a message" => vec![
            (one(FIN | CONTINUATION, b"x"), code(1002)),
            ([one(TEXT, b"x"), one(TEXT, b"x")].concat(), code(1002)),
            (one(FIN | TEXT, b"\xff"), code(1007)),
            (one(FIN | TEXT, &[b'x'; MAX_MESSAGE_BYTES + 1]), code(1009)),
        ],
        unknown => panic!("no input is known for the row {unknown:?}"),
    }
}

fn check_connection(role: Role, input: &str, state: &str, cell: &str) {
    if cell == "a bug of the caller" {
        return;
    }
    let place = format!("{role:?}, {input} in {state}");
    let method: Option<fn(&mut Connection, &mut Vec<u8>)> = match input {
        "Connection::write_text" => Some(|connection, out| connection.write_text(out, &["hello"])),
        "Connection::ping" => Some(|connection, out| connection.ping(out)),
        "Connection::close" => Some(|connection, out| connection.close(CloseCode::Away, "", out)),
        _ => None,
    };
    if let Some(call) = method {
        let mut connection = connection_in(state, role);
        let mut out = Vec::new();
        call(&mut connection, &mut out);
        let code = 1001_u16.to_be_bytes();
        assert_eq!(done(&connection, None, &out, state), expected(cell, &code), "{place}");
        return;
    }
    for (bytes, part) in inputs(role, input) {
        for piece in [1, 2, bytes.len()] {
            let mut connection = connection_in(state, role);
            let (mut out, mut event) = (Vec::new(), None);
            for piece in bytes.clone().chunks_mut(piece) {
                let mut used = 0;
                while used < piece.len() {
                    let received = connection.receive(&mut piece[used..], &mut out);
                    used += received.consumed;
                    let name = received.event.map(|event| match event {
                        Event::Text(_) | Event::Binary(_) => "Event::Text or Event::Binary",
                        Event::Closed { .. } => "Event::Closed",
                        Event::Failed(violation) => {
                            assert_eq!(u16::from(violation.code()).to_be_bytes(), *part, "{place}");
                            "Event::Failed"
                        }
                    });
                    assert!(event.is_none() || name.is_none(), "{place}: two events");
                    event = event.or(name);
                }
            }
            let done = done(&connection, event, &out, state);
            assert_eq!(done, expected(cell, &part), "{place}, {bytes:x?} in pieces of {piece}");
        }
    }
}

/// What a machine did: the frames that it sent, the event, and the state that it is in now if that is another one.
fn done(connection: &Connection, event: Option<&str>, out: &[u8], before: &str) -> Vec<String> {
    let other = if out.get(1).is_some_and(|byte| byte & 0x80 != 0) { Role::Server } else { Role::Client };
    let mut done = Vec::new();
    let mut rest = out;
    while !rest.is_empty() {
        let header = Header::decode(other, rest).expect("a sound header").expect("a whole header");
        let end = header.header_bytes + header.length as usize;
        // A close frame's reason is for people.
        let counted = if rest[0] & 0xf == CLOSE { end.min(header.header_bytes + 2) } else { end };
        done.push(format!("{:x} {:?}", rest[0] & 0xf, &rest[header.header_bytes..counted]));
        rest = &rest[end..];
    }
    done.extend(event.map(str::to_owned));
    let state = state_of(connection);
    if state != before {
        done.push(format!("→ {state}"));
    }
    done
}

/// The same as a cell says it.
fn expected(cell: &str, part: &[u8]) -> Vec<String> {
    let sent = |opcode: u8, payload: &[u8]| format!("{opcode:x} {payload:?}");
    let words = cell.split(", ").filter(|word| !["dropped", "nothing"].contains(word));
    words
        .map(|word| match word {
            "sends a message" => sent(TEXT, b"hello"),
            "sends a ping" => sent(PING, b""),
            "sends a pong with the same payload" => sent(PONG, part),
            "sends its code back" | "sends a close frame" | "sends a close frame with its code" => {
                sent(CLOSE, part)
            }
            "Event::Text or Event::Binary" | "Event::Closed" | "Event::Failed" => word.to_owned(),
            state if state.starts_with("→ ") => state.to_owned(),
            unknown => panic!("a cell says {unknown:?}, which this test cannot check"),
        })
        .collect()
}
