//! What is read from transcripts, and when.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::setup::*;
use crate::support::client::Client;
use crate::support::program;

#[tokio::test]
async fn a_session_includes_the_transcripts_of_its_subagents() {
    let agent = Agent::new();
    agent
        .write(
            "-home-me-work/one.jsonl",
            &[
                json!({"type": "file-history-snapshot", "messageId": "u1", "snapshot": {"messageId": "u1", "trackedFileBackups": {}}}).to_string(),
                json!({"type": "user", "uuid": "m0", "isMeta": true, "timestamp": at(0), "message": {"content": "Caveat"}}).to_string(),
                user("u1", None, 1, "Fix the parser\nplease"),
                json!({"type": "progress", "uuid": "p1", "parentUuid": "u1"}).to_string(),
                json!({"type": "progress", "uuid": "p2", "parentUuid": "p1"}).to_string(),
                assistant("a1", Some("p2"), 3, "Reading"),
                json!({"type": "user", "uuid": "t1", "parentUuid": "a1", "timestamp": at(4),
                    "message": {"content": [{"type": "tool_result", "tool_use_id": "x", "content": "file contents"}]}})
                .to_string(),
                json!({"type": "system", "uuid": "s1", "parentUuid": "t1", "timestamp": at(5), "content": "Compacted"}).to_string(),
                json!({"type": "yet-to-come", "uuid": "y1", "parentUuid": "s1"}).to_string(),
                assistant("a2", Some("y1"), 6, "Done"),
            ],
        )
        .write("-home-me-work/one/subagents/agent-x.jsonl", &[
            json!({"type": "user", "uuid": "g1", "parentUuid": null, "isSidechain": true, "timestamp": at(2), "message": {"content": "Search"}}).to_string(),
        ])
        .write("-home-me-work/agent-y.jsonl", &[
            json!({"type": "assistant", "uuid": "g2", "sessionId": "one", "isSidechain": true, "timestamp": at(2),
                "message": {"model": "small", "content": [{"type": "text", "text": "Found"}]}}).to_string(),
        ])
        .write("-tmp/two.jsonl", &[user("u1", None, 60, "Hello")]);
    let mut reader = Reader::new(agent.folder).await;

    let sessions = reader.call("code:list-sessions", Value::Null).await;
    assert_eq!(pluck(&sessions, "id"), ["two", "one"], "last updated first");
    let one = reader.session("one").await;
    assert_eq!(
        one,
        json!({"id": "one", "project": "-home-me-work", "cwd": "/home/me/work", "title": "Fix the parser",
            "model": "model-1", "messageCount": 8, "restorePointCount": 0, "startedAt": NOON,
            "updatedAt": NOON + 6000, "skippedLines": 1})
    );
    assert_eq!(sessions[1], one);
    let of_project = reader.call("code:list-sessions", json!({"project": "-tmp", "limit": 1})).await;
    assert_eq!(pluck(&of_project, "id"), ["two"]);
    assert_eq!(reader.session("none").await, Value::Null);

    let page = reader.call("code:get-transcript", json!({"sessionId": "one"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["m0", "u1", "g2", "g1", "a1", "t1", "s1", "a2"]);
    // Lines that are not shown are skipped.
    let parents = ["null", "null", "null", "null", "u1", "a1", "t1", "s1"];
    assert_eq!(pluck(&page["entries"], "parentId"), parents);
    let roles = ["user", "user", "assistant", "user", "assistant", "tool", "system", "assistant"];
    assert_eq!(pluck(&page["entries"], "role"), roles);
    assert_eq!(
        page["entries"][4],
        json!({"id": "a1", "sessionId": "one", "parentId": "u1", "role": "assistant", "model": "model-1",
            "content": [{"type": "text", "text": "Reading"}], "usage": {"inputTokens": 7, "outputTokens": 8},
            "createdAt": NOON + 3000})
    );
    assert_eq!(page["entries"][1]["content"], json!([{"type": "text", "text": "Fix the parser\nplease"}]));
    let sidechains = pluck(&page["entries"], "sidechain");
    assert_eq!(sidechains, ["null", "null", "true", "true", "null", "null", "null", "null"]);
    assert_eq!((&page["total"], &page["hasMore"]), (&json!(8), &json!(false)));
    reader.close().await;
}

#[tokio::test]
async fn titles_of_users_precede_those_of_models_summaries_and_prompts() {
    let agent = Agent::new();
    agent
        .write(
            "p/a.jsonl",
            &[user("u1", None, 1, "<command-name>/x</command-name>"), user("u2", None, 2, "Prompt")],
        )
        .write(
            "p/b.jsonl",
            &[
                json!({"type": "summary", "summary": "Of the other session", "leafUuid": "u2"}).to_string(),
                user("u3", None, 3, "Third"),
            ],
        );
    let mut reader = Reader::new(agent.folder).await;
    assert_eq!(reader.session("a").await["title"], "Of the other session");
    assert_eq!(reader.session("b").await["title"], "Third");
    append(reader.host.folder.path(), "p/b.jsonl", "{\"type\":\"ai-title\",\"aiTitle\":\"By a model\"}\n");
    assert_eq!(reader.session("b").await["title"], "By a model");
    append(reader.host.folder.path(), "p/b.jsonl", "{\"type\":\"custom-title\",\"customTitle\":\"Mine\"}\n");
    append(
        reader.host.folder.path(),
        "p/b.jsonl",
        "{\"type\":\"ai-title\",\"aiTitle\":\"By a model again\"}\n",
    );
    assert_eq!(reader.session("b").await["title"], "Mine");
    reader.close().await;
}

#[tokio::test]
async fn unusable_lines_are_counted_and_stop_nothing() {
    let agent = Agent::new();
    let path = "p/s.jsonl";
    agent.write(
        path,
        &[
            user("a", Some("b"), 1, "first"),
            // Its parent is a later line that refers back to it: only an earlier line can be a parent.
            user("b", Some("a"), 2, "second"),
            user("c", Some("c"), 3, "its own parent"),
            user("a", None, 4, "the same id again"),
            "not json".to_owned(),
            String::new(),
            r#"{"type":"user","uuid":"d"}"#.to_owned(),
            r#"{"type":"user","uuid":"e","message":{"content":[{"type":"text","text":"half \ud83d"}]}}"#
                .to_owned(),
            format!(r#"{{"type":"user","uuid":"f","message":{{"content":"{}"}}}}"#, "x".repeat(60_000)),
            user("g", Some("e"), 5, "last\u{0}"),
        ],
    );
    let mut bytes = fs::read(projects(agent.folder.path()).join(path)).unwrap();
    bytes.extend_from_slice(b"{\"type\":\"user\",\"uuid\":\"h\xff\"}\r\n");
    fs::write(projects(agent.folder.path()).join(path), &bytes).unwrap();
    let mut reader = Reader::open(agent.folder, |config| config.code.limits.max_line_bytes = 50_000).await;
    let page = reader.call("code:get-transcript", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["a", "b", "c", "e", "g"]);
    assert_eq!(pluck(&page["entries"], "parentId"), ["null", "a", "null", "null", "e"]);
    assert_eq!(reader.session("s").await["skippedLines"], 4);

    // An incomplete line is not counted.
    let line = user("i", Some("g"), 6, "in pieces");
    let (start, end) = line.split_at(40);
    append(reader.host.folder.path(), path, start);
    assert_eq!(reader.session("s").await["messageCount"], 5);
    append(reader.host.folder.path(), path, end);
    assert_eq!(reader.session("s").await["messageCount"], 6, "whole, though its end of line is missing");
    append(reader.host.folder.path(), path, &format!("\n{}\n", user("j", Some("i"), 7, "next")));
    assert_eq!(reader.page(json!({"sessionId": "s", "after": "g"})).await, ["i", "j"]);
    // A line that is too long is neither held while it is written nor read again.
    append(reader.host.folder.path(), path, &"y".repeat(60_000));
    reader.session("s").await;
    append(reader.host.folder.path(), path, &"y".repeat(60_000));
    reader.session("s").await;
    append(reader.host.folder.path(), path, &format!("\n{}\n", user("k", Some("j"), 8, "after it")));
    let session = reader.session("s").await;
    assert_eq!((&session["messageCount"], &session["skippedLines"]), (&json!(8), &json!(5)));
    assert_eq!(reader.page(json!({"sessionId": "s", "after": "j"})).await, ["k"]);
    reader.close().await;
}

/// What can be read besides the lines: the samples at the start and before the last position, before and after a scan.
const MARKS: u64 = 4 * 256;

#[tokio::test]
async fn only_new_lines_are_read_also_after_a_restart() {
    let agent = Agent::new();
    let lines: Vec<String> =
        (0..2000).map(|n| user(&format!("e{n}"), None, 1, &"word ".repeat(50))).collect();
    agent.write("p/long.jsonl", &lines).write("p/other.jsonl", &[user("o", None, 1, "other")]);
    let mut reader = Reader::new(agent.folder).await;
    assert_eq!(reader.session("long").await["messageCount"], 2000);
    let first = reader.stats();
    assert_eq!(first.files_read, 2);

    reader.session("long").await;
    let unchanged = reader.stats();
    assert_eq!((unchanged.files_read, unchanged.bytes_read), (first.files_read, first.bytes_read));
    assert!(unchanged.scans > first.scans);

    let line = format!("{}\n", user("new", Some("e1999"), 2, "appended needle"));
    append(reader.host.folder.path(), "p/long.jsonl", &line);
    assert_eq!(reader.session("long").await["messageCount"], 2001);
    let grown = reader.stats();
    assert_eq!(grown.files_read, first.files_read + 1);
    let read = grown.bytes_read - first.bytes_read;
    assert!((line.len() as u64..=line.len() as u64 + MARKS).contains(&read), "{read} bytes");

    let folder = reader.close().await;
    let mut reader = Reader::new(folder).await;
    assert_eq!(reader.session("long").await["messageCount"], 2001);
    assert_eq!(
        reader.call("code:search-transcript", json!({"query": "appended"})).await[0]["entryId"],
        "new"
    );
    assert_eq!((reader.stats().files_read, reader.stats().bytes_read), (0, 0));
    reader.close().await;
}

#[tokio::test]
async fn truncated_replaced_and_removed_files_are_detected() {
    let agent = Agent::new();
    let lines: Vec<String> = (0..600).map(|n| user(&format!("e{n}"), None, 1, "old")).collect();
    agent.write("p/s.jsonl", &lines).write("p/t.jsonl", &[user("t", None, 1, "stays")]);
    let mut reader = Reader::new(agent.folder).await;
    assert_eq!(reader.session("s").await["messageCount"], 600);

    let path = projects(reader.host.folder.path()).join("p/s.jsonl");
    write_lines(reader.host.folder.path(), "p/s.jsonl", &lines[..3]);
    assert_eq!(reader.session("s").await["messageCount"], 3);

    // The same size with other content.
    let replaced: Vec<String> = (0..3).map(|n| user(&format!("f{n}"), None, 1, "new")).collect();
    assert_eq!(replaced.concat().len(), lines[..3].concat().len());
    write_lines(reader.host.folder.path(), "p/s.jsonl", &replaced);
    fs::File::open(&path)
        .unwrap()
        .set_modified(std::time::SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    assert_eq!(reader.page(json!({"sessionId": "s"})).await, ["f0", "f1", "f2"]);

    // Longer than before, in the same place on the disk.
    let longer: Vec<String> = (0..5).map(|n| user(&format!("g{n}"), None, 1, "new")).collect();
    write_lines(reader.host.folder.path(), "p/s.jsonl", &longer);
    assert_eq!(reader.page(json!({"sessionId": "s"})).await, ["g0", "g1", "g2", "g3", "g4"]);

    // Another file under the same name.
    write_lines(reader.host.folder.path(), "p/new.tmp", &[lines[..2].to_vec(), longer.clone()].concat());
    fs::rename(projects(reader.host.folder.path()).join("p/new.tmp"), &path).unwrap();
    assert_eq!(reader.session("s").await["messageCount"], 7);
    let found = reader.call("code:search-transcript", json!({"query": "old", "limit": 100})).await;
    assert_eq!(found.as_array().unwrap().len(), 2, "the rest of the old text is no longer found");

    fs::remove_file(&path).unwrap();
    assert_eq!(reader.session("s").await, Value::Null);
    assert_eq!(reader.call("code:search-transcript", json!({"query": "new"})).await, json!([]));
    assert_eq!(pluck(&reader.call("code:list-sessions", Value::Null).await, "id"), ["t"]);

    // A folder that is missing for a while deletes nothing.
    let root = projects(reader.host.folder.path());
    fs::rename(&root, root.with_extension("away")).unwrap();
    assert_eq!(pluck(&reader.call("code:list-sessions", Value::Null).await, "id"), ["t"]);
    reader.close().await;
}

#[tokio::test]
async fn a_session_survives_in_a_copy_of_its_transcript() {
    let agent = Agent::new();
    let lines = [user("u1", None, 1, "Hello"), assistant("a1", Some("u1"), 2, "World")];
    agent.write("old/s.jsonl", &lines).write("old/t.jsonl", &[user("v1", None, 1, "Another")]);
    let mut reader = Reader::new(agent.folder).await;
    assert_eq!(reader.session("s").await["project"], "old");
    let folder = reader.host.folder.path().to_owned();
    write_lines(&folder, "new/s.jsonl", &lines);
    assert_eq!(reader.page(json!({"sessionId": "s"})).await, ["u1", "a1"]);
    fs::remove_dir_all(projects(&folder).join("old")).unwrap();
    assert_eq!(reader.page(json!({"sessionId": "s"})).await, ["u1", "a1"]);
    let session = reader.session("s").await;
    assert_eq!((&session["project"], &session["messageCount"]), (&json!("new"), &json!(2)));
    assert_eq!((&session["title"], &session["model"]), (&json!("Hello"), &json!("model-1")));
    assert_eq!(reader.session("t").await, Value::Null);
    reader.close().await;
}

#[tokio::test]
async fn a_long_scan_does_not_delay_requests() {
    let agent = Agent::new();
    let lines: Vec<String> =
        (0..6_000).map(|n| user(&format!("e{n}"), None, 1, "some words to index")).collect();
    agent.write("p/s.jsonl", &lines);
    let mut reader =
        Reader::open(agent.folder, |config| config.code.limits.scan_wait = Duration::from_millis(1)).await;
    // A part exists, and grows.
    let mut counts = Vec::new();
    while counts.last() != Some(&6_000) {
        let count = reader.session("s").await["messageCount"].as_u64().unwrap_or(0);
        assert!(counts.last().is_none_or(|last| *last <= count));
        counts.push(count);
        reader.call("chat:create", json!({})).await;
    }
    assert!(counts.len() > 2, "{counts:?}");
    assert_eq!(reader.stats().files_read, 1);
    reader.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn links_and_pipes_are_not_read_as_transcripts() {
    let agent = Agent::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.jsonl"), user("x", None, 1, "secret")).unwrap();
    agent.write("p/s.jsonl", &[user("u", None, 1, "Hi")]);
    let root = projects(agent.folder.path());
    std::os::unix::fs::symlink(outside.path().join("x.jsonl"), root.join("p/x.jsonl")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.join("q")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.join("p/pipe.jsonl")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let mut reader = Reader::new(agent.folder).await;
    assert_eq!(pluck(&reader.call("code:list-sessions", Value::Null).await, "id"), ["s"]);
    reader.close().await;
}

#[tokio::test]
async fn without_a_folder_there_are_no_sessions() {
    let agent = Agent::new();
    let mut reader = Reader::open(agent.folder, |config| config.code.code_dir = None).await;
    assert_eq!(reader.call("code:list-sessions", Value::Null).await, json!([]));
    assert_eq!(reader.session("s").await, Value::Null);
    assert_eq!(reader.call("code:search-transcript", json!({"query": "x"})).await, json!([]));
    reader.close().await;
}

#[tokio::test]
async fn a_crash_during_the_first_index_loses_and_doubles_no_entry() {
    const SESSIONS: usize = 40;
    const ENTRIES: usize = 250;
    let agent = Agent::new();
    for session in 0..SESSIONS {
        let lines: Vec<String> = (0..ENTRIES)
            .map(|n| user(&format!("s{session}u{n}"), None, n as u64, &format!("word{n} zebra")))
            .collect();
        agent.write(&format!("p/{session}.jsonl"), &lines);
    }
    let data = agent.folder.path().join("data");
    let start = || {
        let mut command = program::command(&data);
        command.arg("--code-dir").arg(projects(agent.folder.path()));
        program::Program::spawn(command)
    };
    let mut indexed = Vec::new();
    for _ in 0..3 {
        let program = start();
        let mut client = Client::connect(program.port).await;
        client.send("code:list-sessions", json!({"limit": 500})).await;
        // Killed when more is on the disk than before.
        let log = data.join("switchboard.db-wal");
        let before = fs::metadata(&log).map_or(0, |log| log.len());
        let grown = || fs::metadata(&log).map_or(0, |log| log.len()) > before + (256 << 10);
        while !grown() {
            // The response is sent when everything is indexed.
            if tokio::time::timeout(Duration::from_millis(1), client.next()).await.is_ok() {
                break;
            }
        }
        program.kill();
        let database = rusqlite::Connection::open(data.join("switchboard.db")).unwrap();
        indexed.push(
            database.query_row("SELECT count(*) FROM code_entries", [], |row| row.get::<_, u32>(0)).unwrap(),
        );
    }
    assert!(
        indexed.iter().any(|count| *count > 0 && *count < (SESSIONS * ENTRIES) as u32),
        "{indexed:?} were indexed"
    );
    let program = start();
    let mut client = Client::connect(program.port).await;
    let mut listed;
    loop {
        listed = client.call("code:list-sessions", json!({"limit": 500})).await;
        let total: u64 =
            listed.as_array().unwrap().iter().map(|session| session["messageCount"].as_u64().unwrap()).sum();
        if total >= (SESSIONS * ENTRIES) as u64 {
            break;
        }
    }
    assert_eq!(listed.as_array().unwrap().len(), SESSIONS);
    for session in listed.as_array().unwrap() {
        assert_eq!(session["messageCount"], ENTRIES, "{session}");
        let page =
            client.call("code:get-transcript", json!({"sessionId": session["id"], "limit": 500})).await;
        assert_eq!(page["entries"].as_array().unwrap().len(), ENTRIES);
        let query = json!({"sessionId": session["id"], "query": "word7 zebra"});
        let found = client.call("code:search-transcript", query).await;
        assert_eq!(found[0]["entryId"], format!("s{}u7", session["id"].as_str().unwrap()), "{found}");
    }
    program.stop("-INT");
}
