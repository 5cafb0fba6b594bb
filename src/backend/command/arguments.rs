//! The command line. In: arguments and environment variables. Out: a command, or what is wrong with them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use crate::backend::config::BackendConfig;
use crate::backend::shared::origin::Origin;
use crate::backend::shared::token::Token;
use crate::protocol::handshake::read_public_url;
use crate::protocol::payload::Payload;
use crate::server::Config;

use super::call::{self, Target};
use super::values::{
    Failure, check_token, number, positive, read_authorities, read_header, read_name, read_token,
};
use super::{limits, private};

/// The variable with the name of a file of authorities.
const AUTHORITIES: &str = "SWITCHBOARD_CA_FILE";

/// What the command line asks for.
#[derive(Debug)]
pub(super) enum Command {
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
    /// Lists the channels of a server, or of this program.
    Channels {
        target: Option<Target>,
        json: bool,
    },
    /// Prints the channels of this program as TypeScript types.
    TypeScript,
    /// Prints the channels of this program as Markdown tables.
    Markdown,
    Help,
    Version,
}

#[derive(Debug)]
pub(super) struct ServeOptions {
    pub(super) config: Config,
    pub(super) backend: BackendConfig,
    /// Whether the token is that of the data folder.
    pub(super) private: bool,
}

/// Parses the arguments. `environment` returns a variable if it is set and not empty.
pub(super) fn parse(
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
    let mut data_dir = None;
    let mut code_dir = environment("HOME").map(|home| PathBuf::from(home).join(".claude/projects"));
    let mut restore_root = None;
    let (mut artifact_sources, mut allow_artifacts) = (Vec::new(), false);
    let (mut record, mut private) = (true, false);
    let mut key_origins = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("host") => config.host = parser.value()?.string()?,
            Long("port") => config.port = number("--port", &parser.value()?)?,
            Long("data-dir") => data_dir = Some(parser.value()?.into()),
            Long("code-dir") => code_dir = Some(parser.value()?.into()),
            Long("restore-root") => restore_root = Some(parser.value()?.into()),
            Long("artifact-source") => artifact_sources.push(parser.value()?.into()),
            Long("allow-artifacts") => allow_artifacts = true,
            Long("key-origin") => key_origins.push(key_origin("--key-origin", &parser.value()?.string()?)?),
            Long("token-file") => config.token = Some(read_token(Path::new(&parser.value()?))?),
            Long("private") => private = true,
            Long("any-user") => config.same_user = false,
            Long("insecure") => config.insecure = true,
            Long("no-console") => config.serve_console = false,
            Long("no-analytics") => record = false,
            Long("rate-by-address") => config.rate_by_address = true,
            Long(name) if limits::NAMES.contains(&name) => {
                let name = name.to_owned();
                limits::set(&mut config, &name, &parser.value()?)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if private && config.token.is_some() {
        return Err("--private makes its own token: leave out --token-file and SWITCHBOARD_TOKEN".into());
    }
    let mut backend = BackendConfig::new(find_data_dir(data_dir, &environment)?);
    // A page of messages must fit into one response.
    backend.db.max_page_bytes = config.limits.max_message_bytes / 2;
    give_keys(&mut backend, &environment, key_origins)?;
    backend.code.code_dir = code_dir;
    backend.analytics.record = record;
    if let Some(restore_root) = restore_root {
        backend.code.restore_root = restore_root;
    }
    backend.artifact.sources = artifact_sources;
    backend.artifact.allow = allow_artifacts;
    Ok(Command::Serve(Box::new(ServeOptions { config, backend, private })))
}

fn parse_call(
    parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let arguments = match parse_client(parser, environment, FormOptions::Refused)? {
        Ok(arguments) => arguments,
        Err(command) => return Ok(command),
    };
    let ClientArguments { target, words, .. } = arguments;
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
    let arguments = match parse_client(parser, environment, FormOptions::Refused)? {
        Ok(arguments) => arguments,
        Err(command) => return Ok(command),
    };
    let ClientArguments { target, words: channels, .. } = arguments;
    if target.url.is_empty() {
        return Err("listen: expected URL [CHANNEL...]".into());
    }
    Ok(Command::Listen { target, channels })
}

fn parse_channels(
    parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, Failure> {
    let arguments = match parse_client(parser, environment, FormOptions::Accepted)? {
        Ok(arguments) => arguments,
        Err(command) => return Ok(command),
    };
    let ClientArguments { target, words, listing } = arguments;
    if let Some(extra) = words.first() {
        return Err(format!("unexpected argument {extra:?}").into());
    }
    let target = Some(target).filter(|target| !target.url.is_empty());
    match (listing, target) {
        (Listing::TypeScript, None) => Ok(Command::TypeScript),
        (Listing::Markdown, None) => Ok(Command::Markdown),
        (Listing::TypeScript, Some(_)) => Err("--typescript: a URL cannot be given with it".into()),
        (Listing::Markdown, Some(_)) => Err("--markdown: a URL cannot be given with it".into()),
        (listing, target) => Ok(Command::Channels { target, json: listing == Listing::Json }),
    }
}

/// The form of a list of channels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    Lines,
    Json,
    TypeScript,
    Markdown,
}

/// Whether a command has options for the form of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FormOptions {
    Accepted,
    Refused,
}

/// The arguments of a command that connects to a server.
struct ClientArguments {
    target: Target,
    /// What follows the URL.
    words: Vec<String>,
    listing: Listing,
}

/// Reads the arguments of a command that connects to a server. The inner `Err` is the command that an option like `--help`
/// asks for instead.
fn parse_client(
    mut parser: lexopt::Parser,
    environment: impl Fn(&str) -> Option<OsString>,
    form_options: FormOptions,
) -> Result<Result<ClientArguments, Command>, Failure> {
    let mut target = Target { token: token_from(&environment)?, ..Target::default() };
    let (mut words, mut data_dir) = (Vec::new(), None);
    let mut authorities = environment(AUTHORITIES).map(|path| (AUTHORITIES, path));
    let mut listing = Listing::Lines;
    let has_forms = form_options == FormOptions::Accepted;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) if target.url.is_empty() => target.url = word.string()?,
            Value(word) => words.push(word.string()?),
            Long("timeout") => {
                target.timeout = Some(positive("--timeout", &parser.value()?)?);
            }
            Long("token-file") => target.token = Some(read_token(Path::new(&parser.value()?))?),
            Long("header") => target.headers.push(read_header(&parser.value()?)?),
            Long("ca-file") => authorities = Some(("--ca-file", parser.value()?)),
            Long("data-dir") => data_dir = Some(parser.value()?.into()),
            Long("raw") => target.raw = true,
            Long("json") if has_forms => listing = Listing::Json,
            Long("typescript") if has_forms => listing = Listing::TypeScript,
            Long("markdown") if has_forms => listing = Listing::Markdown,
            Short('h') | Long("help") => return Ok(Err(Command::Help)),
            Short('V') | Long("version") => return Ok(Err(Command::Version)),
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some((option, path)) = authorities {
        target.authorities = Some(read_authorities(option, Path::new(&path))?);
    }
    // A server has either a token or a login of its own.
    let has_login = target.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    if target.token.is_none() && !has_login {
        // Without a data folder there is no token.
        let data_dir = find_data_dir(data_dir, &environment).ok();
        target.token = data_dir.map_or(Ok(None), |data_dir| private::find(&target.url, &data_dir))?;
    }
    Ok(Ok(ClientArguments { target, words, listing }))
}

/// Returns the settings of the command before its options: every page is served.
fn from_environment(environment: &impl Fn(&str) -> Option<OsString>) -> Result<Config, Failure> {
    let mut config = Config {
        serve_health: true,
        serve_metrics: true,
        serve_console: true,
        serve_client: true,
        same_user: true,
        ..Config::default()
    };
    if let Some(port) = environment("WS_PORT") {
        config.port = number("WS_PORT", &port)?;
    }
    if let Some(host) = environment("WS_HOST") {
        config.host = host.into_string().map_err(|_| "WS_HOST is not UTF-8")?;
    }
    if let Some(url) = environment("SWITCHBOARD_PUBLIC_URL") {
        config.public_url = Some(read_name("SWITCHBOARD_PUBLIC_URL", &url, read_public_url)?);
    }
    config.token = token_from(environment)?;
    Ok(config)
}

/// Sets the keys of providers, and the origins that they are sent to besides the providers' own.
fn give_keys(
    backend: &mut BackendConfig,
    environment: &impl Fn(&str) -> Option<OsString>,
    mut key_origins: Vec<Origin>,
) -> Result<(), Failure> {
    const VARIABLE: &str = "SWITCHBOARD_KEY_ORIGINS";
    if let (Some(listed), true) = (environment(VARIABLE), key_origins.is_empty()) {
        let listed = listed.into_string().map_err(|_| format!("{VARIABLE} is not UTF-8"))?;
        let words = listed.split([' ', ',']).filter(|word| !word.is_empty());
        key_origins = words.map(|word| key_origin(VARIABLE, word)).collect::<Result<_, _>>()?;
    }
    backend.ai.api_keys = api_keys(environment)?;
    backend.imagegen.api_keys = backend.ai.api_keys.clone();
    backend.ai.key_origins.clone_from(&key_origins);
    backend.imagegen.key_origins = key_origins;
    Ok(())
}

/// Reads an origin. The error does not contain the text, in which there can be a password.
fn key_origin(name: &str, text: &str) -> Result<Origin, Failure> {
    text.parse().map_err(|error| format!("{name}: {error}").into())
}

/// Reads the keys of AI providers from the variables that the providers' own clients read. A blank key counts as none.
fn api_keys(environment: &impl Fn(&str) -> Option<OsString>) -> Result<BTreeMap<String, Token>, Failure> {
    let mut keys = BTreeMap::new();
    for (provider, variable) in [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")] {
        if let Some(key) = environment(variable) {
            let key = key.into_string().map_err(|_| format!("{variable} is not UTF-8"))?;
            if !key.trim().is_empty() {
                keys.insert(provider.to_owned(), Token::new(key.trim()));
            }
        }
    }
    Ok(keys)
}

fn token_from(environment: &impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, Failure> {
    let Some(token) = environment("SWITCHBOARD_TOKEN") else { return Ok(None) };
    let token = token.into_string().map_err(|_| "SWITCHBOARD_TOKEN is not UTF-8")?;
    check_token("SWITCHBOARD_TOKEN", &token).map(Some)
}

fn find_data_dir(
    option: Option<PathBuf>,
    environment: &impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Failure> {
    match option.or_else(|| environment("SWITCHBOARD_DATA_DIR").map(PathBuf::from)) {
        Some(data_dir) => Ok(data_dir),
        None => default_data_dir(environment),
    }
}

fn default_data_dir(environment: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    // XDG base directory specification: "a relative path […] should be considered invalid and ignored".
    if let Some(data_home) = environment("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute())
    {
        return Ok(data_home.join("switchboard"));
    }
    match environment("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/switchboard")),
        None => Err("HOME is not set: give a folder with --data-dir".into()),
    }
}

#[cfg(test)]
mod tests;
