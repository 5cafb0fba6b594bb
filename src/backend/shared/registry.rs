//! The channel registry as data. Each family declares its channels beside its handlers; whatever lists channels (the
//! command line, `system:channels`, the types of the client in JavaScript) reads these declarations.

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

/// The registry for TypeScript: the named types of the families, then the interfaces `Channels` (payload and response of
/// every request channel) and `Events` (payload of every event).
pub fn typescript(types: &[&str], channels: &[Channel]) -> String {
    let or_undefined = |name: &'static str| if name == "-" { "undefined" } else { name };
    let mut requests = String::new();
    let mut events = String::new();
    for channel in channels {
        let Channel { name, description, .. } = channel;
        let (payload, response) = (or_undefined(channel.payload), or_undefined(channel.response));
        match channel.direction {
            Direction::Request => requests.push_str(&format!(
                "  /** {description}. */\n  \"{name}\": {{ payload: {payload}; response: {response} }};\n"
            )),
            Direction::Event => {
                events.push_str(&format!("  /** {description}. */\n  \"{name}\": {payload};\n"));
            }
        }
    }
    format!(
        "{GENERATED}{}
/** The payload and the response of every request channel. Channels of your own are added by declaration merging. */
export interface Channels {{
{requests}}}

/** The payload of every event. Events of your own are added by declaration merging. */
export interface Events extends ConnectionEvents {{
{events}}}
",
        types.concat()
    )
}

/// The registry as tables in Markdown: requests, then events. A table without rows is left out.
pub fn markdown(channels: &[Channel]) -> String {
    let code = |text: &str| match text {
        "-" => String::new(),
        text => format!("`{}`", text.replace('|', "\\|")),
    };
    let (mut requests, mut events) = (String::new(), String::new());
    for channel in channels {
        let Channel { name, payload, response, description, .. } = channel;
        let (payload, response, description) =
            (code(payload), code(response), description.replace('|', "\\|"));
        match channel.direction {
            Direction::Request => {
                requests.push_str(&format!("| `{name}` | {payload} | {response} | {description} |\n"));
            }
            Direction::Event => events.push_str(&format!("| `{name}` | {payload} | {description} |\n")),
        }
    }
    let tables = [
        ("| request | payload | response | |\n|---|---|---|---|\n", requests),
        ("| event | payload | |\n|---|---|---|\n", events),
    ];
    let filled = tables.into_iter().filter(|(_, rows)| !rows.is_empty());
    filled.map(|(head, rows)| format!("{head}{rows}")).collect::<Vec<_>>().join("\n")
}

/// The first line of what [`typescript`] writes.
pub const GENERATED: &str = "// Generated from the registry by `switchboard channels --typescript`.\n";
