//! A request on its way to its handler. Input: a message and the ranges of its members. Output: id, channel and payload,
//! which share one piece of memory. Of the rest of the message, little is kept.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::envelope::Members;
use super::json;
use super::payload::Payload;
use super::shared_str::SharedStr;

/// Most bytes that are kept of a message beside its id, channel and payload. The names of these members, the type and the
/// timestamp take about 80.
const MAX_REST_BYTES: usize = 256;

/// Longest message whose id shares its memory. The id of a longer one is copied, since a handler can keep it for a long time.
const MAX_SHARED_BYTES: usize = 1 << 10;

/// A request that passed every check. Answering it consumes it, so it cannot be answered twice.
#[derive(Debug)]
pub struct Request {
    /// The message, or only the parts below.
    text: Arc<str>,
    id: Range<usize>,
    channel: Range<usize>,
    /// Empty without a payload.
    payload: Range<usize>,
}

impl Request {
    #[inline]
    pub(super) fn new(message: &str, members: Members) -> Request {
        let Members { id, channel, payload, .. } = members;
        let kept = id.len() + channel.len() + payload.len();
        if message.len().saturating_sub(kept) > MAX_REST_BYTES {
            return Request::of_parts([id, channel, payload].map(|range| json::part(message, range)));
        }
        Request { text: Arc::from(message), id, channel, payload }
    }

    #[cold]
    fn of_parts([id, channel, payload]: [&str; 3]) -> Request {
        let (channel_at, payload_at) = (id.len(), id.len() + channel.len());
        let text: Arc<str> = [id, channel, payload].concat().into();
        Request { id: 0..channel_at, channel: channel_at..payload_at, payload: payload_at..text.len(), text }
    }

    /// The id as written in the message, without the quotes.
    pub fn raw_id(&self) -> &str {
        json::part(&self.text, self.id.clone())
    }

    /// The channel as written in the message, without the quotes.
    pub fn raw_channel(&self) -> &str {
        json::part(&self.text, self.channel.clone())
    }

    /// The channel's name; `None` if it contains a lone surrogate, which no handler's name has.
    pub fn channel(&self) -> Option<Cow<'_, str>> {
        json::unescape(self.raw_channel())
    }

    /// The payload. It shares the request's memory.
    pub fn payload(&self) -> Payload {
        Payload::part(&self.text, &self.payload)
    }

    /// The size of the payload.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// The id.
    pub fn id(&self) -> RequestId {
        RequestId(match self.text.len() <= MAX_SHARED_BYTES {
            true => SharedStr::new(self.text.clone(), self.id.clone()),
            false => SharedStr::new(self.raw_id().into(), 0..self.id.len()),
        })
    }
}

/// A request's id.
#[derive(Clone)]
pub struct RequestId(SharedStr);

impl RequestId {
    /// The id of a call in process.
    pub(crate) fn local() -> RequestId {
        const LOCAL: &str = "local";
        RequestId(SharedStr::new(LOCAL.into(), 0..LOCAL.len()))
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl std::fmt::Display for RequestId {
    /// The id with its escapes resolved; with a lone surrogate, as the client wrote it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = self.0.as_str();
        f.write_str(&json::unescape(raw).unwrap_or(Cow::Borrowed(raw)))
    }
}
