//! Faults of the environment, on real sockets and real processes: connections that break in every state, no file descriptors,
//! a full disk, and a signal under load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use switchboard::protocol::frame;
use switchboard::{ClientId, HandlerError, Payload, RequestContext, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::client::Client;
use crate::support::program::{self, Program};
use crate::support::skip;
use crate::support::socket::{self, calls, config, reset, upgrade, within};

/// The state of a connection when it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connected,
    MidHead,
    Upgraded,
    MidFrame,
    /// A handler is running, and never ends.
    InFlight,
    /// The server has sent its close frame, and waits for ours.
    Closing,
}

const STATES: [State; 6] =
    [State::Connected, State::MidHead, State::Upgraded, State::MidFrame, State::InFlight, State::Closing];

/// Reports when the handler that holds it is dropped.
struct Gone(Arc<Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

struct Faulty {
    server: Server,
    port: u16,
    started: Arc<Notify>,
    dropped: Arc<Notify>,
}

impl Faulty {
    async fn start(config: switchboard::Config) -> Faulty {
        let (server, port) = socket::start(config).await;
        let (started, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, drops) = (started.clone(), dropped.clone());
        server.on_request("never", move |_: Payload, _: RequestContext| {
            let gone = Gone(drops.clone());
            begins.notify_one();
            async move {
                let _gone = gone;
                std::future::pending::<Result<Payload, HandlerError>>().await
            }
        });
        Faulty { server, port, started, dropped }
    }

    /// A connection in a state that the server has reached too.
    async fn reach(&self, state: State) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        if state == State::Connected {
            return stream;
        }
        if state == State::MidHead {
            stream.write_all(&upgrade("").as_bytes()[..60]).await.unwrap();
            return stream;
        }
        stream.write_all(upgrade("").as_bytes()).await.unwrap();
        read_until(&mut stream, b"server:connected").await;
        let request = json!({"type": "request", "id": "1", "channel": "never"}).to_string();
        let mut bytes = Vec::new();
        frame::write(&mut bytes, frame::TEXT, Some([1, 2, 3, 4]), [request.as_bytes()]);
        match state {
            State::MidFrame => stream.write_all(&bytes[..bytes.len() / 2]).await.unwrap(),
            State::InFlight => {
                stream.write_all(&bytes).await.unwrap();
                within("the handler", self.started.notified()).await;
            }
            State::Closing => {
                // A frame without a mask.
                stream.write_all(&[0x81, 0x01, b'x']).await.unwrap();
                read_until(&mut stream, b"not masked").await;
            }
            _ => {}
        }
        stream
    }
}

async fn read_until(stream: &mut TcpStream, word: &[u8]) {
    let mut seen = Vec::new();
    while !seen.windows(word.len()).any(|window| window == word) {
        let count = within("more of the answer", stream.read_buf(&mut seen)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn a_reset_or_half_closed_connection_leaves_nothing_in_any_state() {
    for is_reset in [true, false] {
        for state in STATES {
            let (connected, mut connects) = calls();
            let (disconnected, mut disconnects) = calls();
            let faulty =
                Faulty::start(config().on_connection(connected).on_disconnection(disconnected)).await;
            let mut stream = faulty.reach(state).await;
            let is_member = !matches!(state, State::Connected | State::MidHead);
            if is_member {
                connects.next().await;
            }
            if is_reset {
                reset(stream);
            } else {
                stream.shutdown().await.unwrap();
                // The server closes its half too, with or without a close frame.
                let mut rest = Vec::new();
                let _ = within("the end", stream.read_to_end(&mut rest)).await;
            }
            if is_member {
                disconnects.next().await;
            }
            if state == State::InFlight {
                within("the handler's end", faulty.dropped.notified()).await;
            }
            assert_eq!(faulty.server.client_count(), 0, "{state:?}, reset: {is_reset}");
            socket::Client::connect(faulty.port).await.assert_alive().await;
            faulty.server.stop().await;
            assert_eq!(
                (connects.drain(), disconnects.drain()),
                (1, 1),
                "{state:?}, reset: {is_reset}: the other alone"
            );
        }
    }
}

/// Clients that pipeline writes until the server stops.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_signal_sends_answers_and_a_close_frame_to_each_client() {
    const CLIENTS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data);
    let port = program.port;
    let mut first = Client::connect(port).await;
    let chat = first.call("chat:create", Value::Null).await["id"].clone();
    let answered = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (chat, answered) = (chat.clone(), answered.clone());
        clients.spawn(async move {
            let mut client = Client::connect(port).await;
            let (mut waiting, mut stored, mut last) = (0_usize, Vec::new(), None);
            let mut is_stopping = false;
            loop {
                while waiting < 8 && !is_stopping {
                    let message = json!({"chatId": chat, "role": "user", "content": "x"});
                    client.send("chat:add-message", message).await;
                    waiting += 1;
                }
                match client.next().await {
                    Err(code) => return (code, stored, last),
                    Ok(message) if message["channel"] == "server:shutdown" => is_stopping = true,
                    Ok(message) if message["type"] == "response" => {
                        waiting -= 1;
                        match message["error"]["code"].as_str() {
                            None => stored.push(message["payload"]["id"].as_str().unwrap().to_owned()),
                            Some("CONNECTION_CLOSED") => last = Some(waiting),
                            Some(_) => panic!("{message}"),
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                }
            }
        });
    }
    while answered.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    let stopped = tokio::task::spawn_blocking(|| program.stop("-TERM"));
    let mut stored = Vec::new();
    let mut cut_off = 0;
    while let Some(ended) = clients.join_next().await {
        let (code, some, last) = ended.unwrap();
        assert_eq!(code, 1001, "a client without a close frame");
        cut_off += usize::from(last.is_some());
        stored.extend(some);
    }
    assert_eq!(stopped.await.unwrap().0, Some(0));
    println!("{} writes were answered; {cut_off} of {CLIENTS} clients had some cut off", stored.len());

    let database = rusqlite::Connection::open(data.join("switchboard.db")).unwrap();
    let mut known = database.prepare("SELECT count(*) FROM messages WHERE id = ?").unwrap();
    for id in &stored {
        assert_eq!(known.query_row([id], |row| row.get::<_, u32>(0)).unwrap(), 1, "{id} was answered");
    }
}

/// The command that starts the server, under a limit set by `ulimit`.
fn limited(limit: &str, data: &Path) -> Command {
    let serve = program::command(data);
    let mut command = program::without_settings(Command::new("sh"));
    command.arg("-c").arg(format!("trap '' XFSZ; ulimit {limit}; exec \"$0\" \"$@\""));
    command.arg(serve.get_program()).args(serve.get_args());
    command
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // In blocks of 512 or 1 024 bytes, depending on the shell: room for the tables and some messages.
    let program = Program::spawn(limited("-f 2000", &data));
    let mut client = Client::connect(program.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await["id"].clone();
    let mut stored = 0;
    let error = loop {
        let message = json!({"chatId": chat, "role": "user", "content": "x".repeat(50_000)});
        let response = client.respond("chat:add-message", message).await;
        match response.get("error") {
            None => stored += 1,
            Some(error) => break error.clone(),
        }
        assert!(stored < 1000, "the limit does not hold");
    };
    assert_eq!(error["code"], "HANDLER_ERROR", "{error}");
    assert!(stored > 0);
    // The server still runs: it reads, and each write is an error.
    let count = client.call("chat:get", json!({"id": chat})).await["messageCount"].clone();
    assert_eq!(count, stored);
    let big = json!({"chatId": chat, "role": "user", "content": "x".repeat(50_000)});
    client.refuse("chat:add-message", big.clone()).await;
    client.call("system:ping", Value::Null).await;
    drop(client);
    program.stop("-TERM");

    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    assert_eq!(client.call("chat:get", json!({"id": chat})).await["messageCount"], stored);
    let page = client.call("chat:get-messages", json!({"chatId": chat, "limit": 500})).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), stored);
    client.call("chat:add-message", big).await;
    program.stop("-TERM");
    let database = rusqlite::Connection::open(data.join("switchboard.db")).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Makes files immutable, also for processes that have them open. Dropping it makes them mutable again.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    /// `None` where the file system or our permissions do not allow it.
    fn new(files: Vec<PathBuf>) -> Option<Frozen> {
        let frozen = Frozen(files);
        let status = Command::new("chattr").arg("+i").args(&frozen.0).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then_some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").args(&self.0).stderr(Stdio::null()).status();
    }
}

/// Whatever prevents writing to the database, each failed write is an error response, and reads still work. Afterwards
/// writes work again.
#[tokio::test]
async fn writes_fail_only_while_the_database_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await["id"].clone();
    let message = json!({"chatId": chat, "role": "user", "content": "x"});
    client.call("chat:add-message", message.clone()).await;
    let mut stored = 1;
    let files = ["switchboard.db", "switchboard.db-wal"].map(|name| data.join(name));

    // Another process holds the lock for longer than a write waits.
    let other = rusqlite::Connection::open(&files[0]).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = client.refuse("chat:add-message", message.clone()).await;
    assert_eq!(error["code"], "HANDLER_ERROR", "{error}");
    assert_eq!(client.call("chat:get", json!({"id": chat})).await["messageCount"], stored);
    other.execute_batch("ROLLBACK").unwrap();
    client.call("chat:add-message", message.clone()).await;
    stored += 1;

    // The file system refuses.
    match Frozen::new(files.to_vec()) {
        None => skip::skipped("a database that becomes read-only: chattr +i is not allowed here"),
        Some(frozen) => {
            for _ in 0..3 {
                let error = client.refuse("chat:add-message", message.clone()).await;
                assert_eq!(error["code"], "HANDLER_ERROR", "{error}");
                assert_eq!(client.call("chat:get", json!({"id": chat})).await["messageCount"], stored);
                client.call("system:ping", Value::Null).await;
            }
            drop(frozen);
            client.call("chat:add-message", message.clone()).await;
            stored += 1;
        }
    }
    program.kill();

    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    assert_eq!(client.call("chat:get", json!({"id": chat})).await["messageCount"], stored);
    program.stop("-TERM");
    let check: String = rusqlite::Connection::open(&files[0])
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// The path of libfaketime, which gives a process another wall clock.
fn libfaketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime"));
    folders.map(|folder| folder.join("libfaketimeMT.so.1")).find(|library| library.exists())
}

/// The wall clock is for display only. Setting it closes no client, loses no message, and reorders none.
#[tokio::test]
async fn a_clock_that_jumps_changes_timestamps_and_nothing_else() {
    let Some(library) = libfaketime() else {
        return skip::skipped("a clock that jumps: libfaketime is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, clock) = (folder.path().join("data"), folder.path().join("clock"));
    fs::write(&clock, "+0").unwrap();
    let mut serve = program::command(&data);
    serve.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    serve.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let program = Program::spawn(serve);
    let mut client = Client::connect(program.port).await;

    let (mut chats, mut days) = (Vec::new(), Vec::new());
    for jump in ["+0", "-2d", "+3650d", "-1d", "+0"] {
        fs::write(&clock, jump).unwrap();
        let chat = client.call("chat:create", json!({"title": jump})).await;
        for content in ["first", "second"] {
            let message = json!({"chatId": chat["id"], "role": "user", "content": content});
            client.call("chat:add-message", message).await;
        }
        let page = client.call("chat:get-messages", json!({"chatId": chat["id"]})).await;
        let contents: Vec<_> =
            page["messages"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
        assert_eq!(contents, ["first", "second"], "after {jump}");
        days.push(chat["createdAt"].as_i64().unwrap() / 86_400_000 - days.first().copied().unwrap_or(0));
        chats.insert(0, chat["id"].clone());
        // The newest are first, whatever the clock says.
        let list = client.call("chat:list", Value::Null).await;
        let listed: Vec<_> = list.as_array().unwrap().iter().map(|chat| chat["id"].clone()).collect();
        assert_eq!(listed, chats, "after {jump}");
    }
    assert!(
        (-3..=-1).contains(&days[1]) && (3649..=3651).contains(&days[2]),
        "the clock did not jump: {days:?}"
    );
    client.call("analytics:dashboard", json!({"timeRange": "7d"})).await;
    let (code, _) = program.stop("-TERM");
    assert_eq!(code, Some(0));
}

/// Sends a signal to a process.
fn signal(name: &str, child: &Child) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_client_process_is_closed_and_reconnects_when_it_continues() {
    let (connected, mut connects) = calls();
    let (disconnected, mut disconnects) = calls();
    let mut config = config().on_connection(connected).on_disconnection(disconnected);
    config.limits.max_outbox_bytes = 1 << 20;
    config.limits.close_timeout = std::time::Duration::from_millis(100);
    let (server, port) = socket::start(config).await;
    let mut listener = program::without_settings(Command::new(env!("CARGO_BIN_EXE_switchboard")))
        .args(["listen", &format!("ws://localhost:{port}"), "c"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id: ClientId = connects.next().await;
    let mut other = socket::Client::connect(port).await;
    connects.next().await;
    signal("-STOP", &listener);
    let event = json!("x".repeat(100_000));
    // The system buffers some MiB for it.
    for _ in 0..10_000 {
        if server.client_info(id).is_none() {
            break;
        }
        server.emit_to(id, "c", event.clone());
        other.assert_alive().await;
    }
    assert_eq!(disconnects.next().await, id, "only this client was closed");
    other.assert_alive().await;
    signal("-CONT", &listener);
    assert_ne!(connects.next().await, id, "it has reconnected");
    listener.kill().unwrap();
    listener.wait().unwrap();
    server.stop().await;
}

/// CPU time that a process has used, in clock ticks; `None` where the kernel does not report it.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[tokio::test]
async fn without_descriptors_connected_clients_are_served_and_others_wait() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::spawn(limited("-n 48", &folder.path().join("data")));
    let mut there = Client::connect(program.port).await;
    // The system completes more connections than the program can accept.
    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(TcpStream::connect(("127.0.0.1", program.port)).await.unwrap());
    }
    let descriptors = format!("/proc/{}/fd", program.id());
    while fs::read_dir(&descriptors).is_ok_and(|open| open.count() < 48) {
        there.call("system:ping", Value::Null).await;
    }
    let before = cpu_ticks(program.id());
    let started = std::time::Instant::now();
    // The connected client is served, and the server does not spin: it uses little CPU time.
    while started.elapsed() < std::time::Duration::from_secs(2) {
        there.call("system:ping", Value::Null).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    if let (Some(before), Some(after)) = (before, cpu_ticks(program.id())) {
        // A spinning thread would have taken 200.
        assert!(after - before < 100, "{} ticks", after - before);
    }
    drop(crowd);
    let mut late = Client::connect(program.port).await;
    late.call("system:ping", Value::Null).await;
    program.stop("-TERM");
}
