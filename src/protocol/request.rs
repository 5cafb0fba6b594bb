//! A request on its way to its handler. Input: a message and the ranges of its members. Output: id, channel and payload,
//! which share the message's memory.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::envelope::Members;
use super::json;
use super::payload::Payload;
use super::shared_str::SharedStr;

/// A request that passed every check. Answering it consumes it, so it cannot be answered twice.
#[derive(Debug)]
pub struct Request {
    message: Arc<str>,
    id: Range<usize>,
    channel: Range<usize>,
    /// Empty without a payload.
    payload: Range<usize>,
}

impl Request {
    pub(super) fn new(text: &str, members: Members) -> Request {
        let Members { id, channel, payload, .. } = members;
        Request { message: Arc::from(text), id, channel, payload }
    }

    /// The id as written in the message, without the quotes.
    pub fn raw_id(&self) -> &str {
        json::part(&self.message, self.id.clone())
    }

    /// The channel as written in the message, without the quotes.
    pub fn raw_channel(&self) -> &str {
        json::part(&self.message, self.channel.clone())
    }

    /// The channel's name; `None` if it contains a lone surrogate, which no handler's name has.
    pub fn channel(&self) -> Option<Cow<'_, str>> {
        json::unescape(self.raw_channel())
    }

    /// The payload. It shares the message's memory.
    pub fn payload(&self) -> Payload {
        Payload::part(&self.message, &self.payload)
    }

    /// The id. It shares the message's memory.
    pub fn id(&self) -> RequestId {
        RequestId(SharedStr::new(self.message.clone(), self.id.clone()))
    }
}

/// A request's id.
#[derive(Clone)]
pub struct RequestId(SharedStr);

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
