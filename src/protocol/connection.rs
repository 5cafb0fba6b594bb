//! The connection machine (RFC 6455, sections 5 to 7). Input: bytes as they arrive, cut anywhere. Output: whole messages,
//! and the pongs and close frames that the protocol requires. It knows nothing of envelopes, clients or time.
//!
//! What each input does in each state. `→` is a change of state; what is sent is appended to `out`.
//!
//! | input | `Open` | `Closing` | `Closed` or `Failed` |
//! |---|---|---|---|
//! | text or binary message | [`Event::Text`] or [`Event::Binary`] | dropped | dropped |
//! | ping | sends a pong with the same payload | dropped | dropped |
//! | pong | dropped | dropped | dropped |
//! | close frame | sends its code back, [`Event::Closed`], → `Closed` | [`Event::Closed`], → `Closed` | dropped |
//! | violation in a header or a close frame | sends a close frame with its code, [`Event::Failed`], → `Failed` | [`Event::Failed`], → `Failed` | dropped |
//! | violation in a message | sends a close frame with its code, [`Event::Failed`], → `Failed` | dropped | dropped |
//! | [`write_text`](Connection::write_text) | sends a message | a bug of the caller | a bug of the caller |
//! | [`ping`](Connection::ping) | sends a ping | nothing | nothing |
//! | [`close`](Connection::close) | sends a close frame, → `Closing` | nothing | nothing |
//!
//! A header that breaks a rule, alone or after the frames before it, is refused at the byte that shows it.
//!
//! [`is_open`](Connection::is_open) is true in `Open`, [`is_closed`](Connection::is_closed) in `Closed` and `Failed`,
//! [`is_failed`](Connection::is_failed) in `Failed`. In `Closed` and `Failed` the transport must be closed once `out` is
//! sent.

use std::borrow::Cow;

pub use tungstenite::protocol::frame::coding::CloseCode;

use super::assembly::{Assembly, Control, NotUtf8, utf8};
use super::frame::{self, FrameError, Header, OpCode, Role};

/// Makes the masks of a client's frames, each one fresh and unpredictable (RFC 6455, section 10.3).
pub type MaskSource = fn() -> [u8; 4];

/// One end of a WebSocket connection after the handshake.
///
/// Contract: after each read, call [`receive`](Connection::receive) until all bytes are consumed, and send the bytes that
/// it appended to `out`.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    masks: Option<MaskSource>,
    max_message_bytes: usize,
    state: State,
    /// The start of a header whose rest has not arrived.
    header: [u8; frame::MAX_HEADER_BYTES],
    header_bytes: u8,
    /// The frame whose payload is being received.
    current: Option<Current>,
    /// The fragments of an incomplete message.
    assembly: Option<Box<Assembly>>,
    /// The start of a control frame's payload whose rest has not arrived.
    control: Option<Box<Control>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// We sent a close frame and wait for the peer's.
    Closing,
    /// The peer sent a close frame, which is the last thing it sends.
    Closed,
    /// The peer broke the protocol or a limit. It may continue to send.
    Failed,
}

#[derive(Debug)]
struct Current {
    header: Header,
    received: u64,
}

impl Current {
    fn is_complete(&self) -> bool {
        self.received == self.header.length
    }

    /// The bytes that have not arrived.
    fn left(&self) -> usize {
        usize::try_from(self.header.length - self.received).unwrap_or(usize::MAX)
    }
}

/// One step of [`Connection::receive`].
#[derive(Debug)]
pub struct Received<'a> {
    /// How many bytes of the input were consumed. Pass the rest again.
    pub consumed: usize,
    /// What the peer sent, if this step completed it.
    pub event: Option<Event<'a>>,
    /// Whether it completed a frame that adds nothing to a message: a control frame, or an empty fragment that does not end
    /// its message.
    pub is_overhead: bool,
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(Cow<'a, str>),
    /// A whole binary message.
    Binary(Cow<'a, [u8]>),
    /// The peer closed, or answered our close frame. Send `out`, then close the transport.
    Closed {
        /// The peer's code, if its close frame has one.
        code: Option<u16>,
        /// The peer's reason; often empty.
        reason: String,
    },
    /// The peer broke the protocol or a limit. Send `out`, then close the transport.
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

    /// The reason in the close frame.
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
    /// The end that accepted the connection. A message longer than `max_message_bytes` closes it.
    pub fn server(max_message_bytes: usize) -> Connection {
        Connection::new(Role::Server, None, max_message_bytes)
    }

    /// The end that opened the connection.
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
            control: None,
        }
    }

    /// Changes the limit. Call it between two messages.
    pub fn set_max_message_bytes(&mut self, max_message_bytes: usize) {
        self.max_message_bytes = max_message_bytes;
    }

    /// Whether messages can be sent: no close frame was sent or received.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the connection has ended: once `out` is sent, close the transport.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed | State::Failed)
    }

    /// Whether the peer broke the protocol or a limit. It sent no close frame, so more bytes can arrive.
    pub fn is_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Memory held for an incomplete message, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.assembly.as_deref().map_or(0, Assembly::capacity)
            + self.control.as_deref().map_or(0, size_of_val)
    }

    /// The bytes of an incomplete message: those that have arrived, and those that the header of its frame announces.
    pub fn announced_bytes(&self) -> usize {
        let arrived = self.assembly.as_deref().map_or(0, Assembly::len);
        let current = self.current.as_ref().filter(|_| self.is_open());
        let left = match current {
            Some(current) if matches!(current.header.opcode, OpCode::Data(_)) => current.left(),
            _ => 0,
        };
        arrived.saturating_add(left)
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

    /// Starts the close handshake: appends a close frame, once. The reason is cut to the size that fits. What was collected
    /// of a message is dropped.
    pub fn close(&mut self, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        if self.is_open() {
            self.write_close(Some(code.into()), reason, out);
            self.state = State::Closing;
            self.assembly = None;
            if !self.current.as_ref().is_some_and(|current| current.header.opcode == frame::CLOSE) {
                self.control = None;
            }
        }
    }

    /// Takes one step into `input`, at most one frame. Unmasks the payload in place.
    pub fn receive<'a>(&mut self, input: &'a mut [u8], out: &mut Vec<u8>) -> Received<'a> {
        let available = input.len();
        if self.is_closed() {
            return Received { consumed: available, event: None, is_overhead: false };
        }
        let (mut current, start) = match self.current.take() {
            Some(current) => (current, 0),
            None => match self.receive_header(input) {
                Ok((consumed, Some(header))) => (Current { header, received: 0 }, consumed),
                Ok((consumed, None)) => return Received { consumed, event: None, is_overhead: false },
                Err(violation) => return self.fail(violation, available, out),
            },
        };
        debug_assert!(start <= available, "a header ends inside its input");
        let rest = input.get_mut(start..).unwrap_or_default();
        let bytes = current.left().min(rest.len());
        let chunk = rest.get_mut(..bytes).unwrap_or_default();
        if let Some(mask) = current.header.mask {
            frame::unmask(chunk, mask, current.received);
        }
        current.received += bytes as u64;
        let event = match current.header.opcode {
            OpCode::Control(_) => self.receive_control(&current, chunk, out),
            OpCode::Data(_) => self.receive_data(&current, chunk),
        };
        match event {
            Ok(event) => {
                let mut is_overhead = false;
                if !current.is_complete() {
                    self.current = Some(current);
                } else if event.is_none() {
                    let is_control = matches!(current.header.opcode, OpCode::Control(_));
                    is_overhead = is_control || current.header.length == 0;
                }
                Received { consumed: start + bytes, event, is_overhead }
            }
            Err(violation) => self.fail(violation, available, out),
        }
    }

    /// Reads a header whose start may have arrived earlier. Returns how many bytes of this input it takes.
    #[inline]
    fn receive_header(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), Violation> {
        if self.header_bytes == 0
            && let Ok(Some(header)) = Header::decode(self.role, input)
        {
            self.check_start(header.opcode, header.length)?;
            return Ok((header.header_bytes, Some(header)));
        }
        self.receive_header_slowly(input)
    }

    /// Judges a header after each of its bytes: a frame that will be refused is refused at the byte that shows it.
    #[cold]
    fn receive_header_slowly(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), Violation> {
        let held = usize::from(self.header_bytes);
        debug_assert!(held < self.header.len(), "a header fits its buffer");
        let room = self.header.len() - held;
        for (used, &byte) in (1..).zip(input.iter().take(room)) {
            if let Some(place) = self.header.get_mut(held + used - 1) {
                *place = byte;
            }
            self.header_bytes = (held + used) as u8;
            let start = self.header.get(..held + used).unwrap_or_default();
            let header = Header::decode(self.role, start).map_err(Violation::Frame)?;
            if let Some((opcode, least)) = frame::announced(start) {
                self.check_start(opcode, least)?;
            }
            if header.is_some() {
                self.header_bytes = 0;
                return Ok((used, header));
            }
        }
        Ok((input.len().min(room), None))
    }

    /// Checks that a frame may start here (section 5.4), before any memory is reserved for its announced length.
    #[inline]
    fn check_start(&self, opcode: OpCode, length: u64) -> Result<(), Violation> {
        // RFC 6455, section 5.5.1: after our close frame we still read, but only to find the peer's.
        let (OpCode::Data(_), true) = (opcode, self.is_open()) else { return Ok(()) };
        let held = match (opcode == frame::CONTINUATION, self.assembly.as_deref()) {
            (true, None) => return Err(Violation::StrayContinuation),
            (false, Some(_)) => return Err(Violation::MessageInterrupted),
            (true, Some(assembly)) => assembly.len(),
            (false, None) => 0,
        };
        match usize::try_from(length).ok().and_then(|length| length.checked_add(held)) {
            Some(total) if total <= self.max_message_bytes => Ok(()),
            _ => Err(Violation::TooBig),
        }
    }

    #[inline]
    fn receive_data<'a>(
        &mut self,
        current: &Current,
        chunk: &'a [u8],
    ) -> Result<Option<Event<'a>>, Violation> {
        if !self.is_open() {
            return Ok(None);
        }
        let header = &current.header;
        let is_whole_frame = chunk.len() as u64 == header.length;
        if is_whole_frame && header.fin && self.assembly.is_none() {
            return Ok(Some(if header.opcode == frame::TEXT {
                Event::Text(Cow::Borrowed(utf8(chunk).map_err(|_| Violation::NotUtf8)?))
            } else {
                Event::Binary(Cow::Borrowed(chunk))
            }));
        }
        let mut assembly = self.assembly.take().unwrap_or_else(|| {
            Box::new(match header.opcode {
                frame::TEXT => Assembly::Text(Default::default()),
                _ => Assembly::Binary(Vec::new()),
            })
        });
        // The last frame announces how long the message will be.
        let most = match header.fin {
            true => assembly.len().saturating_add(chunk.len()).saturating_add(current.left()),
            false => self.max_message_bytes,
        };
        assembly.push(chunk, most).map_err(|NotUtf8| Violation::NotUtf8)?;
        if !(header.fin && current.is_complete()) {
            self.assembly = Some(assembly);
            return Ok(None);
        }
        Ok(Some(match *assembly {
            Assembly::Text(text) => {
                Event::Text(Cow::Owned(text.finish().map_err(|NotUtf8| Violation::NotUtf8)?))
            }
            Assembly::Binary(bytes) => Event::Binary(Cow::Owned(bytes)),
        }))
    }

    fn receive_control<'a>(
        &mut self,
        current: &Current,
        chunk: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Violation> {
        let opcode = current.header.opcode;
        let is_wanted = opcode == frame::CLOSE || (opcode == frame::PING && self.is_open());
        if is_wanted && (!current.is_complete() || self.control.is_some()) {
            self.control.get_or_insert_default().push(chunk);
        }
        if !(is_wanted && current.is_complete()) {
            return Ok(None);
        }
        let held = self.control.take();
        let payload = held.as_deref().map_or(chunk, Control::payload);
        match opcode {
            frame::PING => {
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
        Received { consumed: available, event: Some(Event::Failed(violation)), is_overhead: false }
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.current = None;
        self.assembly = None;
        self.control = None;
    }

    fn write_close(&self, code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
        let code = code.map(u16::to_be_bytes);
        let code = code.as_ref().map_or(&[] as &[u8], |code| code);
        let mut reason = reason.chars();
        while reason.as_str().len() > frame::MAX_CONTROL_BYTES - 2 {
            reason.next_back();
        }
        frame::write(out, frame::CLOSE, self.mask(), [code, reason.as_str().as_bytes()]);
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
            // Section 7.4 and the IANA registry: all other codes are reserved or never sent.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::BadClose);
            }
            let reason = utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok((Some(code), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::assembly::CHECKED;
    use super::*;

    /// Receives a text in fragments of `fragment` bytes, which arrive `piece` bytes at a time. Returns how many bytes
    /// were checked.
    fn checked_bytes(text: &str, fragment: usize, piece: usize) -> usize {
        let mut frames = Vec::new();
        let mut opcode = frame::TEXT;
        for chunk in text.as_bytes().chunks(fragment) {
            let start = frames.len();
            frame::write(&mut frames, opcode, Some([1, 2, 3, 4]), [chunk]);
            frames[start] &= 0x7f;
            opcode = frame::CONTINUATION;
        }
        frame::write(&mut frames, frame::CONTINUATION, Some([0; 4]), []);
        let mut connection = Connection::server(text.len());
        let before = CHECKED.get();
        let mut message = None;
        for piece in frames.chunks_mut(piece) {
            let mut used = 0;
            while used < piece.len() {
                let received = connection.receive(&mut piece[used..], &mut Vec::new());
                used += received.consumed;
                if let Some(Event::Text(text)) = received.event {
                    message = Some(text.into_owned());
                }
            }
        }
        assert_eq!(message.as_deref(), Some(text), "fragments of {fragment}, pieces of {piece}");
        CHECKED.get() - before
    }

    #[test]
    fn each_byte_of_a_text_is_checked_a_few_times_at_most() {
        for text in ["x".repeat(120), "\u{10348}".repeat(30)] {
            for fragment in [1, 3, 64, 120] {
                for piece in [1, 7, 1 << 20] {
                    let checked = checked_bytes(&text, fragment, piece);
                    // A character whose four bytes arrive one by one is checked at each of them: 1 + 2 + 3 + 4 bytes.
                    assert!(
                        (text.len()..=text.len() * 5 / 2 + 4).contains(&checked),
                        "{checked} bytes checked for {} bytes in fragments of {fragment}, pieces of {piece}",
                        text.len()
                    );
                }
            }
        }
    }
}
