//! `switchboard call`, `listen` and `channels` as an operator uses them: JSON on stdout, messages on stderr, exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use switchboard::client::{Client, ClientOptions};
use switchboard::{Attempt, Config, HandlerError, Identity, Payload, Refusal, RequestContext, Server};
use tokio::io::AsyncBufReadExt;

use crate::support::program::{self, Program};
use crate::support::socket::upgrade;
use crate::support::{certificate, skip};

fn switchboard(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(arguments).env_remove("SWITCHBOARD_TOKEN").stdin(Stdio::null());
    // No token of a server of this user.
    command.env("SWITCHBOARD_DATA_DIR", "/nowhere/at/all");
    command
}

fn run(arguments: &[&str]) -> Output {
    switchboard(arguments).output().unwrap()
}

/// The stdout of a command that must succeed.
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and stderr of a command that must fail.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

struct Host {
    program: Option<Program>,
    url: String,
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(&folder.path().join("data"));
        Host { url: format!("ws://localhost:{}", program.port), program: Some(program), folder }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(program) = self.program.take() {
            program.kill();
        }
    }
}

/// The machine sleeps, or the process is stopped, for longer than the idle timeout, while the clients go on.
#[cfg(unix)]
#[tokio::test]
async fn no_client_is_closed_because_the_server_was_stopped() {
    const IDLE: std::time::Duration = std::time::Duration::from_secs(5);
    let folder = tempfile::tempdir().unwrap();
    let mut command = program::command(&folder.path().join("data"));
    command.args(["--idle-timeout", &IDLE.as_secs().to_string()]);
    let program = Program::spawn(command);
    let mut clients = Vec::new();
    // Not more: on a busy machine the first ones would be silent for too long before the stop.
    for _ in 0..50 {
        clients.push(crate::support::client::Client::connect(program.port).await);
    }
    let signal = |name: &str| {
        let pid = program.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    let stopped = std::time::Instant::now();
    let mut sent = Vec::new();
    for client in &mut clients {
        sent.push(client.send("system:ping", Value::Null).await);
    }
    // Nothing reports that time has passed for a stopped process.
    while stopped.elapsed() < IDLE + IDLE / 3 {
        tokio::task::yield_now().await;
    }
    signal("-CONT");
    for (client, id) in clients.iter_mut().zip(sent) {
        while client.next().await.expect("an answer, not a close")["id"] != id.as_str() {}
    }
    program.kill();
}

#[test]
fn the_page_about_operations_has_the_help_text() {
    let page = include_str!("../../src/docs/operations.md");
    assert!(page.contains(&format!("```text\n{}```", stdout(&["--help"]))));
}

#[test]
fn call_writes_the_payload_in_one_line() {
    let host = Host::new();
    let url = &*host.url;
    let line = stdout(&["call", url, "chat:create", r#"{"title": "A"}"#]);
    assert_eq!(line.matches('\n').count(), 1);
    let chat: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(chat["title"], "A");

    // From a file and from stdin.
    let file = host.folder.path().join("payload.json");
    fs::write(&file, "{\"key\": \"k\",\n \"value\": \"two\\nlines\"}\n").unwrap();
    assert_eq!(stdout(&["call", url, "settings:set", &format!("@{}", file.display())]), "");
    let mut child = switchboard(&["call", url, "settings:get", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"key": "k"}"#).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"\"two\\nlines\"\n");
    assert_eq!(stdout(&["call", "--raw", url, "settings:get", r#"{"key": "k"}"#]), "two\nlines\n");
    assert_eq!(stdout(&["call", "--raw", url, "settings:get", r#"{"key": "nothing"}"#]), "null\n");
}

#[test]
fn exit_codes_tell_errors_apart() {
    let mut host = Host::new();
    let url = host.url.clone();
    let (code, said) = failure(&["call", &url, "chat:list", r#"{"limit": 0}"#]);
    assert_eq!(code, 1);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("HANDLER_ERROR: limit: expected integer 1..=500, got 0"));
    let details: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(details["path"], "limit");
    assert_eq!(failure(&["call", &url, "no:such"]).0, 1);

    for wrong in [
        &["call", &url][..],
        &["call", &url, "c", "{"],
        &["call", "http://localhost", "c"],
        &["call", &url, "c", "--token-file", "/nowhere/at/all"],
        &["listen"],
        &["frobnicate"],
    ] {
        assert_eq!(failure(wrong).0, 2, "{wrong:?}");
    }

    host.program.take().unwrap().kill();
    assert_eq!(failure(&["call", &url, "system:ping"]).0, 3);
    assert_eq!(failure(&["listen", &url]).0, 3);
    // A server that accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    assert_eq!(failure(&["call", &url, "system:ping", "--timeout", "1"]).0, 3);
}

#[test]
fn a_token_is_read_from_a_file_or_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    let mut server = program::command(&folder.path().join("data"));
    server.arg("--token-file").arg(&token);
    let program = Program::spawn(server);
    let url = format!("ws://localhost:{}", program.port);
    let (code, said) = failure(&["call", &url, "system:ping"]);
    assert_eq!((code, said.as_str()), (1, "UNAUTHORIZED: Authentication required\n"));
    stdout(&["call", &url, "system:ping", "--token-file", token.to_str().unwrap()]);
    let mut call = switchboard(&["call", &url, "system:ping"]);
    assert!(call.env("SWITCHBOARD_TOKEN", "s3cret").output().unwrap().status.success());
    let wrong = call.env("SWITCHBOARD_TOKEN", "wr0ng").output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(3) && said.contains("401") && !said.contains("wr0ng"), "{said}");
    program.kill();
}

/// The stderr of a server up to a line that contains `end`.
fn said_until(stderr: &mut impl BufRead, end: &str) -> String {
    let mut said = String::new();
    while !said.lines().last().is_some_and(|line| line.contains(end)) {
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
    }
    said
}

#[test]
fn the_log_says_why_the_server_closes_a_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = program::command(&folder.path().join("data"));
    server.stderr(Stdio::piped());
    let mut program = Program::spawn(server);
    let mut stderr = BufReader::new(program.stderr());
    let mut stream = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
    stream.write_all(upgrade("").as_bytes()).unwrap();
    // A frame that is not masked.
    stream.write_all(b"\x81\x00").unwrap();
    let said = said_until(&mut stderr, "closed ");
    assert!(said.contains(" with 1002 frame is not masked; from 127.0.0.1; after "), "{said}");
    let mut stream = TcpStream::connect(("127.0.0.1", program.port)).unwrap();
    stream.write_all(upgrade("Origin: https://evil.example\r\n").as_bytes()).unwrap();
    let said = said_until(&mut stderr, "refused ");
    assert!(
        said.contains("refused with 403: ") && said.contains(r#"Origin "https://evil.example""#),
        "{said}"
    );
    program.kill();
}

#[test]
fn a_private_server_has_a_token_that_the_commands_find() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut urls = Vec::new();
    for _ in 0..2 {
        let mut server = program::command(&data);
        server.arg("--private").stderr(Stdio::piped());
        let mut program = Program::spawn(server);
        let url = format!("ws://localhost:{}", program.port);
        let mut stderr = BufReader::new(program.stderr());
        let said = said_until(&mut stderr, "Console: ");
        let (console, token) = said.trim_end().rsplit_once("/#token=").unwrap();
        assert!(console.ends_with(&format!("http://localhost:{}", program.port)), "{said}");
        assert_eq!(fs::read_to_string(data.join("switchboard.token")).unwrap(), format!("{token}\n"));
        urls.push(token.to_owned());

        assert_eq!(failure(&["call", &url, "system:ping"]).0, 1);
        stdout(&["call", &url, "system:ping", "--data-dir", data.to_str().unwrap()]);
        let found = switchboard(&["channels", &url]).env("SWITCHBOARD_DATA_DIR", &data).output().unwrap();
        assert!(found.status.success(), "{found:?}");
        program.kill();
    }
    assert_eq!(urls[0], urls[1], "the token stays");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = data.join("switchboard.token");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let output = program::command(&data).arg("--private").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("other users"), "{said}");
    }
}

/// While a private server is stopped, another user can take its port.
#[cfg(target_os = "linux")]
#[test]
fn the_token_of_a_private_server_is_not_sent_to_another_user() {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip::skipped("a server of another user, which only root can start");
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    let mut server = program::command(&own);
    server.arg("--private").stderr(Stdio::null());
    Program::spawn(server).kill();
    let token = fs::read_to_string(own.join("switchboard.token")).unwrap();

    let theirs = tempfile::tempdir().unwrap();
    chown(theirs.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut server = program::command(&theirs.path().join("data"));
    server.env("SWITCHBOARD_TOKEN", token.trim()).env("HOME", theirs.path()).uid(NOBODY).gid(NOBODY);
    let program = Program::spawn(server);
    let url = format!("ws://localhost:{}", program.port);
    let (code, said) = failure(&["call", &url, "system:ping", "--data-dir", own.to_str().unwrap()]);
    assert!(code == 2 && said.contains("another user"), "{code} {said}");
    let file = own.join("switchboard.token");
    stdout(&["call", &url, "system:ping", "--token-file", file.to_str().unwrap()]);
    program.kill();
}

#[test]
fn a_short_token_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    for (token, is_short) in [("fifteen-letters", true), ("sixteen--letters", false)] {
        let mut server = program::command(&folder.path().join("data"));
        server.env("SWITCHBOARD_TOKEN", token).stderr(Stdio::piped());
        let mut program = Program::spawn(server);
        let mut said = program.stderr();
        program.kill();
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(text.contains("the token has 15 characters"), is_short, "{text}");
        assert!(!text.contains(token), "{text}");
    }
}

/// A `listen` command, whose lines are read one by one.
struct Listener {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Listener {
    fn start(arguments: &[&str]) -> Listener {
        let mut child = switchboard(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut listener = Listener { child, stdout, stderr };
        assert!(listener.said().contains("connected to ws://"));
        listener
    }

    fn event(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn said(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It can have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn listen_writes_one_event_per_line_and_reconnects() {
    let mut host = Host::new();
    let url = host.url.clone();
    let mut all = Listener::start(&["listen", &url]);
    assert_eq!(all.event()["channel"], "server:connected");
    let mut some = Listener::start(&["listen", &url, "settings:changed", "--raw"]);
    stdout(&["call", &url, "chat:create"]);
    stdout(&["call", &url, "settings:set", r#"{"key": "k", "value": [1, "\n"]}"#]);
    assert_eq!(all.event()["channel"], "chat:created");
    let changed = json!({"key": "k", "value": [1, "\n"]});
    assert_eq!(all.event(), json!({"channel": "settings:changed", "payload": changed}));
    assert_eq!(some.event(), changed);

    let program = host.program.take().unwrap();
    let port = program.port;
    program.kill();
    assert!(all.said().contains("connection lost"));
    assert!(all.said().contains("reconnecting in"));
    let mut again = program::command(&host.folder.path().join("data"));
    again.args(["--port", &port.to_string()]);
    host.program = Some(Program::spawn(again));
    while !all.said().contains("connected to") {}
    assert_eq!(all.event()["channel"], "server:connected");
}

#[test]
fn listen_ends_without_an_error_when_its_reader_closes() {
    let host = Host::new();
    let mut listener = Listener::start(&["listen", &host.url]);
    listener.event();
    let Listener { child, stdout, .. } = &mut listener;
    *stdout =
        BufReader::new(Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap());
    // The first write into a closed pipe ends it.
    self::stdout(&["call", &host.url, "chat:create"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn channels_of_the_program_and_of_a_server_are_listed() {
    let host = Host::new();
    let own = stdout(&["channels"]);
    assert!(own.contains("chat:create") && own.contains("settings:changed"));
    assert_eq!(stdout(&["channels", &host.url]), own);
    let listed: Value = serde_json::from_str(&stdout(&["channels", &host.url, "--json"])).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|channel| channel["channel"] == "chat:search"));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&["channels", "--json"])).unwrap(), listed);
}

/// Control characters: a title for the terminal, an order to erase it, and another direction of writing.
const RUDE: &str = "\u{1b}]0;t\u{7}\u{9b}2J\u{202e}";

/// A server whose words have control characters.
fn rude_server() -> Server {
    let server = Server::new(Config::default().port(0));
    server.on_request("fails", |_: Payload, _| async {
        Err::<Payload, _>(HandlerError::new(format!("{RUDE}\n[WS] fine")).details(json!({ "d": RUDE })))
    });
    server.on_request("answers", |_: Payload, _| async { Ok(Payload::from(json!(format!("{RUDE}\nx")))) });
    server.on_request("system:channels", |_: Payload, _| async {
        Ok(Payload::from(json!([{ "channel": RUDE, "description": RUDE }])))
    });
    server
}

/// Runs a command on a terminal, which gets its stderr too.
fn terminal(line: &str) -> tokio::process::Command {
    let line = format!("{} {line}", env!("CARGO_BIN_EXE_switchboard"));
    let mut script = tokio::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env_remove("SWITCHBOARD_TOKEN").stdin(Stdio::null());
    script
}

fn has_control(text: &str) -> bool {
    text.replace("\r\n", "").contains(|c: char| c.is_control() || c == '\u{202e}')
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_never_gets_the_control_characters_of_others() {
    let server = rude_server();
    let url = format!("ws://127.0.0.1:{}", server.start().await.unwrap());
    let call = |channel: &'static str, options: &'static [&str]| {
        let mut call = tokio::process::Command::from(switchboard(&["call", &url, channel]));
        call.args(options).output()
    };
    // stderr never has them, stdout has them if it is no terminal.
    let failed = String::from_utf8(call("fails", &[]).await.unwrap().stderr).unwrap();
    let start = r"HANDLER_ERROR: \u001b]0;t\u0007\u009b2J\u202e\u000a[WS] fine";
    assert!(failed.starts_with(start) && !has_control(&failed.replace('\n', "")), "{failed:?}");
    assert_eq!(failed.lines().count(), 2, "{failed:?}");
    let raw = call("answers", &["--raw"]).await.unwrap().stdout;
    assert_eq!(String::from_utf8(raw).unwrap(), "\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\nx\n");

    if Command::new("script").arg("--version").output().is_err() {
        return skip::skipped("a terminal, by the command script, which is not installed");
    }
    for (line, expected) in [
        (format!("call {url} fails"), r"\u001b]0;t\u0007\u009b2J\u202e\u000a[WS] fine"),
        (format!("call {url} answers"), r#""\u001b]0;t\u0007\u009b2J\u202e\nx""#),
        (format!("call {url} answers --raw"), "\\u001b]0;t\\u0007\\u009b2J\\u202e\r\nx\r\n"),
        (format!("channels {url}"), r"\u001b]0;t\u0007\u009b2J\u202e"),
        (format!("channels {url} --json"), r"\u001b]0;t\u0007\u009b2J\u202e"),
        (format!("call {url} 'no\u{1b}[2Jchannel'"), r"no\u001b[2Jchannel"),
    ] {
        let shown = String::from_utf8(terminal(&line).output().await.unwrap().stdout).unwrap();
        assert!(shown.contains(expected) && !has_control(&shown), "{line}: {shown:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_shows_the_control_characters_of_events_and_close_reasons() {
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    if Command::new("script").arg("--version").output().is_err() {
        return skip::skipped("a terminal, by the command script, which is not installed");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut script = terminal(&format!("listen {url}"));
    let mut script = script.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let event = json!({ "type": "event", "channel": RUDE, "payload": RUDE, "timestamp": 0 });
    socket.send(Message::text(event.to_string())).await.unwrap();
    let close = CloseFrame { code: CloseCode::Away, reason: RUDE.into() };
    socket.send(Message::Close(Some(close))).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    let mut lines = tokio::io::BufReader::new(script.stdout.take().unwrap()).lines();
    let mut shown = Vec::new();
    while !shown.last().is_some_and(|line: &String| line.contains("connection lost")) {
        shown.push(lines.next_line().await.unwrap().unwrap());
    }
    let escaped = r"\u001b]0;t\u0007\u009b2J\u202e";
    assert_eq!(shown[1], format!(r#"{{"channel":"{escaped}","payload":"{escaped}"}}"#));
    assert_eq!(shown[2], format!("switchboard: connection lost: {escaped}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_authorities_are_options_of_every_client_command() {
    let server = Server::new(Config::default().port(0));
    server.authenticate(|attempt: Attempt| async move {
        match (attempt.header("cookie"), attempt.header("x-team"), attempt.bearer()) {
            (Some("session=a:b"), Some(""), None) => Ok(Identity::new("ada")),
            (_, _, Some("7")) => Ok(Identity::new("bob")),
            seen => Err(Refusal::unauthorized(format!("no session: {seen:?}"))),
        }
    });
    server.on_request("system:channels", |_: Payload, _| async { Ok::<_, HandlerError>(json!([])) });
    server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
        Ok::<_, HandlerError>(json!(cx.identity().map(|identity| identity.id().to_owned())))
    });
    let url = format!("ws://127.0.0.1:{}", server.start().await.unwrap());
    let run = |line: &[&str], headers: &[&str]| {
        let mut command = tokio::process::Command::from(switchboard(line));
        for header in headers {
            command.args(["--header", header]);
        }
        command.output()
    };
    let cookie = ["Cookie: session=a:b", "X-Team:"];
    let called = run(&["call", &url, "whoami"], &cookie).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&called.stdout), "\"ada\"\n", "{called:?}");
    let called = run(&["call", &url, "whoami"], &["authorization:Bearer 7"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&called.stdout), "\"bob\"\n", "{called:?}");
    let listed = run(&["channels", &url, "--json"], &cookie).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "[]\n", "{listed:?}");
    let mut listen = tokio::process::Command::from(switchboard(&["listen", &url]));
    let mut listen = listen
        .args(["--header", cookie[0], "--header", cookie[1]])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(listen.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().contains("server:connected"));

    let refused = run(&["call", &url, "whoami"], &["Cookie:session=other"]).await.unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    for (header, expected) in [
        ("session-secret", "--header: expected NAME:VALUE"),
        (": secret", "headers: \"\" is not the name of a header"),
        ("a b: secret", "headers: \"a b\" is not the name of a header"),
        ("Host: secret", "headers: \"Host\" belongs to the handshake"),
        ("X: sec\nret", "headers: \"X\" has a value that is not allowed"),
    ] {
        let wrong = run(&["call", &url, "whoami"], &[header]).await.unwrap();
        let stderr = String::from_utf8(wrong.stderr).unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{header}: {stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("secret"), "{header}: {stderr}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, "no certificate").unwrap();
    let file = file.to_str().unwrap();
    for (path, expected) in
        [(file, "ca.pem: expected certificates in PEM"), ("/no/such", "--ca-file /no/such: ")]
    {
        let wrong = run(&["call", &url, "whoami", "--ca-file", path], &cookie).await.unwrap();
        let stderr = String::from_utf8(wrong.stderr).unwrap();
        assert!(wrong.status.code() == Some(2) && stderr.contains(expected), "{stderr}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wss_trusts_only_the_certificates_of_the_system_and_given_ones() {
    let host = Host::new();
    let Some((certificate, acceptor)) = certificate::localhost(host.folder.path()) else {
        return skip::skipped("wss:// with a certificate by the openssl command, which is not installed");
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = host.url.trim_start_matches("ws://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the handshake.
            if let Ok(mut near) = acceptor.accept(stream).await {
                let mut far = tokio::net::TcpStream::connect(&server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        }
    });
    let call = |host: &str, trusted: Option<&Path>| {
        let mut call = switchboard(&["call", &format!("wss://{host}:{port}"), "system:ping"]);
        if let Some(certificate) = trusted {
            call.env("SSL_CERT_FILE", certificate);
        }
        async move { tokio::task::spawn_blocking(move || call.output().unwrap()).await.unwrap() }
    };
    let trusted = call("localhost", Some(&certificate)).await;
    assert!(trusted.status.success(), "{trusted:?}");
    let url = format!("wss://localhost:{port}");
    let own = |pem: String| ClientOptions { ca_certificates: Some(pem), ..ClientOptions::default() };
    let pem = fs::read_to_string(&certificate).unwrap();
    let client = Client::connect(&url, own(pem)).await.unwrap();
    client.send_message("system:ping", ()).await.unwrap();
    client.disconnect().await;
    let error = Client::connect(&url, ClientOptions::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("TLS with localhost: ") && error.contains("certificate"), "{error}");
    for unreadable in ["", "no certificate"] {
        let error = Client::new(&url, own(unreadable.to_owned())).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{unreadable}");
    }
    // The same by the command's own option, and its variable.
    let pem_file = certificate.to_str().unwrap().to_owned();
    for by_variable in [false, true] {
        let mut call = switchboard(&["call", &url, "system:ping"]);
        match by_variable {
            true => call.env("SWITCHBOARD_CA_FILE", &pem_file),
            false => call.args(["--ca-file", &pem_file]),
        };
        let trusted = tokio::task::spawn_blocking(move || call.output().unwrap()).await.unwrap();
        assert!(trusted.status.success(), "{trusted:?}");
    }
    let unknown = call("localhost", None).await;
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let other_name = call("127.0.0.1", Some(&certificate)).await;
    assert_eq!(other_name.status.code(), Some(3), "{other_name:?}");
}
