//! `switchboard call` and `switchboard listen`. In: a URL, a channel, a payload. Out: JSON on stdout, everything else on stderr.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Client, ClientOptions, Event};
use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::json;
use crate::protocol::payload::Payload;

use crate::backend::shared::encode::Object;

use super::terminal::{LineBreaks, for_stdout, say};

/// The server answered with an error.
pub(super) const EXIT_ERROR: u8 = 1;
/// No connection, or it was lost.
const EXIT_NOT_CONNECTED: u8 = 3;
/// No response in time.
const EXIT_TIMEOUT: u8 = 4;

/// Largest payload that is read, in bytes: the default limit of a server.
const MAX_PAYLOAD_BYTES: u64 = 16 << 20;

/// The server to connect to, and the options of both commands.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) token: Option<String>,
    /// Further headers of the upgrade: names and values.
    pub(super) headers: Vec<(String, String)>,
    /// Certificates of authorities in PEM, besides those of the system.
    pub(super) authorities: Option<String>,
    /// The limit for a whole call, and for the first connection of `listen`.
    pub(super) timeout: Option<Duration>,
    /// Whether to write strings without quotes, and payloads without their channel.
    pub(super) raw: bool,
}

impl Target {
    fn options(&self) -> ClientOptions {
        let defaults = ClientOptions::default();
        ClientOptions {
            token: self.token.clone(),
            headers: self.headers.clone(),
            ca_certificates: self.authorities.clone(),
            request_timeout: self.timeout.unwrap_or(defaults.request_timeout),
            connect_timeout: self.timeout.unwrap_or(defaults.connect_timeout),
            ..defaults
        }
    }
}

/// Reads a payload: JSON text, `-` for stdin, `@FILE` for a file.
///
/// # Errors
/// When it cannot be read or is not JSON, with the first wrong byte.
pub(super) fn read_payload(argument: &str) -> Result<Payload, String> {
    let (name, text) = match argument.strip_prefix('@') {
        _ if argument == "-" => {
            ("stdin", read_all(io::stdin().lock()).map_err(|error| format!("stdin: {error}"))?)
        }
        Some(path) => {
            let read = File::open(path).and_then(read_all);
            (path, read.map_err(|error| format!("{path}: {error}"))?)
        }
        None => ("the payload", argument.to_owned()),
    };
    Payload::from_json(text.trim_ascii()).map_err(|error| format!("{name} is not JSON: {error}"))
}

fn read_all(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_PAYLOAD_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_PAYLOAD_BYTES {
        return Err(io::Error::other(format!("more than {MAX_PAYLOAD_BYTES} bytes")));
    }
    Ok(text)
}

/// Sends one request and returns the payload of the response. A given timeout is the limit for all of it: connecting, the
/// response, and closing.
///
/// # Errors
/// The exit code. The cause was written to stderr.
pub(super) async fn request(target: &Target, channel: &str, payload: Payload) -> Result<Payload, ExitCode> {
    let options = ClientOptions { reconnect: false, ..target.options() };
    let deadline = target.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let limits = (options.request_timeout, options.limits.close_timeout);
    match Client::connect(&target.url, options).await {
        Ok(client) => {
            exchange(&client, channel, payload, limits, deadline).await.map_err(|error| report(&error))
        }
        Err(error) => Err(not_connected(&target.url, &error)),
    }
}

/// Sends a request, waits for the response, then disconnects. `limits` are those of the response and of disconnecting, which
/// also end at the deadline.
async fn exchange(
    client: &Client,
    channel: &str,
    payload: Payload,
    limits: (Duration, Duration),
    deadline: Option<Instant>,
) -> Result<Payload, WireError> {
    let left = || deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
    let answer = client.send_message_within(channel, payload, left().min(limits.0)).await;
    // The server has answered or not, whether it closes in time or not.
    let _ = tokio::time::timeout(left().min(limits.1), client.disconnect()).await;
    answer
}

/// `switchboard call`: writes the payload of the response to stdout, in one line; nothing if there is none.
pub(super) async fn call(target: &Target, channel: &str, payload: Payload) -> ExitCode {
    match request(target, channel, payload).await {
        Ok(answer) => match answer.as_str().map(|text| print_line(text, target.raw)) {
            Some(Err(error)) => {
                say(format_args!("switchboard: {error}"));
                ExitCode::from(EXIT_ERROR)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(code) => code,
    }
}

/// `switchboard listen`: writes events to stdout, one per line, until stdout is closed, a signal arrives, or reconnecting
/// fails for good.
pub(super) async fn listen(target: &Target, channels: &[String]) -> ExitCode {
    let client = match Client::new(&target.url, target.options()) {
        Ok(client) => client,
        Err(error) => return not_connected(&target.url, &error),
    };
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let raw = target.raw;
    let everything = [String::from("*")];
    for channel in if channels.is_empty() { &everything } else { channels } {
        let ended = ended.clone();
        client.on_message(channel, move |event| {
            if !event.channel.starts_with("connection:") && print_event(event, raw).is_err() {
                // The reader has closed the pipe, like `head`.
                let _ = ended.send(ExitCode::SUCCESS);
            }
        });
    }
    let url = target.url.clone();
    client.on_message("connection:open", move |_| say(format_args!("switchboard: connected to {url}")));
    client.on_message("connection:closed", |event| {
        say(format_args!("switchboard: connection lost: {}", reason_of(event)));
    });
    client.on_message("connection:reconnecting", |event| {
        let number = |name| member(event, name).and_then(|value| value.as_u64()).unwrap_or_default();
        let (delay, attempt) = (number("delayMs"), number("attempt"));
        say(format_args!("switchboard: reconnecting in {delay} ms, attempt {attempt}: {}", reason_of(event)));
    });
    client.on_message("connection:failed", move |event| {
        say(format_args!("switchboard: giving up: {}", reason_of(event)));
        let _ = ended.send(ExitCode::from(EXIT_NOT_CONNECTED));
    });
    if let Err(error) = client.open().await {
        return not_connected(&target.url, &error);
    }
    end.recv().await.unwrap_or(ExitCode::SUCCESS)
}

fn reason_of(event: &Event) -> String {
    member(event, "reason").and_then(|reason| reason.as_str().map(str::to_owned)).unwrap_or_default()
}

fn member(event: &Event, name: &str) -> Option<serde_json::Value> {
    event.payload.parse().ok()?.get(name).cloned()
}

fn print_event(event: &Event, raw: bool) -> io::Result<()> {
    let payload = event.payload.as_str();
    if raw {
        return print_line(payload.unwrap_or("null"), raw);
    }
    let line = Object::new().text("channel", &event.channel);
    let line = match payload {
        Some(payload) => line.raw("payload", payload),
        None => line,
    };
    print_line(&line.finish(), raw)
}

/// Writes JSON in one line. Only the white space between values can contain line breaks; strings escape them.
fn print_line(text: &str, raw: bool) -> io::Result<()> {
    let unquoted = json::string_content(text).filter(|_| raw).and_then(json::unescape);
    let mut stdout = io::stdout().lock();
    match unquoted {
        Some(string) => stdout.write_all(for_stdout(&string, LineBreaks::Kept).as_bytes())?,
        None => {
            let line = text.replace(['\n', '\r'], " ");
            stdout.write_all(for_stdout(&line, LineBreaks::Shown).as_bytes())?;
        }
    }
    stdout.write_all(b"\n")?;
    stdout.flush()
}

fn not_connected(url: &str, error: &io::Error) -> ExitCode {
    say(format_args!("switchboard: {url}: {error}"));
    ExitCode::from(if error.kind() == io::ErrorKind::InvalidInput { 2 } else { EXIT_NOT_CONNECTED })
}

/// Writes `CODE: message` to stderr, and the details as JSON in a second line.
fn report(error: &WireError) -> ExitCode {
    say(error);
    if let Some(details) = error.details.as_str() {
        say(details.replace(['\n', '\r'], " "));
    }
    ExitCode::from(match error.code {
        ErrorCode::Timeout => EXIT_TIMEOUT,
        ErrorCode::ConnectionClosed => EXIT_NOT_CONNECTED,
        _ => EXIT_ERROR,
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_says_nothing_after_the_upgrade_takes_no_more_than_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let silent = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.unwrap()
        });
        let timeout = Duration::from_secs(3);
        let target = Target { url, timeout: Some(timeout), ..Target::default() };
        let options = target.options();
        let limits = (options.request_timeout, options.limits.close_timeout);
        let client = Client::connect(&target.url, options).await.unwrap();
        let _open = silent.await.unwrap();
        tokio::time::pause();
        let start = Instant::now();
        let answer = exchange(&client, "c", Payload::none(), limits, Some(start + timeout)).await;
        assert_eq!(answer.unwrap_err().code, ErrorCode::Timeout);
        // Each timer has a precision of one millisecond.
        assert!(start.elapsed() <= timeout + Duration::from_millis(5), "{:?}", start.elapsed());
    }
}
