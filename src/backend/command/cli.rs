//! The `switchboard` command. In: arguments, environment, signals. Out: a server, or what an operator asked for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lexopt::prelude::*;

use crate::protocol::payload::Payload;
use crate::server::{Config, Server};

use super::call::{self, Target};
use crate::backend::config::BackendConfig;
use crate::backend::shared::encode;
use crate::backend::shared::registry::Channel;
use crate::backend::shared::token::Token;
use crate::backend::state::Backend;
use crate::backend::table::{channels, markdown, register_all, typescript};

const HELP: &str = "\
Requests, responses and server-push events over WebSocket, with chats, coding sessions, language models, images, settings,
credentials, programs and statistics on an embedded database.

Usage: switchboard [serve] [OPTIONS]           serve until SIGINT or SIGTERM
       switchboard call URL CHANNEL [PAYLOAD]  make one request; the response's payload goes to stdout
       switchboard listen URL [CHANNEL...]     write events to stdout, one JSON object {channel, payload} a line
       switchboard channels [URL] [--json]     list the channels, of this program or of a server
       switchboard channels --typescript       write this program's channels as types for the client in JavaScript
       switchboard channels --markdown         write this program's channels as tables

Options of serve:
  --host HOST               where to listen [localhost] (WS_HOST)
  --port PORT               first port to try; 0 for any [3001] (WS_PORT)
  --max-port-attempts N     how many ports to try, each one higher [10]
  --data-dir DIR            folder of the database (SWITCHBOARD_DATA_DIR)
                            [$XDG_DATA_HOME/switchboard, else ~/.local/share/switchboard]
  --code-dir DIR            transcripts of coding sessions, one folder a project [~/.claude/projects]
  --restore-root DIR        code:restore writes below it alone [restored, in the folder of the database]
  --artifact-source DIR     artifact:install installs from below it alone; may be repeated [none]
  --allow-artifacts         let artifact:invoke run installed artifacts, as the user whose server this is
  --token-file FILE         file with the token that clients must show (or the token in SWITCHBOARD_TOKEN)
  --insecure                listen beyond loopback without a token
  --no-console              do not serve the console at /
  --no-analytics            record nothing for statistics
  --allow-origin ORIGIN     let pages of this origin connect, like https://app.example; may be repeated
  --allow-host HOST         answer to this name in Host; may be repeated
  --rate-limit N[/MS]       messages a client may send in so many ms [100/1000]
  --idle-timeout SECONDS    silence after which a client is closed [120]
  --max-message BYTES       largest message [16777216]
  Keys of AI providers that have no credential are taken from ANTHROPIC_API_KEY and OPENAI_API_KEY.

Options of call, listen and channels, where URL is ws://HOST[:PORT][/PATH], wss://… or unix:/PATH:
  PAYLOAD                   JSON, or - for JSON from stdin, or @FILE for JSON from a file
  --timeout SECONDS         how long an answer, or connecting, may take [30, 10]
  --token-file FILE         file with the token to show (or the token in SWITCHBOARD_TOKEN)
  --raw                     write strings without quotes; of events write the payload alone

  -h, --help                show this
  -V, --version             show the version

Exit codes: 0 done; 1 failed, or the server answered with an error; 2 wrong usage; 3 not connected, or the connection
was lost; 4 no answer in time.
";

/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 1 << 10;

/// What the command line asks for.
#[derive(Debug)]
enum Command {
    Serve(Box<ServeOptions>),
    Call {
        target: Target,
        channel: String,
        payload: Payload,
    },
    Listen {
        target: Target,
        channels: Vec<String>,
    },
    /// Of a server, or of this program.
    Channels {
        target: Option<Target>,
        json: bool,
    },
    /// Of this program.
    Types,
    Tables,
    Help,
    Version,
}

#[derive(Debug)]
struct ServeOptions {
    config: Config,
    backend: BackendConfig,
}

/// Runs the command, from the process's own arguments and environment.
pub fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let command = match parse(std::env::args_os().skip(1), environment) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("switchboard: {error}");
            eprintln!("Try `switchboard --help`.");
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Serve(options) => serve(*options),
        Command::Call { target, channel, payload } => {
            return block_on(call::call(&target, &channel, payload));
        }
        Command::Listen { target, channels } => return block_on(call::listen(&target, &channels)),
        Command::Channels { target: Some(target), json } => {
            match block_on(call::request(&target, "system:channels", Payload::none())) {
                Ok(channels) => print_listed(&channels, json),
                Err(code) => return code,
            }
        }
        Command::Channels { target: None, json } => print_listed(&own_channels(), json),
        Command::Types => print(&typescript()),
        Command::Tables => print(&markdown()),
        Command::Help => print(HELP),
        Command::Version => print(&format!("switchboard {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchboard: {error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads arguments. `environment` gives the variables that are set and not empty.
fn parse(
    arguments: impl IntoIterator<Item = OsString, IntoIter: 'static>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let mut arguments = arguments.into_iter().peekable();
    let command = arguments.next_if(|first| !first.as_encoded_bytes().starts_with(b"-"));
    let parser = lexopt::Parser::from_args(arguments);
    match command.as_ref().map(|command| command.to_string_lossy()).as_deref() {
        None | Some("serve") => parse_serve(parser, environment),
        Some("call") => parse_call(parser, environment),
        Some("listen") => parse_listen(parser, environment),
        Some("channels") => parse_channels(parser, environment),
        Some(name) => {
            Err(format!("unknown command {name:?}: expected serve, call, listen or channels").into())
        }
    }
}

fn parse_serve(
    mut parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let mut config = from_environment(&environment)?;
    let mut data_dir = environment("SWITCHBOARD_DATA_DIR").map(PathBuf::from);
    let mut code_dir = environment("HOME").map(|home| PathBuf::from(home).join(".claude/projects"));
    let mut restore_root = None;
    let (mut artifact_sources, mut allow_artifacts) = (Vec::new(), false);
    let mut record = true;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("host") => config.host = parser.value()?.string()?,
            Long("port") => config.port = number("--port", &parser.value()?)?,
            Long("max-port-attempts") => {
                config.max_port_attempts = number("--max-port-attempts", &parser.value()?)?;
            }
            Long("data-dir") => data_dir = Some(parser.value()?.into()),
            Long("code-dir") => code_dir = Some(parser.value()?.into()),
            Long("restore-root") => restore_root = Some(parser.value()?.into()),
            Long("artifact-source") => artifact_sources.push(parser.value()?.into()),
            Long("allow-artifacts") => allow_artifacts = true,
            Long("token-file") => config.token = Some(read_token(Path::new(&parser.value()?))?),
            Long("insecure") => config.insecure = true,
            Long("no-console") => config.serve_console = false,
            Long("no-analytics") => record = false,
            Long("allow-origin") => config.allow_origins.push(parser.value()?.string()?),
            Long("allow-host") => config.allow_hosts.push(parser.value()?.string()?),
            Long("rate-limit") => {
                let (requests, window) = rate_limit(&parser.value()?.string()?)?;
                config.limits.rate_max_requests = requests;
                config.limits.rate_window = window;
            }
            Long("idle-timeout") => {
                let seconds: u32 = number("--idle-timeout", &parser.value()?)?;
                config.limits.idle_timeout = positive("--idle-timeout", seconds)?;
            }
            Long("max-message") => {
                config.limits.max_message_bytes = number("--max-message", &parser.value()?)?
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let data_dir = match data_dir {
        Some(data_dir) => data_dir,
        None => default_data_dir(&environment)?,
    };
    let mut backend = BackendConfig::new(data_dir);
    // A page of messages has to fit into one response.
    backend.db.max_page_bytes = config.limits.max_message_bytes / 2;
    backend.ai.api_keys = api_keys(&environment)?;
    backend.imagegen.api_keys = backend.ai.api_keys.clone();
    backend.code.code_dir = code_dir;
    backend.analytics.record = record;
    if let Some(restore_root) = restore_root {
        backend.code.restore_root = restore_root;
    }
    backend.artifact.sources = artifact_sources;
    backend.artifact.allow = allow_artifacts;
    Ok(Command::Serve(Box::new(ServeOptions { config, backend })))
}

fn parse_call(
    parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let Some((target, words, _)) = parse_target(parser, environment, false)? else {
        return Ok(Command::Help);
    };
    let [channel, payload @ ..] = &*words else { return Err("call: expected URL CHANNEL [PAYLOAD]".into()) };
    let payload = match payload {
        [] => Payload::none(),
        [payload] => call::read_payload(payload)?,
        [_, extra, ..] => return Err(format!("unexpected argument {extra:?}").into()),
    };
    Ok(Command::Call { target, channel: channel.clone(), payload })
}

fn parse_listen(
    parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let Some((target, channels, _)) = parse_target(parser, environment, false)? else {
        return Ok(Command::Help);
    };
    if target.url.is_empty() {
        return Err("listen: expected URL [CHANNEL...]".into());
    }
    Ok(Command::Listen { target, channels })
}

fn parse_channels(
    parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let Some((target, words, listing)) = parse_target(parser, environment, true)? else {
        return Ok(Command::Help);
    };
    if let Some(extra) = words.first() {
        return Err(format!("unexpected argument {extra:?}").into());
    }
    let target = Some(target).filter(|target| !target.url.is_empty());
    match (listing, target) {
        (Listing::TypeScript, None) => Ok(Command::Types),
        (Listing::Markdown, None) => Ok(Command::Tables),
        (Listing::TypeScript, Some(_)) => Err("--typescript: no URL goes with it".into()),
        (Listing::Markdown, Some(_)) => Err("--markdown: no URL goes with it".into()),
        (listing, target) => Ok(Command::Channels { target, json: listing == Listing::Json }),
    }
}

/// How channels are to be listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    Lines,
    Json,
    TypeScript,
    Markdown,
}

/// The options of a command that talks to a server, what stands behind the URL, and the form of a list. `None` asks for
/// help.
fn parse_target(
    mut parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
    may_list: bool,
) -> Result<Option<(Target, Vec<String>, Listing)>, Failure> {
    let mut target = Target { token: token_from(&environment)?, ..Target::default() };
    let mut words = Vec::new();
    let mut listing = Listing::Lines;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) if target.url.is_empty() => target.url = word.string()?,
            Value(word) => words.push(word.string()?),
            Long("timeout") => {
                target.timeout = Some(positive("--timeout", number("--timeout", &parser.value()?)?)?);
            }
            Long("token-file") => target.token = Some(read_token(Path::new(&parser.value()?))?),
            Long("raw") => target.raw = true,
            Long("json") if may_list => listing = Listing::Json,
            Long("typescript") if may_list => listing = Listing::TypeScript,
            Long("markdown") if may_list => listing = Listing::Markdown,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some((target, words, listing)))
}

/// The settings of the binary, before any option: every page is served, and failures go to stderr.
fn from_environment(environment: &impl Fn(&str) -> Option<OsString>) -> Result<Config, Failure> {
    let mut config = Config {
        serve_health: true,
        serve_metrics: true,
        serve_console: true,
        serve_client: true,
        ..Config::default()
    };
    config.on_error = Some(Arc::new(|error| eprintln!("[WS] {error}")));
    if let Some(port) = environment("WS_PORT") {
        config.port = number("WS_PORT", &port)?;
    }
    if let Some(host) = environment("WS_HOST") {
        config.host = host.into_string().map_err(|_| "WS_HOST is not UTF-8")?;
    }
    config.token = token_from(environment)?;
    Ok(config)
}

/// The keys of AI providers, under the names that the providers' own clients read.
fn api_keys(environment: &impl Fn(&str) -> Option<OsString>) -> Result<BTreeMap<String, Token>, Failure> {
    let mut keys = BTreeMap::new();
    for (provider, variable) in [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")] {
        if let Some(key) = environment(variable) {
            let key = key.into_string().map_err(|_| format!("{variable} is not UTF-8"))?;
            keys.insert(provider.to_owned(), Token::new(key.trim()));
        }
    }
    Ok(keys)
}

fn token_from(environment: &impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, Failure> {
    let Some(token) = environment("SWITCHBOARD_TOKEN") else { return Ok(None) };
    let token = token.into_string().map_err(|_| "SWITCHBOARD_TOKEN is not UTF-8")?;
    check_token("SWITCHBOARD_TOKEN", &token).map(Some)
}

fn default_data_dir(environment: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    // The XDG base directory specification: a relative path there is invalid and to be ignored.
    if let Some(data_home) = environment("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute())
    {
        return Ok(data_home.join("switchboard"));
    }
    match environment("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/switchboard")),
        None => Err("HOME is not set: name a folder with --data-dir".into()),
    }
}

fn number<T: FromStr>(name: &str, text: &OsString) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    let text = text.to_string_lossy();
    text.parse().map_err(|error| format!("{name}: {text:?} is no number that fits: {error}").into())
}

fn positive(name: &str, seconds: u32) -> Result<Duration, Failure> {
    match seconds {
        0 => Err(format!("{name}: at least 1 is needed").into()),
        seconds => Ok(Duration::from_secs(seconds.into())),
    }
}

/// `N` or `N/MS`.
fn rate_limit(text: &str) -> Result<(u32, Duration), Failure> {
    let (requests, window_ms) = text.split_once('/').unwrap_or((text, "1000"));
    match (requests.parse(), window_ms.parse()) {
        (Ok(requests @ 1..), Ok(window_ms @ 1_u32..)) => {
            Ok((requests, Duration::from_millis(window_ms.into())))
        }
        _ => Err(format!("--rate-limit: {text:?} is not N or N/MS, like 100/1000").into()),
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let limit = MAX_TOKEN_BYTES as u64 + 2;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    read.map_err(|error| format!("--token-file {}: {error}", path.display()))?;
    check_token(&format!("--token-file {}", path.display()), text.trim_ascii())
}

/// A token has to fit into a header. An error never shows it.
fn check_token(name: &str, token: &str) -> Result<String, Failure> {
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_visible && (1..=MAX_TOKEN_BYTES).contains(&token.len()) {
        return Ok(token.to_owned());
    }
    Err(format!("{name}: expected a token of 1..={MAX_TOKEN_BYTES} visible ASCII characters").into())
}

fn own_channels() -> Payload {
    let channels: Vec<String> = channels().iter().map(Channel::to_json).collect();
    Payload::trusted(encode::array(&channels))
}

/// Writes a list of channels, as `system:channels` gives it: for a person, or as it is.
fn print_listed(channels: &Payload, json: bool) -> Result<(), Failure> {
    if json {
        return print(&format!("{}\n", channels.as_str().unwrap_or("null")));
    }
    let parsed = channels.parse().map_err(|error| error.to_string())?;
    let mut text = String::new();
    for channel in parsed.as_array().ok_or("the server's list of channels is no list")? {
        let [name, direction, payload, response, description] =
            ["channel", "direction", "payload", "response", "description"]
                .map(|member| channel[member].as_str().unwrap_or("-"));
        text.push_str(&format!(
            "{name:<24} {direction:<8} {payload} -> {response}\n{:<34}{description}\n",
            ""
        ));
    }
    print(&text)
}

/// Writes to stdout. A reader that has gone, as `head` does, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn serve(options: ServeOptions) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

/// Runs what an operator asked for. One thread is enough for it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the system lets a program wait for its sockets").block_on(future)
}

async fn run(options: ServeOptions) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let backend = Backend::open(options.backend)?;
    let (host, port) = (options.config.host.clone(), options.config.port);
    let server = Server::new(options.config);
    register_all(&server, &backend);
    let bound = server.start().await?;
    if port != 0 && bound != port {
        eprintln!("[WS] Port {port} in use, took {bound}");
    }
    print(&format!("[WS] Server listening on ws://{}:{bound}\n", in_url(&host)))?;
    signals.recv().await;
    tokio::spawn(async move {
        signals.recv().await;
        std::process::exit(130);
    });
    server.stop().await;
    backend.close().await;
    print("[WS] Server stopped\n")
}

/// A host as it stands in a URL: an IPv6 address in brackets.
fn in_url(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// SIGINT and SIGTERM.
#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn recv(&mut self) {
        std::future::poll_fn(|cx| {
            let (interrupt, terminate) = (self.0.poll_recv(cx), self.1.poll_recv(cx));
            if interrupt.is_ready() { interrupt } else { terminate }
        })
        .await;
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn recv(&mut self) {
        // Without a handler for Ctrl-C the system ends the process at once, which is all that is left to do then.
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests;
