//! The channel registry as data. Each family declares its channels with their handlers. Everything that lists channels reads
//! these declarations: the command line, `system:channels`, and the types of the JavaScript client.

use super::encode::Object;

/// The direction of a channel's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A client sends a request, the server a response.
    Request,
    /// The server sends events to clients.
    Event,
}

impl Direction {
    /// Returns the word that the tables of the specification use.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Request => "Request",
            Direction::Event => "Event",
        }
    }
}

/// A channel (specification, "Channel Registry"). Types are written in TypeScript; `-` means none.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// The name on the wire.
    pub name: &'static str,
    /// The direction of its messages.
    pub direction: Direction,
    /// The type of the payload.
    pub payload: &'static str,
    /// The type of the payload of the response; `-` for events and for responses without a payload.
    pub response: &'static str,
    /// A description in one line.
    pub description: &'static str,
    /// An example of a payload, as JSON; empty for none.
    pub example: &'static str,
}

impl Channel {
    /// Returns the channel as `system:channels` lists it:
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

/// Returns the registry in TypeScript: the named types of the families, then the interfaces `Channels` (payload and response of
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

/// Returns the registry as Markdown tables: requests, then events. A table without rows is left out.
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
