//! The connection machine, compared with itself under other cuts and with `tungstenite`'s `WebSocket`.

use std::io::{Cursor, Read, Result as IoResult, Write};

use switchboard::protocol::connection::{CloseCode, Connection, Event, Violation};
use switchboard::protocol::frame::{self, FrameError, Header, OpCode, Role};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{self, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::frames::faults;
use super::{Choices, cut};

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// The events and the output are the same wherever the stream is cut. The messages are those that `tungstenite` reads. A
/// stream is refused where `tungstenite` refuses it or where we are stricter on purpose. Memory stays within the limit, what
/// is announced is known from the headers, and nothing is sent after a close frame. Once this end has closed, messages are
/// neither collected nor judged; the peer's close frame and broken headers still end the connection.
///
/// The bytes are: the role and its limit, when this side closes (if it does), the number of cuts, the cuts, the stream.
pub fn connection(data: &[u8]) {
    let mut choices = Choices::new(data);
    let setup = choices.byte();
    let role = if setup & 1 == 0 { Role::Server } else { Role::Client };
    let max_message_bytes = [125, 1000, 0, 1, 5, 126, 70_000, 300][usize::from(setup >> 1 & 7)];
    let closes_at = (setup & 0x80 != 0).then(|| usize::from(choices.byte()));
    let count = usize::from(choices.byte() % 16);
    let cuts = choices.take(count);
    let stream = choices.rest();

    let scene = Scene { role, max_message_bytes, closes_at };
    let (whole, last_frame_at) = scene.run(stream, &[]);
    assert_eq!(scene.run(stream, cuts).0, whole, "cut into {cuts:?}");
    // Byte by byte is slow for long streams, and the cuts above cover them.
    if stream.len() <= 512 {
        assert_eq!(scene.run(stream, &[1]).0, whole, "byte by byte");
    }
    match closes_at {
        None => scene.matches_tungstenite(stream, &whole, last_frame_at),
        Some(at) => scene.ends_by_its_frames(stream, at.min(stream.len()), &whole),
    }
}

/// One end of a connection.
#[derive(Clone, Copy)]
pub struct Scene {
    pub role: Role,
    pub max_message_bytes: usize,
    /// How many bytes of the stream arrive before this end closes.
    pub closes_at: Option<usize>,
}

/// Everything that a connection produced.
#[derive(Debug, PartialEq, Default)]
pub struct Run {
    pub events: Vec<OwnedEvent>,
    pub out: Vec<u8>,
}

/// An [`Event`] that owns its data.
#[derive(Debug, PartialEq)]
pub enum OwnedEvent {
    Text(String),
    Binary(Vec<u8>),
    Closed(Option<u16>, String),
    Failed(Violation),
}

pub fn own(event: Event<'_>) -> OwnedEvent {
    match event {
        Event::Text(text) => OwnedEvent::Text(text.into_owned()),
        Event::Binary(bytes) => OwnedEvent::Binary(bytes.into_owned()),
        Event::Closed { code, reason } => OwnedEvent::Closed(code, reason),
        Event::Failed(violation) => OwnedEvent::Failed(violation),
    }
}

impl Scene {
    /// Feeds a stream, cut into pieces of these lengths. Also returns the position at which the last step began.
    pub fn run(&self, stream: &[u8], cuts: &[u8]) -> (Run, usize) {
        let mut connection = match self.role {
            Role::Server => Connection::server(self.max_message_bytes),
            Role::Client => Connection::client(self.max_message_bytes, || MASK),
        };
        let mut run = Run::default();
        let mut last_step_at = 0;
        let mut position = 0;
        let (before, after) = stream.split_at(self.closes_at.unwrap_or(stream.len()).min(stream.len()));
        for (part, closes) in [(before, self.closes_at.is_some()), (after, false)] {
            for piece in cut(part, cuts) {
                self.feed(&mut connection, piece, &mut run, &mut position, &mut last_step_at);
                if stream.len() <= 512 {
                    let expected = if connection.is_open() { self.announced(&stream[..position]) } else { 0 };
                    assert_eq!(connection.announced_bytes(), expected, "after {position} bytes");
                    if connection.is_open() {
                        self.can_go_on(&stream[..position]);
                    }
                }
            }
            if closes {
                // Longer than a close frame can hold, and of two-byte characters.
                connection.close(CloseCode::Away, &"é".repeat(100), &mut run.out);
                connection.close(CloseCode::Error, "once is enough", &mut run.out);
                memory_is_within(connection.buffered_bytes(), 0);
            }
        }
        let failed = matches!(run.events.last(), Some(OwnedEvent::Failed(_)));
        assert_eq!(connection.is_failed(), failed);
        self.output_is_well_formed(&connection, &run.out);
        (run, last_step_at)
    }

    fn feed(
        &self,
        connection: &mut Connection,
        piece: &[u8],
        run: &mut Run,
        position: &mut usize,
        last_step_at: &mut usize,
    ) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        while at < piece.len() {
            let (open, closed, silent_at) = (connection.is_open(), connection.is_closed(), run.out.len());
            if !closed {
                *last_step_at = *position;
            }
            let left = piece.len() - at;
            let received = connection.receive(&mut piece[at..], &mut run.out);
            let (consumed, event) = (received.consumed, received.event.map(own));
            assert!((1..=left).contains(&consumed), "{consumed} of {left} bytes consumed");
            assert!(!closed || (consumed == left && event.is_none()), "closed, but it reports {event:?}");
            let end = matches!(event, None | Some(OwnedEvent::Closed(..) | OwnedEvent::Failed(_)));
            assert!(open || (end && run.out.len() == silent_at), "it continues after its close frame");
            assert_eq!(
                matches!(event, Some(OwnedEvent::Closed(..) | OwnedEvent::Failed(_))),
                connection.is_closed() && !closed
            );
            let most = if connection.is_open() { self.max_message_bytes } else { 0 };
            memory_is_within(connection.buffered_bytes(), most);
            run.events.extend(event);
            at += consumed;
            *position += consumed;
            // Without bytes there is no step.
            let nothing = connection.receive(&mut [], &mut run.out);
            assert!(nothing.consumed == 0 && nothing.event.is_none());
        }
    }

    /// Bytes after which the connection is open end with a frame, or a part of one, that may be there: it is not refused late.
    pub fn can_go_on(&self, stream: &[u8]) {
        let (mut at, mut message) = (0, None);
        while let Ok(Some(header)) = Header::decode(self.role, stream.get(at..).unwrap_or_default()) {
            if let OpCode::Data(_) = header.opcode {
                let whole = message.unwrap_or(0) + header.length;
                message = (!header.fin).then_some(whole);
            }
            at += header.header_bytes + header.length as usize;
        }
        let Some([first, rest @ ..]) = stream.get(at..) else { return };
        assert_eq!(faults(self.role, &stream[at..]), [], "refused late");
        if first & 0x08 != 0 {
            return;
        }
        assert_eq!(
            first & 0x0f == 0,
            message.is_some(),
            "a message begins where one is to go on, or the reverse"
        );
        let size = match rest.first().map(|second| second & 0x7f) {
            Some(127) => 8,
            Some(126) => 2,
            length => {
                return assert!(
                    u64::from(length.unwrap_or(0)) + message.unwrap_or(0) <= self.max_message_bytes as u64
                );
            }
        };
        let number =
            (1..=size).fold(0_u64, |number, at| number << 8 | u64::from(*rest.get(at).unwrap_or(&0)));
        assert!(number + message.unwrap_or(0) <= self.max_message_bytes as u64, "too big, and refused late");
    }

    /// The bytes of the message that these bytes begin, as the headers announce them.
    fn announced(&self, stream: &[u8]) -> usize {
        let (mut at, mut message) = (0, 0);
        while let Ok(Some(header)) = Header::decode(self.role, stream.get(at..).unwrap_or_default()) {
            let end = at + header.header_bytes + header.length as usize;
            if let OpCode::Data(_) = header.opcode {
                message += header.length as usize;
                if header.fin && end <= stream.len() {
                    message = 0;
                }
            }
            at = end;
        }
        message
    }

    /// Reads the frames after this end has closed, one by one. The first close frame or broken header ends the connection.
    pub fn ends_by_its_frames(&self, stream: &[u8], closes_at: usize, run: &Run) {
        let mut expected = Scene { closes_at: None, ..*self }.run(&stream[..closes_at], &[]).0;
        let is_open = !matches!(expected.events.last(), Some(OwnedEvent::Closed(..) | OwnedEvent::Failed(_)));
        expected.events.extend(is_open.then(|| self.end_after(stream, closes_at)).flatten());
        assert_eq!(run.events, expected.events, "closed at {closes_at}");
        let ours = run.out.strip_prefix(expected.out.as_slice()).expect("the output before it closes");
        let frames = usize::from(is_open);
        assert_eq!(ours.first().map_or(0, |first| usize::from(*first == 0x88)), frames, "one close frame");
    }

    /// The event of the first close frame or broken header that is complete after this end has closed.
    fn end_after(&self, stream: &[u8], closes_at: usize) -> Option<OwnedEvent> {
        let mut at = 0;
        loop {
            let header = match Header::decode(self.role, stream.get(at..)?) {
                Ok(header) => header?,
                Err(error) => return Some(OwnedEvent::Failed(Violation::Frame(error))),
            };
            let start = at + header.header_bytes;
            at = start.saturating_add(usize::try_from(header.length).unwrap_or(usize::MAX));
            if header.opcode == frame::CLOSE && at > closes_at {
                let mask = header.mask.unwrap_or_default();
                let payload = stream.get(start..at)?.iter().zip(mask.iter().cycle());
                return Some(closed_by(&payload.map(|(a, b)| a ^ b).collect::<Vec<_>>()));
            }
        }
    }

    /// The output is pongs, and one close frame at the end exactly if the connection is no longer open.
    fn output_is_well_formed(&self, connection: &Connection, out: &[u8]) {
        let reader = if self.role == Role::Server { Role::Client } else { Role::Server };
        let (mut at, mut closes) = (0, 0);
        while at < out.len() {
            let header = Header::decode(reader, &out[at..]).expect("allowed").expect("whole");
            at += header.header_bytes + header.length as usize;
            assert_eq!(closes, 0, "a frame follows the close frame");
            assert!(at <= out.len() && header.fin);
            match header.opcode {
                frame::PONG => {}
                frame::CLOSE => closes += 1,
                other => panic!("unexpected frame: {other:?}"),
            }
        }
        assert_eq!(closes == 0, connection.is_open());
    }

    /// Compares with `tungstenite` on the same stream. The five intended differences are numbered below; everything else
    /// must be the same.
    pub fn matches_tungstenite(&self, stream: &[u8], run: &Run, last_frame_at: usize) {
        let (last, earlier) = match run.events.split_last() {
            Some((OwnedEvent::Failed(violation), earlier)) => (Some(*violation), earlier),
            _ => (None, run.events.as_slice()),
        };
        let Some(violation) = last else {
            let theirs = self.tungstenite(stream);
            assert!(ended(&theirs.end), "we accept what tungstenite refuses: {:?}", theirs.end);
            self.same(earlier, None, &run.out, &theirs.messages);
            return;
        };
        // Before the frame that we refuse, tungstenite refuses nothing either.
        let before = self.tungstenite(&stream[..last_frame_at]);
        assert!(ended(&before.end), "it refuses an earlier frame: {:?}", before.end);
        self.same(earlier, Some(violation), &run.out, &before.messages);

        // (1) We refuse a frame at its header, or at the first bad byte of its text; tungstenite waits for the whole
        // frame. So it gets the rest of the frame.
        let mut longer = stream.to_vec();
        longer.resize(stream.len() + self.frame_limit() + frame::MAX_HEADER_BYTES, 0);
        let after = self.tungstenite(&longer);
        let refused = !ended(&after.end) && after.messages.len() == before.messages.len();
        let frame = &longer[last_frame_at..];
        let stricter = match violation {
            // (2) It accepts lengths that are not in their shortest form (RFC 6455, section 5.2, forbids them) ...
            Violation::Frame(FrameError::BadLength) => announced(frame) < shortest(frame),
            // ... and so a control frame whose short length has a long form.
            Violation::Frame(FrameError::ControlTooLong) => announced(frame) <= 125,
            // (3) It replaces a code that must not be sent by a close frame of its own.
            Violation::BadClose => match after.messages.get(before.messages.len()) {
                Some(Message::Close(Some(close))) => {
                    close.code == CloseCode::Protocol && close.reason.as_str() == "Protocol violation"
                }
                _ => false,
            },
            _ => false,
        };
        assert!(refused || stricter, "{violation:?}, but tungstenite continues: {:?}", after.messages);
    }

    fn same(&self, events: &[OwnedEvent], failed: Option<Violation>, out: &[u8], theirs: &[Message]) {
        let mut expected_out = Vec::new();
        let mut expected = Vec::new();
        for message in theirs {
            match message {
                Message::Text(text) => expected.push(OwnedEvent::Text(text.to_string())),
                Message::Binary(bytes) => expected.push(OwnedEvent::Binary(bytes.to_vec())),
                Message::Ping(payload) => self.control(0x8a, &[payload], &mut expected_out),
                Message::Pong(_) => {}
                Message::Close(close) => {
                    let mut code = close.as_ref().map(|close| u16::from(close.code));
                    let mut reason = close.as_ref().map_or("", |close| close.reason.as_str());
                    // (4) 1014 is in the registry of close codes, but tungstenite does not know it.
                    if let Some(OwnedEvent::Closed(Some(1014), ours)) = events.last()
                        && (code, reason) == (Some(1002), "Protocol violation")
                    {
                        (code, reason) = (Some(1014), ours);
                    }
                    expected.push(OwnedEvent::Closed(code, reason.to_owned()));
                    // (5) It sends the reason back, we send only the code.
                    let code = code.map(u16::to_be_bytes);
                    self.control(0x88, &[code.as_ref().map_or(&[], |code| code)], &mut expected_out);
                }
                Message::Frame(_) => panic!("tungstenite returns no raw frames here"),
            }
        }
        if let Some(violation) = failed {
            let code = u16::from(violation.code()).to_be_bytes();
            self.control(0x88, &[&code, violation.as_str().as_bytes()], &mut expected_out);
        }
        assert_eq!(events, expected);
        assert_eq!(out, expected_out, "after {expected:?}");
    }

    /// A control frame, written by hand.
    fn control(&self, first: u8, payload: &[&[u8]], out: &mut Vec<u8>) {
        let payload = payload.concat();
        let masked = self.role == Role::Client;
        out.extend([first, payload.len() as u8 | if masked { 0x80 } else { 0 }]);
        let mask = if masked { MASK } else { [0; 4] };
        out.extend(if masked { &mask[..] } else { &[] });
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    fn tungstenite(&self, stream: &[u8]) -> Theirs {
        let config = WebSocketConfig::default()
            .read_buffer_size(256)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.frame_limit()));
        let role = match self.role {
            Role::Server => protocol::Role::Server,
            Role::Client => protocol::Role::Client,
        };
        let mut socket = WebSocket::from_raw_socket(Socket(Cursor::new(stream)), role, Some(config));
        let mut messages = Vec::new();
        loop {
            match socket.read() {
                // Ignore everything after a close frame.
                Ok(close @ Message::Close(_)) => {
                    messages.push(close);
                    return Theirs { messages, end: Error::ConnectionClosed };
                }
                Ok(message) => messages.push(message),
                Err(end) => return Theirs { messages, end },
            }
        }
    }

    /// Its limit of frames applies to control frames too, ours does not.
    fn frame_limit(&self) -> usize {
        self.max_message_bytes.max(frame::MAX_CONTROL_BYTES)
    }
}

/// What a close frame's payload says (RFC 6455, sections 5.5.1 and 7.4).
fn closed_by(payload: &[u8]) -> OwnedEvent {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => OwnedEvent::Closed(None, String::new()),
            _ => OwnedEvent::Failed(Violation::BadClose),
        };
    };
    let code = u16::from_be_bytes(*code);
    match (code, String::from_utf8(reason.to_vec())) {
        (0..1000 | 1004..1007 | 1015..3000 | 5000.., _) => OwnedEvent::Failed(Violation::BadClose),
        (_, Err(_)) => OwnedEvent::Failed(Violation::NotUtf8),
        (_, Ok(reason)) => OwnedEvent::Closed(Some(code), reason),
    }
}

struct Theirs {
    messages: Vec<Message>,
    end: Error,
}

/// Whether the stream ended or was closed without an error.
fn ended(end: &Error) -> bool {
    matches!(end, Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))
}

/// The length that a header announces, in any form.
fn announced(frame: &[u8]) -> u64 {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    match frame[1] & 0x7f {
        126 => number(&frame[2..4]),
        127 => number(&frame[2..10]),
        length => u64::from(length),
    }
}

/// The smallest length for which a header may have the form of this one.
fn shortest(frame: &[u8]) -> u64 {
    match frame[1] & 0x7f {
        126 => 126,
        127 => 0x1_0000,
        _ => 0,
    }
}

/// The memory of an incomplete message and an incomplete control frame.
pub fn memory_is_within(buffered_bytes: usize, max_message_bytes: usize) {
    let allowed = max_message_bytes + 256;
    assert!(buffered_bytes <= allowed, "{buffered_bytes} bytes held, {allowed} allowed");
}

/// A transport that has received all its bytes and accepts every write.
struct Socket<'a>(Cursor<&'a [u8]>);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}
