//! A request on its way to its handler. In: a message and the places of its members. Out: its id, channel and payload, which
//! share the message's memory.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::envelope::Envelope;
use super::json;
use super::payload::Payload;

/// A request that passed every check. It is answered by giving it back, so it cannot be answered twice.
#[derive(Debug)]
pub struct Request {
    message: Arc<str>,
    id: Range<usize>,
    channel: Range<usize>,
    payload: Option<Range<usize>>,
}

impl Request {
    pub(super) fn new(text: &str, envelope: &Envelope<'_>) -> Request {
        Request {
            id: json::range_in(text, envelope.id.unwrap_or_default()),
            channel: json::range_in(text, envelope.channel),
            payload: envelope.payload.map(|payload| json::range_in(text, payload)),
            message: Arc::from(text),
        }
    }

    /// The id as it stands between its quotes in the message.
    pub fn raw_id(&self) -> &str {
        self.message.get(self.id.clone()).unwrap_or_default()
    }

    /// The channel as it stands between its quotes in the message.
    pub fn raw_channel(&self) -> &str {
        self.message.get(self.channel.clone()).unwrap_or_default()
    }

    /// The channel's name; `None` if it has a lone surrogate, which no handler's name has.
    pub fn channel(&self) -> Option<Cow<'_, str>> {
        json::unescape(self.raw_channel())
    }

    /// The payload, sharing the message's memory.
    pub fn payload(&self) -> Payload {
        match &self.payload {
            None => Payload::none(),
            Some(range) => Payload::part(self.message.clone(), range.clone()),
        }
    }

    /// The id, sharing the message's memory.
    pub fn id(&self) -> RequestId {
        RequestId { message: self.message.clone(), range: self.id.clone() }
    }
}

/// A request's id.
#[derive(Clone)]
pub struct RequestId {
    message: Arc<str>,
    range: Range<usize>,
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl std::fmt::Display for RequestId {
    /// The id as the client meant it; with a lone surrogate, as the client wrote it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = self.message.get(self.range.clone()).unwrap_or_default();
        f.write_str(&json::unescape(raw).unwrap_or(Cow::Borrowed(raw)))
    }
}
