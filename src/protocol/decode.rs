//! From a whole message to a request. Input: a message that passed the rate window. Output: a request, or the answer that it
//! gets instead. It needs nothing of the session, so large messages can be decoded on another thread.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use super::envelope::{Envelope, EnvelopeError, EnvelopeErrorKind, Kind, Members};
use super::error::{ErrorCode, WireError};
use super::json::{JsonError, JsonErrorKind};
use super::request::Request;

/// Longest message that the session decodes itself, in bytes. A longer one is returned undecoded, because decoding it can
/// take as long as hundreds of small requests of other clients.
pub const MAX_INLINE_BYTES: usize = 64 << 10;

/// A message.
pub(super) enum Message<'a> {
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
}

impl Message<'_> {
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// Owns what was collected from several reads already; only a message that came in one read is copied.
    pub(super) fn into_owned(self) -> Message<'static> {
        match self {
            Message::Text(text) => Message::Text(Cow::Owned(text.into_owned())),
            Message::Binary(bytes) => Message::Binary(Cow::Owned(bytes.into_owned())),
        }
    }

    // Inlined, a small message is not moved from function to function. It saves 5 % of the instructions of a request.
    #[inline(always)]
    pub(super) fn decode(&self) -> Result<Request, Box<Refusal>> {
        let text = match self {
            Message::Text(text) => Ok(text.as_ref()),
            Message::Binary(bytes) => std::str::from_utf8(bytes),
        };
        decode_request(text).map_err(|error| Box::new(Refusal::from(error)))
    }
}

/// The answer to a message that is not a request. It is sent under the message's id if that is usable.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) id: String,
    pub(super) channel: String,
    pub(super) error: WireError,
}

impl From<EnvelopeError<'_>> for Refusal {
    #[cold]
    fn from(EnvelopeError { kind, id, channel }: EnvelopeError<'_>) -> Refusal {
        Refusal {
            id: id.unwrap_or("invalid_message").to_owned(),
            channel: channel.unwrap_or("system").to_owned(),
            error: WireError::with_code(ErrorCode::InvalidMessage, kind.to_string()),
        }
    }
}

/// A large message that is not decoded yet.
pub struct Undecoded(pub(super) Message<'static>);

impl Undecoded {
    /// Decodes it. That takes about 1 ms for each MiB of text, up to 10 ms for each MiB of small values. It can be called on
    /// any thread.
    pub fn decode(self) -> Decoded {
        Decoded(self.0.decode())
    }
}

impl fmt::Debug for Undecoded {
    /// Prints only the size: a message can contain secrets that must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Undecoded({} bytes)", self.0.as_bytes().len())
    }
}

/// What a large message was, for [`Session::handle_decoded`](super::session::Session::handle_decoded).
#[derive(Debug)]
pub struct Decoded(pub(super) Result<Request, Box<Refusal>>);

/// Decodes a message that must be a request.
#[inline(always)]
fn decode_request(text: Result<&str, Utf8Error>) -> Result<Request, EnvelopeError<'_>> {
    let text = text.map_err(|error| {
        let error = JsonError { kind: JsonErrorKind::NotUtf8, at: error.valid_up_to() };
        EnvelopeError { kind: EnvelopeErrorKind::Json(error), id: None, channel: None }
    })?;
    match Members::decode(text)? {
        (Kind::Request, members) => Ok(Request::new(text, members)),
        (kind, members) => {
            let Envelope { kind_at: at, id, channel, .. } = members.envelope(kind, text);
            let kind = EnvelopeErrorKind::Invalid { name: "type", expected: "\"request\"", at };
            Err(EnvelopeError { kind, id, channel: Some(channel) })
        }
    }
}
