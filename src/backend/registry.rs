//! The channel registry as data. Each family declares its channels beside its handlers; whatever lists channels (the
//! command line, `system:channels`) reads these declarations.

use super::encode::Object;

/// Which way a channel's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A client asks, the server answers.
    Request,
    /// The server tells clients, unasked.
    Event,
}

impl Direction {
    /// The word of the specification's tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Request => "Request",
            Direction::Event => "Event",
        }
    }
}

/// What is known of a channel (specification, "Channel Registry"). Types are written as in TypeScript; `-` is none.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// The name on the wire.
    pub name: &'static str,
    /// Which way its messages go.
    pub direction: Direction,
    /// The type of the payload.
    pub payload: &'static str,
    /// The type of the response's payload; `-` for events and for responses without one.
    pub response: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// A payload that fits, as JSON; empty for none.
    pub example: &'static str,
}

impl Channel {
    /// The channel as `system:channels` shows it:
    /// `{channel, direction, payload, response, description, example?}`.
    pub fn to_json(&self) -> String {
        let object = Object::new()
            .text("channel", self.name)
            .text("direction", self.direction.as_str())
            .text("payload", self.payload)
            .text("response", self.response)
            .text("description", self.description);
        match self.example {
            "" => object.finish(),
            example => object.raw("example", example).finish(),
        }
    }
}
