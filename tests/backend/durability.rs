//! Every write that the `switchboard` command has answered survives, however the process ends. A database that it cannot use
//! stays unchanged. Each test runs the command as a process.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::program::{Program, refused};
use crate::support::skip;
use crate::support::socket::within;

fn sqlite3(database: &Path, sql: &str) -> Option<String> {
    let output = Command::new("sqlite3").arg(database).arg(sql).output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[tokio::test]
async fn every_write_that_was_answered_survives_kill_9() {
    const WRITES: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut answered = Vec::new();
    let mut chat = Value::Null;
    let mut interrupted = 0;
    // Killed while most of the thousand are pending, at three different points, or at KILL_ROUNDS.
    let rounds = std::env::var("KILL_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number"));
    for kill_after in [1, 100, 500].into_iter().chain((3..).map(|round| 1 + round * 7919 % 700)).take(rounds)
    {
        let program = Program::start(&data_dir);
        let mut client = Client::connect(program.port).await;
        if chat.is_null() {
            chat = client.call("chat:create", json!({"title": "kept"})).await["id"].clone();
        }
        for n in 0..WRITES {
            let message = json!({"chatId": chat, "role": "user", "content": n.to_string()});
            client.send("chat:add-message", message).await;
        }
        let mut answers = 0;
        let mut program = Some(program);
        // Responses that were sent before the kill still arrive, and count.
        while let Ok(message) = client.next().await {
            if message["type"] != "response" {
                continue;
            }
            assert!(message.get("error").is_none(), "{message}");
            answered.push(message["payload"]["id"].as_str().unwrap().to_owned());
            answers += 1;
            if answers == kill_after {
                program.take().unwrap().kill();
            }
        }
        assert!(answers >= kill_after, "{answers} of {WRITES} answered");
        interrupted += usize::from(answers < WRITES);
    }
    // On a busy machine the program can be ahead of this test by hundreds of answers.
    assert!(2 * interrupted > rounds, "only {interrupted} of {rounds} kills met writes that were pending");

    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    let mut there = std::collections::HashSet::new();
    let mut query = json!({"chatId": chat, "limit": 500});
    loop {
        let page = client.call("chat:get-messages", query).await;
        for message in page["messages"].as_array().unwrap() {
            there.insert(message["id"].as_str().unwrap().to_owned());
        }
        if page["hasMore"] == false {
            break;
        }
        query = json!({"chatId": chat, "limit": 500, "before": page["nextBefore"]});
    }
    let lost: Vec<_> = answered.iter().filter(|id| !there.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {} answered writes are lost", lost.len(), answered.len());
    let count = client.call("chat:get", json!({"id": chat})).await["messageCount"].clone();
    assert_eq!(count, there.len(), "a message and its count are one transaction");
    println!("{rounds} kills: {} writes were answered, {} are there", answered.len(), there.len());
    drop(client);
    assert_eq!(program.stop("-TERM").0, Some(0));
}

#[tokio::test]
async fn removing_a_large_chat_goes_on_after_a_crash_and_keeps_no_server_from_stopping() {
    const MESSAGES: usize = 1500;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let rows = || -> (i64, i64) {
        let database = rusqlite::Connection::open(data_dir.join("switchboard.db")).unwrap();
        let count = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM chats)";
        database.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };

    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    let kept = client.call("chat:create", json!({"title": "kept"})).await["id"].clone();
    let chat = client.call("chat:create", json!({"title": "large"})).await["id"].clone();
    let content: String = (0..300).map(|n| format!("needle{n} ")).collect();
    for chat in [vec![&kept; 10], vec![&chat; MESSAGES]].concat() {
        client.send("chat:add-message", json!({"chatId": chat, "role": "user", "content": content})).await;
    }
    let mut answers = 0;
    while answers < MESSAGES + 10 {
        answers += usize::from(client.next().await.unwrap()["type"] == "response");
    }
    assert_eq!(client.call("chat:delete", json!({"id": chat})).await, true);
    program.kill();
    let (left, chats) = rows();
    assert!(left > 10 && chats == 2, "{left} messages are left to remove");

    // The removal has begun again when the server stops, and is not finished first.
    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    assert_eq!(client.call("chat:get", json!({"id": chat})).await, Value::Null);
    drop(client);
    assert_eq!(program.stop("-TERM").0, Some(0));
    let (left_later, _) = rows();
    assert!(left_later > 10 && left_later <= left, "{left_later} of {left} messages are left");

    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    let search = json!({"query": "needle", "limit": 100});
    let removed = async {
        while rows() != (10, 1) {
            let found = client.call("chat:search", search.clone()).await;
            assert_eq!(found.as_array().unwrap().len(), 10);
        }
    };
    within("the removal", removed).await;
    // Also when it was interrupted, it has left no setting in the index.
    let automerge = "SELECT v FROM message_index_config WHERE k = 'automerge'";
    let restored = async {
        let database = rusqlite::Connection::open(data_dir.join("switchboard.db")).unwrap();
        while database.query_row(automerge, [], |row| row.get::<_, i64>(0)).unwrap() != 4 {
            client.call("system:ping", Value::Null).await;
        }
    };
    within("the index", restored).await;
    assert_eq!(client.call("chat:get", json!({"id": kept})).await["messageCount"], 10);
    drop(client);
    assert_eq!(program.stop("-TERM").0, Some(0));
    let database = rusqlite::Connection::open(data_dir.join("switchboard.db")).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn a_signal_stops_the_server_and_merges_the_log_into_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    for signal in ["-INT", "-TERM"] {
        let program = Program::start(&data_dir);
        let mut client = Client::connect(program.port).await;
        client.call("settings:set", json!({"key": signal, "value": signal})).await;
        client.event("settings:changed").await;
        let stopped = tokio::task::spawn_blocking(|| program.stop(signal));
        assert_eq!(client.event("server:shutdown").await, json!({"reason": "Server stopping"}));
        assert!(client.next().await.is_err());
        assert_eq!(stopped.await.unwrap(), (Some(0), "[WS] Server stopped\n".to_owned()));
        let mut files: Vec<_> =
            fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["switchboard.db", "switchboard.lock"]);
    }
    let database = data_dir.join("switchboard.db");
    match sqlite3(&database, "PRAGMA integrity_check; SELECT key, value FROM settings") {
        Some(found) => assert_eq!(found, "ok\n-INT|\"-INT\"\n-TERM|\"-TERM\""),
        None => skip::skipped("reading the file with the sqlite3 command, which is not installed"),
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_folder_and_its_files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = tempfile::tempdir().unwrap();

    let data_dir = folder.path().join("deep/er");
    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    client.call("chat:create", Value::Null).await;
    assert_eq!(mode(&data_dir), 0o700);
    let files: Vec<_> = fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "database, log, its index, lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    program.kill();

    // An empty folder is made private, and so is a file that was readable by others.
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    Program::start(&empty).kill();
    assert_eq!(mode(&empty), 0o700);
    let database = empty.join("switchboard.db");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    Program::start(&empty).kill();
    assert_eq!(mode(&database), 0o600);

    // A folder with other files is not changed.
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("thesis.txt"), "dear").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(&shared).contains("chmod 700"));
    assert_eq!((mode(&shared), fs::read_dir(&shared).unwrap().count()), (0o755, 1));
}

#[test]
fn a_database_is_used_by_one_server_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::start(folder.path());
    assert!(refused(folder.path()).contains("in use by another process"));
    first.kill();
    Program::start(folder.path()).kill();
}

#[test]
fn an_unusable_database_is_refused_and_stays_unchanged() {
    let make = |path: &Path, pragma: &str| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.execute_batch(&format!("CREATE TABLE IF NOT EXISTS x (y); {pragma}")).unwrap();
    };
    type Spoil = Box<dyn Fn(&Path)>;
    let cases: [(&str, Spoil); 6] = [
        ("not a Switchboard database", Box::new(|path| fs::write(path, "dear diary").unwrap())),
        (
            "not a Switchboard database",
            Box::new(move |path| {
                fs::remove_file(path).unwrap();
                make(path, "");
            }),
        ),
        ("start a newer one", Box::new(move |path| make(path, "PRAGMA user_version = 1000"))),
        ("start a newer one", Box::new(move |path| make(path, "PRAGMA user_version = -1"))),
        (
            "is damaged",
            Box::new(|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes.truncate(bytes.len() / 2);
                fs::write(path, bytes).unwrap();
            }),
        ),
        (
            "is damaged",
            Box::new(|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[4096..12_288].fill(0xaa);
                fs::write(path, bytes).unwrap();
            }),
        ),
    ];
    for (index, (message, spoil)) in cases.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(folder.path());
        assert_eq!(program.stop("-TERM").0, Some(0));
        let database = folder.path().join("switchboard.db");
        spoil(&database);
        let spoiled = fs::read(&database).unwrap();
        for _ in 0..2 {
            let said = refused(folder.path());
            assert!(said.contains(message), "case {index}: {said}");
            assert!(said.contains("left unchanged"), "case {index}: {said}");
            assert!(fs::read(&database).unwrap() == spoiled, "case {index}: the file was changed");
        }
    }
}

#[test]
fn a_crash_before_the_first_table_is_not_damage() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("switchboard.db"), "").unwrap();
    Program::start(folder.path()).kill();

    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("switchboard.db")).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    drop(connection);
    Program::start(folder.path()).kill();
}
