//! The connection machine (RFC 6455, sections 5 to 7). In: bytes as they arrive, cut anywhere. Out: whole messages,
//! and the pongs and close frames that the protocol owes. Knows nothing of envelopes, clients or time.
//!
//! | state | peer's close frame | a violation | [`Connection::close`] |
//! |---|---|---|---|
//! | `Open` | echo it, `Closed` | send its code, `Closed` | send it, `Closing` |
//! | `Closing` | `Closed` | `Closed` | - |
//! | `Closed` | - | - | - |
//!
//! In `Closing` messages are read and dropped; in `Closed` bytes are. After `Closed` the transport is to be closed.

use std::borrow::Cow;

pub use tungstenite::protocol::frame::coding::CloseCode;

use super::frame::{self, FrameError, Header, OpCode, Role};

/// Where the masks of a client's frames come from: fresh and unpredictable each time (RFC 6455, section 10.3).
pub type MaskSource = fn() -> [u8; 4];

/// One end of a WebSocket connection after the handshake.
///
/// Contract: after each read call [`receive`](Connection::receive) until all bytes are consumed, and send what it
/// appended to `out`.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    masks: Option<MaskSource>,
    max_message_bytes: usize,
    state: State,
    /// The start of a header that was cut.
    header: [u8; frame::MAX_HEADER_BYTES],
    header_bytes: u8,
    /// The frame whose payload is being received.
    current: Option<Current>,
    /// The fragments so far of a message that is not complete.
    assembly: Option<Box<Assembly>>,
    /// The start of a control frame's payload that was cut.
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Our close frame is out, the peer's is awaited.
    Closing,
    /// The peer's close frame has come: the last thing it sends.
    Closed,
    /// The peer broke the protocol or a limit. It may go on sending.
    Failed,
}

#[derive(Debug)]
struct Current {
    header: Header,
    received: u64,
}

#[derive(Debug)]
enum Assembly {
    Text(TextAssembly),
    Binary(Vec<u8>),
}

/// What one step of [`Connection::receive`] did.
#[derive(Debug)]
pub struct Received<'a> {
    /// How many bytes of the input were used. What is left must be given again.
    pub consumed: usize,
    /// What came of it.
    pub event: Option<Event<'a>>,
}

/// What a peer has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(Cow<'a, str>),
    /// A whole binary message.
    Binary(Cow<'a, [u8]>),
    /// The peer closed, or answered our close. Send what is in `out`, then close the transport.
    Closed {
        /// The peer's code, if it gave one.
        code: Option<u16>,
        /// The peer's reason; often empty.
        reason: String,
    },
    /// The peer broke the protocol or a limit. Send what is in `out`, then close the transport.
    Failed(Violation),
}

/// How a peer broke the protocol or a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A header that RFC 6455 forbids. Closes with 1002.
    Frame(FrameError),
    /// A continuation without a message to continue (section 5.4). Closes with 1002.
    StrayContinuation,
    /// A new message before the last one was complete (section 5.4). Closes with 1002.
    MessageInterrupted,
    /// A close frame of one byte, or with a code that must not be sent (section 7.4). Closes with 1002.
    BadClose,
    /// Text, or a close reason, that is not UTF-8 (section 8.1). Closes with 1007.
    NotUtf8,
    /// A message longer than the limit. Closes with 1009.
    TooBig,
}

impl Violation {
    /// The code that closes the connection (section 7.4.1).
    pub fn code(self) -> CloseCode {
        match self {
            Violation::NotUtf8 => CloseCode::Invalid,
            Violation::TooBig => CloseCode::Size,
            _ => CloseCode::Protocol,
        }
    }

    /// A sentence for the close frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Violation::Frame(error) => error.as_str(),
            Violation::StrayContinuation => "continuation without a message",
            Violation::MessageInterrupted => "new message inside a message",
            Violation::BadClose => "invalid close frame",
            Violation::NotUtf8 => "text is not UTF-8",
            Violation::TooBig => "message too big",
        }
    }
}

impl Connection {
    /// The end that accepted. A message longer than `max_message_bytes` closes the connection.
    pub fn server(max_message_bytes: usize) -> Connection {
        Connection::new(Role::Server, None, max_message_bytes)
    }

    /// The end that opened.
    pub fn client(max_message_bytes: usize, masks: MaskSource) -> Connection {
        Connection::new(Role::Client, Some(masks), max_message_bytes)
    }

    fn new(role: Role, masks: Option<MaskSource>, max_message_bytes: usize) -> Connection {
        Connection {
            role,
            masks,
            max_message_bytes,
            state: State::Open,
            header: [0; frame::MAX_HEADER_BYTES],
            header_bytes: 0,
            current: None,
            assembly: None,
            control: Vec::new(),
        }
    }

    /// Whether messages can still be sent: no close frame was sent or received.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether nothing more is to be read: once `out` is sent, the transport is to be closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed | State::Failed)
    }

    /// Whether the peer broke the protocol or a limit. It has not said that it is done, so more may come from it.
    pub fn is_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Memory held for a message that is not complete, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        let assembly = match self.assembly.as_deref() {
            Some(Assembly::Text(text)) => text.text.capacity(),
            Some(Assembly::Binary(bytes)) => bytes.capacity(),
            None => 0,
        };
        assembly + self.control.capacity()
    }

    /// Appends a text message. Only while [`is_open`](Connection::is_open).
    pub fn write_text(&self, out: &mut Vec<u8>, pieces: &[impl AsRef<[u8]>]) {
        debug_assert!(self.is_open(), "RFC 6455 5.5.1: nothing is sent after a close frame");
        frame::write_text(out, self.mask(), pieces);
    }

    /// Appends a ping.
    pub fn ping(&self, out: &mut Vec<u8>) {
        if self.is_open() {
            frame::write(out, frame::PING, self.mask(), []);
        }
    }

    /// Starts the close handshake: appends a close frame, once. The reason is cut to what a close frame can hold.
    pub fn close(&mut self, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        if self.is_open() {
            self.write_close(Some(code.into()), reason, out);
            self.state = State::Closing;
        }
    }

    /// Takes the next step into `input`: at most one frame. A payload is unmasked in place.
    pub fn receive<'a>(&mut self, input: &'a mut [u8], out: &mut Vec<u8>) -> Received<'a> {
        let available = input.len();
        if self.is_closed() {
            return Received { consumed: available, event: None };
        }
        let (mut current, begun) = match self.current.take() {
            Some(current) => (current, 0),
            None => match self.receive_header(input) {
                Ok((used, Some(header))) => (Current { header, received: 0 }, used),
                Ok((used, None)) => return Received { consumed: used, event: None },
                Err(violation) => return self.fail(violation, available, out),
            },
        };
        let left = current.header.length - current.received;
        let rest = input.get_mut(begun..).unwrap_or_default();
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let chunk = rest.get_mut(..here).unwrap_or_default();
        if let Some(mask) = current.header.mask {
            frame::unmask(chunk, mask, current.received);
        }
        current.received += here as u64;
        let complete = current.received == current.header.length;
        let header = current.header;
        if !complete {
            self.current = Some(current);
        }
        let event = match header.opcode {
            OpCode::Control(_) => self.receive_control(header, chunk, complete, out),
            OpCode::Data(_) => self.receive_data(header, chunk, complete),
        };
        match event {
            Ok(event) => Received { consumed: begun + here, event },
            Err(violation) => self.fail(violation, available, out),
        }
    }

    /// Reads a header that may have begun in earlier input. Answers how much of this input it took.
    fn receive_header(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), Violation> {
        let held = usize::from(self.header_bytes);
        if held == 0
            && let Some(header) = Header::decode(self.role, input).map_err(Violation::Frame)?
        {
            self.check_start(header)?;
            return Ok((header.header_bytes, Some(header)));
        }
        let mut filled = held;
        for (place, &byte) in self.header.iter_mut().skip(held).zip(input) {
            *place = byte;
            filled += 1;
        }
        let so_far = self.header.get(..filled).unwrap_or_default();
        match Header::decode(self.role, so_far).map_err(Violation::Frame)? {
            Some(header) => {
                self.header_bytes = 0;
                self.check_start(header)?;
                Ok((header.header_bytes - held, Some(header)))
            }
            None => {
                self.header_bytes = filled as u8;
                Ok((filled - held, None))
            }
        }
    }

    /// Whether this frame may begin here (section 5.4), before any memory is taken for what it announces.
    fn check_start(&self, header: Header) -> Result<(), Violation> {
        let OpCode::Data(_) = header.opcode else { return Ok(()) };
        let held = match (header.opcode == frame::CONTINUATION, self.assembly.as_deref()) {
            (true, None) => return Err(Violation::StrayContinuation),
            (false, Some(_)) => return Err(Violation::MessageInterrupted),
            (true, Some(assembly)) => assembly.len(),
            (false, None) => 0,
        };
        match usize::try_from(header.length).ok().and_then(|length| length.checked_add(held)) {
            Some(total) if total <= self.max_message_bytes => Ok(()),
            _ => Err(Violation::TooBig),
        }
    }

    #[inline]
    fn receive_data<'a>(
        &mut self,
        header: Header,
        chunk: &'a [u8],
        complete: bool,
    ) -> Result<Option<Event<'a>>, Violation> {
        let whole = complete && header.fin && chunk.len() as u64 == header.length;
        if whole && self.assembly.is_none() {
            // What is dropped is judged all the same, or it would matter where the stream is cut.
            let event = if header.opcode == frame::TEXT {
                let text = utf8(chunk).map_err(|_| Violation::NotUtf8)?;
                Event::Text(Cow::Borrowed(text))
            } else {
                Event::Binary(Cow::Borrowed(chunk))
            };
            return Ok(Some(event).filter(|_| self.state == State::Open));
        }
        let assembly = self.assembly.get_or_insert_with(|| {
            Box::new(match header.opcode {
                frame::TEXT => Assembly::Text(TextAssembly::default()),
                _ => Assembly::Binary(Vec::new()),
            })
        });
        assembly.push(chunk, self.max_message_bytes)?;
        if !(complete && header.fin) {
            return Ok(None);
        }
        let event = match self.assembly.take().map(|assembly| *assembly) {
            Some(Assembly::Text(text)) => Event::Text(Cow::Owned(text.finish()?)),
            Some(Assembly::Binary(bytes)) => Event::Binary(Cow::Owned(bytes)),
            None => return Ok(None),
        };
        Ok(Some(event).filter(|_| self.state == State::Open))
    }

    fn receive_control<'a>(
        &mut self,
        header: Header,
        chunk: &[u8],
        complete: bool,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Violation> {
        if !complete || !self.control.is_empty() {
            self.control.extend_from_slice(chunk);
        }
        if !complete {
            return Ok(None);
        }
        let held = std::mem::take(&mut self.control);
        let payload = if held.is_empty() { chunk } else { &held };
        match header.opcode {
            frame::PING if self.is_open() => {
                frame::write(out, frame::PONG, self.mask(), [payload]);
                Ok(None)
            }
            frame::CLOSE => {
                let (code, reason) = parse_close(payload)?;
                if self.is_open() {
                    self.write_close(code, "", out);
                }
                self.end(State::Closed);
                Ok(Some(Event::Closed { code, reason: reason.to_owned() }))
            }
            _ => Ok(None),
        }
    }

    #[cold]
    fn fail<'a>(&mut self, violation: Violation, available: usize, out: &mut Vec<u8>) -> Received<'a> {
        if self.is_open() {
            self.write_close(Some(violation.code().into()), violation.as_str(), out);
        }
        self.end(State::Failed);
        Received { consumed: available, event: Some(Event::Failed(violation)) }
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.current = None;
        self.assembly = None;
        self.control = Vec::new();
    }

    fn write_close(&self, code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
        let code = code.map(u16::to_be_bytes);
        let code = code.as_ref().map_or(&[] as &[u8], |code| code);
        let room = frame::MAX_CONTROL_BYTES - 2;
        let reason = (0..=room).rev().find_map(|end| reason.get(..end.min(reason.len()))).unwrap_or_default();
        frame::write(out, frame::CLOSE, self.mask(), [code, reason.as_bytes()]);
    }

    fn mask(&self) -> Option<[u8; 4]> {
        self.masks.map(|mask| mask())
    }
}

/// Reads a close frame's payload (section 5.5.1).
fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(Violation::BadClose),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            // Section 7.4 and the IANA registry: the rest is reserved, or never stands in a frame.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::BadClose);
            }
            let reason = utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok((Some(code), reason))
        }
    }
}

/// Every look at text passes here, so that the tests can count the bytes.
fn utf8(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    #[cfg(test)]
    tests::LOOKED_AT.set(tests::LOOKED_AT.get() + bytes.len());
    std::str::from_utf8(bytes)
}

impl Assembly {
    fn len(&self) -> usize {
        match self {
            Assembly::Text(text) => text.text.len() + usize::from(text.cut_bytes),
            Assembly::Binary(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, chunk: &[u8], max_message_bytes: usize) -> Result<(), Violation> {
        let needed = self.len() + chunk.len();
        match self {
            Assembly::Text(text) => {
                let room = room_for(needed, text.text.capacity(), max_message_bytes);
                text.text.reserve_exact(room - text.text.len());
                text.push(chunk)
            }
            Assembly::Binary(bytes) => {
                bytes.reserve_exact(room_for(needed, bytes.capacity(), max_message_bytes) - bytes.len());
                bytes.extend_from_slice(chunk);
                Ok(())
            }
        }
    }
}

/// Doubles like a `Vec`, so that each byte is moved a few times at most, but never past what a message may have.
fn room_for(needed: usize, capacity: usize, max_message_bytes: usize) -> usize {
    if needed <= capacity {
        return capacity;
    }
    needed.max(capacity.saturating_mul(2).min(max_message_bytes))
}

/// Text that arrives in pieces, checked as it comes: the first byte that cannot be UTF-8 is refused at once.
#[derive(Debug, Default)]
struct TextAssembly {
    text: String,
    /// The start of a character whose end has not come yet.
    cut: [u8; 4],
    cut_bytes: u8,
}

impl TextAssembly {
    fn push(&mut self, mut chunk: &[u8]) -> Result<(), Violation> {
        while self.cut_bytes > 0 {
            let [first, rest @ ..] = chunk else { return Ok(()) };
            chunk = rest;
            let held = usize::from(self.cut_bytes);
            if let Some(place) = self.cut.get_mut(held) {
                *place = *first;
            }
            match utf8(self.cut.get(..=held).unwrap_or_default()) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_bytes = 0;
                }
                Err(error) if error.error_len().is_none() => self.cut_bytes += 1,
                Err(_) => return Err(Violation::NotUtf8),
            }
        }
        match utf8(chunk) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_none() => {
                let (valid, cut) = chunk.split_at(error.valid_up_to());
                self.text.push_str(utf8(valid).map_err(|_| Violation::NotUtf8)?);
                for (place, byte) in self.cut.iter_mut().zip(cut) {
                    *place = *byte;
                }
                self.cut_bytes = cut.len() as u8;
            }
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    fn finish(self) -> Result<String, Violation> {
        if self.cut_bytes > 0 { Err(Violation::NotUtf8) } else { Ok(self.text) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes of text that were looked at on this thread, each look counted.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    /// Receives a text in fragments of `fragment` bytes, which arrive `piece` bytes at a time, and answers how many
    /// bytes of text were looked at.
    fn looks(text: &str, fragment: usize, piece: usize) -> usize {
        let mut frames = Vec::new();
        let mut opcode = frame::TEXT;
        for chunk in text.as_bytes().chunks(fragment) {
            let begun = frames.len();
            frame::write(&mut frames, opcode, Some([1, 2, 3, 4]), [chunk]);
            frames[begun] &= 0x7f;
            opcode = frame::CONTINUATION;
        }
        frame::write(&mut frames, frame::CONTINUATION, Some([0; 4]), []);
        let mut connection = Connection::server(text.len());
        let before = LOOKED_AT.get();
        let mut came = None;
        for piece in frames.chunks_mut(piece) {
            let mut used = 0;
            while used < piece.len() {
                let received = connection.receive(&mut piece[used..], &mut Vec::new());
                used += received.consumed;
                if let Some(Event::Text(text)) = received.event {
                    came = Some(text.into_owned());
                }
            }
        }
        assert_eq!(came.as_deref(), Some(text), "fragments of {fragment}, pieces of {piece}");
        LOOKED_AT.get() - before
    }

    #[test]
    fn each_byte_of_a_text_is_looked_at_a_few_times_at_most_however_it_is_cut() {
        for text in ["x".repeat(120), "\u{10348}".repeat(30)] {
            for fragment in [1, 3, 64, 120] {
                for piece in [1, 7, 1 << 20] {
                    let looks = looks(&text, fragment, piece);
                    // A character of four bytes that come one by one is looked at at each: 1 + 2 + 3 + 4.
                    assert!(
                        (text.len()..=text.len() * 5 / 2 + 4).contains(&looks),
                        "{looks} looks at {} bytes in fragments of {fragment}, pieces of {piece}",
                        text.len()
                    );
                }
            }
        }
    }
}
