//! The `switchboard` command: runs what the command line asks for, and serves until a signal.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::shared::encode;
use crate::backend::shared::registry::Channel;
use crate::backend::state::Backend;
use crate::backend::table::{channels, markdown, register_all, typescript};
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::arguments::{Command, ServeOptions, parse};
use super::log::Log;
use super::terminal::{LineBreaks, for_stdout, say};
use super::values::Failure;
use super::{call, private};

/// A shorter token is accepted, with a warning.
const MIN_TOKEN_BYTES: usize = 16;

/// How long requests in flight can go on after a signal. With what closing connections can take it is less than the 10 s after which
/// container runtimes kill.
const DRAIN_TIME: Duration = Duration::from_secs(3);

const HELP: &str = include_str!("help.txt");

/// Runs the command, from the process's own arguments and environment.
pub fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let command = match parse(std::env::args_os().skip(1), environment) {
        Ok(command) => command,
        Err(error) => {
            say(format_args!("switchboard: {error}"));
            say("Try `switchboard --help`.");
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
        Command::TypeScript => print(&typescript()),
        Command::Markdown => print(&markdown()),
        Command::Help => print(HELP),
        Command::Version => print(&format!("switchboard {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("switchboard: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn own_channels() -> Payload {
    let channels: Vec<String> = channels().iter().map(Channel::to_json).collect();
    Payload::trusted(encode::array(&channels))
}

/// Prints a list of channels as `system:channels` returns it: unchanged with `json`, else in lines for a person.
fn print_listed(channels: &Payload, json: bool) -> Result<(), Failure> {
    if json {
        let json = for_stdout(channels.as_str().unwrap_or("null"), LineBreaks::Kept);
        return print(&format!("{json}\n"));
    }
    let parsed = channels.parse().map_err(|error| error.to_string())?;
    let mut text = String::new();
    for channel in parsed.as_array().ok_or("the server sent an invalid channel list")? {
        let [name, direction, payload, response, description] =
            ["channel", "direction", "payload", "response", "description"]
                .map(|member| for_stdout(channel[member].as_str().unwrap_or("-"), LineBreaks::Shown));
        text.push_str(&format!(
            "{name:<24} {direction:<8} {payload} -> {response}\n{:<34}{description}\n",
            ""
        ));
    }
    print(&text)
}

/// Writes to stdout. A closed pipe is not a failure: readers like `head` close it early.
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

/// Runs a client command. One thread is enough for it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system can wait for sockets");
    let result = runtime.block_on(future);
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    result
}

async fn run(options: ServeOptions) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let ServeOptions { mut config, backend, private } = options;
    if backend.artifact.allow {
        hide_memory()?;
    }
    let data_dir = backend.data_dir.clone();
    let backend = Backend::open(backend)?;
    if private {
        config.token = Some(private::make_or_read(&data_dir)?);
    }
    warn_about_token(config.token.as_deref());
    let (host, port) = (config.host.clone(), config.port);
    let sign_in = config.token.clone().filter(|_| private && config.serve_console);
    let server = Server::new(config);
    server.observe(Arc::new(Log::default()));
    register_all(&server, &backend);
    let bound = server.start().await?;
    if port != 0 && bound != port {
        say(format_args!("[WS] Port {port} is in use, listening on {bound} instead"));
    }
    print(&format!("[WS] Server listening on ws://{}:{bound}\n", in_url(&host)))?;
    if let Some(token) = sign_in {
        // No browser sends what follows a #.
        say(format_args!("[WS] Console: http://{}:{bound}/#token={token}", in_url(&host)));
    }
    signals.recv().await;
    tokio::spawn(async move {
        signals.recv().await;
        std::process::exit(130);
    });
    server.drain(DRAIN_TIME).await;
    backend.close().await;
    print("[WS] Server stopped\n")
}

/// Hides the memory of this process from other processes of its user, root excepted: artifacts could read the token and
/// keys in its environment. It also writes no core dumps then.
#[cfg(target_os = "linux")]
fn hide_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Does nothing: only Linux shows the environment of a process as a file.
#[cfg(not(target_os = "linux"))]
fn hide_memory() -> io::Result<()> {
    Ok(())
}

/// A token that is this short can be guessed.
fn warn_about_token(token: Option<&str>) {
    if let Some(length) = token.map(str::len).filter(|length| *length < MIN_TOKEN_BYTES) {
        say(format_args!(
            "[WS] Warning: the token has {length} characters and can be guessed: use at least {MIN_TOKEN_BYTES} random ones"
        ));
    }
}

/// Returns a host as URLs have it: an IPv6 address in brackets.
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
        // If Ctrl-C cannot be handled, the system ends the process.
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_in_brackets() {
        assert_eq!(in_url("::1"), "[::1]");
        assert_eq!(in_url("[::1]"), "[::1]");
        assert_eq!(in_url("localhost"), "localhost");
    }
}
