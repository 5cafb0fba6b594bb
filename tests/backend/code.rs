//! The channel family `code` over a real socket, on a real database file and transcripts on the disk.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::BackendConfig;
use switchboard::backend::code::CodeStats;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::house::House;
use crate::support::program;

/// A house that follows a folder of transcripts, and a client of it.
struct Reader {
    house: House,
    client: Client,
}

impl Reader {
    async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig)) -> Reader {
        let code_dir = projects(folder.path());
        let house = House::open(folder, |backend, config| {
            backend.db.max_page_bytes = 100_000;
            backend.code.code_dir = Some(code_dir);
            // Each request sees the disk as it is, however long that takes.
            backend.code.limits.scan_interval = Duration::ZERO;
            backend.code.limits.scan_wait = Duration::from_secs(60);
            config.limits.handler_timeout = Duration::from_secs(60);
            adjust(backend);
        })
        .await;
        let client = Client::connect(house.port).await;
        Reader { house, client }
    }

    async fn new(folder: TempDir) -> Reader {
        Reader::open(folder, |_| {}).await
    }

    async fn close(self) -> TempDir {
        self.house.close().await
    }

    async fn call(&mut self, channel: &str, payload: Value) -> Value {
        self.client.call(channel, payload).await
    }

    async fn session(&mut self, id: &str) -> Value {
        self.call("code:get-session", json!({"id": id})).await
    }

    /// The ids of a page.
    async fn page(&mut self, query: Value) -> Vec<String> {
        let page = self.call("code:get-transcript", query).await;
        pluck(&page["entries"], "id")
    }

    fn stats(&self) -> CodeStats {
        self.house.backend.code().stats()
    }
}

fn projects(folder: &Path) -> PathBuf {
    folder.join("home/projects")
}

fn pluck(list: &Value, member: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().unwrap().iter().map(|object| text(&object[member])).collect()
}

/// A folder in which transcripts can be laid down.
struct Agent {
    folder: TempDir,
}

impl Agent {
    fn new() -> Agent {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(projects(folder.path())).unwrap();
        Agent { folder }
    }

    fn write(&self, path: &str, lines: &[String]) -> &Agent {
        write_lines(self.folder.path(), path, lines);
        self
    }

    fn backup(&self, session: &str, name: &str, content: &str) -> &Agent {
        let folder = self.folder.path().join("home/file-history").join(session);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
        self
    }
}

fn write_lines(folder: &Path, path: &str, lines: &[String]) {
    let path = projects(folder).join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn append(folder: &Path, path: &str, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(projects(folder).join(path)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A time on the first of March, so many seconds after noon.
fn at(seconds: u64) -> String {
    format!("2026-03-01T12:{:02}:{:02}.000Z", seconds / 60, seconds % 60)
}

const NOON: i64 = 1_772_366_400_000;

fn user(id: &str, parent: Option<&str>, seconds: u64, text: &str) -> String {
    json!({"type": "user", "uuid": id, "parentUuid": parent, "timestamp": at(seconds), "cwd": "/home/me/work",
        "sessionId": "elsewhere", "isSidechain": false, "message": {"role": "user", "content": text}})
    .to_string()
}

fn assistant(id: &str, parent: Option<&str>, seconds: u64, text: &str) -> String {
    json!({"type": "assistant", "uuid": id, "parentUuid": parent, "timestamp": at(seconds), "cwd": "/home/me/work",
        "message": {"role": "assistant", "model": "model-1", "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": 7, "output_tokens": 8, "cache_read_input_tokens": 9}}})
    .to_string()
}

fn snapshot(message: &str, files: Value, update: bool) -> String {
    json!({"type": "file-history-snapshot", "messageId": message, "isSnapshotUpdate": update,
        "snapshot": {"messageId": message, "timestamp": at(0), "trackedFileBackups": files}})
    .to_string()
}

fn backup(name: Option<&str>) -> Value {
    json!({"backupFileName": name, "version": 1, "backupTime": at(0)})
}

#[tokio::test]
async fn a_session_is_what_its_transcript_and_those_of_its_subagents_say() {
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
    let mut house = Reader::new(agent.folder).await;

    let sessions = house.call("code:list-sessions", Value::Null).await;
    assert_eq!(pluck(&sessions, "id"), ["two", "one"], "last updated first");
    let one = house.session("one").await;
    assert_eq!(
        one,
        json!({"id": "one", "project": "-home-me-work", "cwd": "/home/me/work", "title": "Fix the parser",
            "model": "model-1", "messageCount": 8, "restorePointCount": 0, "startedAt": NOON,
            "updatedAt": NOON + 6000, "skippedLines": 1})
    );
    assert_eq!(sessions[1], one);
    let of_project = house.call("code:list-sessions", json!({"project": "-tmp", "limit": 1})).await;
    assert_eq!(pluck(&of_project, "id"), ["two"]);
    assert_eq!(house.session("none").await, Value::Null);

    let page = house.call("code:get-transcript", json!({"sessionId": "one"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["m0", "u1", "g2", "g1", "a1", "t1", "s1", "a2"]);
    // Lines that are not shown stand between those that are, and are passed over.
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
    house.close().await;
}

#[tokio::test]
async fn titles_come_from_people_before_models_before_summaries_before_prompts() {
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
    let mut house = Reader::new(agent.folder).await;
    assert_eq!(house.session("a").await["title"], "Of the other session");
    assert_eq!(house.session("b").await["title"], "Third");
    append(house.house.folder.path(), "p/b.jsonl", "{\"type\":\"ai-title\",\"aiTitle\":\"By a model\"}\n");
    assert_eq!(house.session("b").await["title"], "By a model");
    append(house.house.folder.path(), "p/b.jsonl", "{\"type\":\"custom-title\",\"customTitle\":\"Mine\"}\n");
    append(
        house.house.folder.path(),
        "p/b.jsonl",
        "{\"type\":\"ai-title\",\"aiTitle\":\"By a model again\"}\n",
    );
    assert_eq!(house.session("b").await["title"], "Mine");
    house.close().await;
}

#[tokio::test]
async fn pages_lead_through_a_transcript_in_both_directions() {
    let agent = Agent::new();
    // Many share a second, and the clock is set back in the middle.
    let ids: Vec<String> = (0..25).map(|n| format!("e{n}")).collect();
    let lines: Vec<String> = (0..25_usize)
        .map(|n| {
            let parent = n.checked_sub(1).and_then(|before| ids.get(before)).map(String::as_str);
            let seconds = if n < 15 { n as u64 / 4 } else { 0 };
            if n % 5 == 0 {
                user(&ids[n], parent, seconds, "q")
            } else {
                assistant(&ids[n], parent, seconds, "a")
            }
        })
        .collect();
    agent.write("p/s.jsonl", &lines);
    let mut house = Reader::new(agent.folder).await;

    let mut read: Vec<String> = Vec::new();
    let mut query = json!({"sessionId": "s", "limit": 10});
    loop {
        let page = house.call("code:get-transcript", query).await;
        assert_eq!(page["total"], 25);
        read.splice(0..0, pluck(&page["entries"], "id"));
        assert_eq!(page["hasMore"], json!(!page["nextBefore"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        query = json!({"sessionId": "s", "limit": 10, "before": page["nextBefore"]});
    }
    assert_eq!(read, ids);

    let mut read = vec!["e0".to_owned()];
    let mut query = json!({"sessionId": "s", "limit": 8, "after": "e0"});
    loop {
        let page = house.call("code:get-transcript", query).await;
        read.extend(pluck(&page["entries"], "id"));
        assert!(page["nextBefore"].is_string());
        assert_eq!(page["hasMore"], json!(!page["nextAfter"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        query = json!({"sessionId": "s", "limit": 8, "after": page["nextAfter"]});
    }
    assert_eq!(read, ids);
    assert!(house.page(json!({"sessionId": "s", "after": "e24"})).await.is_empty());

    let page =
        house.call("code:get-transcript", json!({"sessionId": "s", "roles": ["user"], "limit": 2})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["e15", "e20"]);
    assert_eq!((&page["total"], &page["nextBefore"]), (&json!(5), &json!("e15")));
    let page = json!({"sessionId": "s", "roles": ["user", "system"], "before": "e7"});
    assert_eq!(house.page(page).await, ["e0", "e5"]);
    house.close().await;
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_long_to_send_and_no_entry_blocks_the_way() {
    let agent = Agent::new();
    let lines = [
        user("a", None, 1, &"x".repeat(60_000)),
        user("b", None, 2, &"x".repeat(200_000)),
        user("c", None, 3, &"x".repeat(60_000)),
        user("d", None, 4, &"x".repeat(30_000)),
    ];
    agent.write("p/s.jsonl", &lines);
    let mut house = Reader::new(agent.folder).await;
    let page = house.call("code:get-transcript", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["b", "c", "d"]);
    assert_eq!(page["entries"][0]["content"], json!([{"type": "too_long", "bytes": lines[1].len()}]));
    assert_eq!(house.page(json!({"sessionId": "s", "before": "b"})).await, ["a"]);
    house.close().await;
}

#[tokio::test]
async fn search_finds_what_was_said_thought_and_answered_by_tools() {
    let agent = Agent::new();
    agent
        .write("p/one.jsonl", &[
            user("u1", None, 1, "Where is the <b>needle</b>?"),
            json!({"type": "assistant", "uuid": "a1", "message": {"content": [
                {"type": "thinking", "thinking": "Haystacks", "signature": "c2lnbmF0dXJl"},
                {"type": "tool_use", "id": "tool-id", "name": "Grep", "input": {"pattern": "zebra"}}]}})
            .to_string(),
            json!({"type": "user", "uuid": "t1", "message": {"content": [{"type": "tool_result", "content": "needle on line 3"}]}}).to_string(),
        ])
        .write("p/two.jsonl", &[user("u1", None, 1, "Another needle")]);
    let mut house = Reader::new(agent.folder).await;
    let found = house.call("code:search-transcript", json!({"query": "needle", "sessionId": "one"})).await;
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
    let first = found.as_array().unwrap().iter().find(|hit| hit["entryId"] == "u1").unwrap();
    assert_eq!(first["snippet"], "Where is the &lt;b&gt;<mark>needle</mark>&lt;/b&gt;?");
    assert_eq!((&first["sessionId"], &first["role"]), (&json!("one"), &json!("user")));
    assert_eq!(first["createdAt"], NOON + 1000);
    for (query, hits) in [
        ("needle", 3),
        ("haystacks", 1),
        ("zebra", 1),
        ("grep zeb", 1),
        ("c2lnbmF0dXJl", 0),
        ("\"", 0),
        ("", 0),
    ] {
        let found = house.call("code:search-transcript", json!({"query": query})).await;
        assert_eq!(found.as_array().unwrap().len(), hits, "{query}: {found}");
    }
    let limited = house.call("code:search-transcript", json!({"query": "needle", "limit": 1})).await;
    assert_eq!(limited.as_array().unwrap().len(), 1);
    house.close().await;
}

#[tokio::test]
async fn lines_that_cannot_be_used_are_counted_and_stop_nothing() {
    let agent = Agent::new();
    let path = "p/s.jsonl";
    agent.write(
        path,
        &[
            user("a", Some("b"), 1, "first"),
            // Answers one that answers it: only what stands before can be a parent.
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
    let mut house = Reader::open(agent.folder, |config| config.code.limits.max_line_bytes = 50_000).await;
    let page = house.call("code:get-transcript", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["a", "b", "c", "e", "g"]);
    assert_eq!(pluck(&page["entries"], "parentId"), ["null", "a", "null", "null", "e"]);
    assert_eq!(house.session("s").await["skippedLines"], 4);

    // A line that is being written is no line yet, and is not counted.
    let line = user("i", Some("g"), 6, "in pieces");
    let (start, end) = line.split_at(40);
    append(house.house.folder.path(), path, start);
    assert_eq!(house.session("s").await["messageCount"], 5);
    append(house.house.folder.path(), path, end);
    assert_eq!(house.session("s").await["messageCount"], 6, "whole, though its end of line is missing");
    append(house.house.folder.path(), path, &format!("\n{}\n", user("j", Some("i"), 7, "next")));
    assert_eq!(house.page(json!({"sessionId": "s", "after": "g"})).await, ["i", "j"]);
    // One that is too long is not held while it is written, nor read again.
    append(house.house.folder.path(), path, &"y".repeat(60_000));
    house.session("s").await;
    append(house.house.folder.path(), path, &"y".repeat(60_000));
    house.session("s").await;
    append(house.house.folder.path(), path, &format!("\n{}\n", user("k", Some("j"), 8, "behind it")));
    let session = house.session("s").await;
    assert_eq!((&session["messageCount"], &session["skippedLines"]), (&json!(8), &json!(5)));
    assert_eq!(house.page(json!({"sessionId": "s", "after": "j"})).await, ["k"]);
    house.close().await;
}

/// What may be read besides the lines: the marks at the start and before the place read last, before and after.
const MARKS: u64 = 4 * 256;

#[tokio::test]
async fn only_what_is_new_is_read_and_nothing_again_after_a_restart() {
    let agent = Agent::new();
    let lines: Vec<String> =
        (0..2000).map(|n| user(&format!("e{n}"), None, 1, &"word ".repeat(50))).collect();
    agent.write("p/long.jsonl", &lines).write("p/other.jsonl", &[user("o", None, 1, "other")]);
    let mut house = Reader::new(agent.folder).await;
    assert_eq!(house.session("long").await["messageCount"], 2000);
    let first = house.stats();
    assert_eq!(first.files_read, 2);

    house.session("long").await;
    let unchanged = house.stats();
    assert_eq!((unchanged.files_read, unchanged.bytes_read), (first.files_read, first.bytes_read));
    assert!(unchanged.scans > first.scans);

    let line = format!("{}\n", user("new", Some("e1999"), 2, "appended needle"));
    append(house.house.folder.path(), "p/long.jsonl", &line);
    assert_eq!(house.session("long").await["messageCount"], 2001);
    let grown = house.stats();
    assert_eq!(grown.files_read, first.files_read + 1);
    let read = grown.bytes_read - first.bytes_read;
    assert!((line.len() as u64..=line.len() as u64 + MARKS).contains(&read), "{read} bytes");

    let folder = house.close().await;
    let mut house = Reader::new(folder).await;
    assert_eq!(house.session("long").await["messageCount"], 2001);
    assert_eq!(house.call("code:search-transcript", json!({"query": "appended"})).await[0]["entryId"], "new");
    assert_eq!((house.stats().files_read, house.stats().bytes_read), (0, 0));
    house.close().await;
}

#[tokio::test]
async fn a_file_that_is_cut_replaced_or_removed_is_noticed() {
    let agent = Agent::new();
    let lines: Vec<String> = (0..600).map(|n| user(&format!("e{n}"), None, 1, "old")).collect();
    agent.write("p/s.jsonl", &lines).write("p/t.jsonl", &[user("t", None, 1, "stays")]);
    let mut house = Reader::new(agent.folder).await;
    assert_eq!(house.session("s").await["messageCount"], 600);

    let path = projects(house.house.folder.path()).join("p/s.jsonl");
    write_lines(house.house.folder.path(), "p/s.jsonl", &lines[..3]);
    assert_eq!(house.session("s").await["messageCount"], 3);

    // The same size, another content.
    let replaced: Vec<String> = (0..3).map(|n| user(&format!("f{n}"), None, 1, "new")).collect();
    assert_eq!(replaced.concat().len(), lines[..3].concat().len());
    write_lines(house.house.folder.path(), "p/s.jsonl", &replaced);
    fs::File::open(&path)
        .unwrap()
        .set_modified(std::time::SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    assert_eq!(house.page(json!({"sessionId": "s"})).await, ["f0", "f1", "f2"]);

    // Longer than before, in the same place on the disk.
    let longer: Vec<String> = (0..5).map(|n| user(&format!("g{n}"), None, 1, "new")).collect();
    write_lines(house.house.folder.path(), "p/s.jsonl", &longer);
    assert_eq!(house.page(json!({"sessionId": "s"})).await, ["g0", "g1", "g2", "g3", "g4"]);

    // Another file under the same name.
    write_lines(house.house.folder.path(), "p/new.tmp", &[lines[..2].to_vec(), longer.clone()].concat());
    fs::rename(projects(house.house.folder.path()).join("p/new.tmp"), &path).unwrap();
    assert_eq!(house.session("s").await["messageCount"], 7);
    let found = house.call("code:search-transcript", json!({"query": "old", "limit": 100})).await;
    assert_eq!(found.as_array().unwrap().len(), 2, "the rest of the old text is not found any more");

    fs::remove_file(&path).unwrap();
    assert_eq!(house.session("s").await, Value::Null);
    assert_eq!(house.call("code:search-transcript", json!({"query": "new"})).await, json!([]));
    assert_eq!(pluck(&house.call("code:list-sessions", Value::Null).await, "id"), ["t"]);

    // A folder that is away for a while takes nothing with it.
    let root = projects(house.house.folder.path());
    fs::rename(&root, root.with_extension("away")).unwrap();
    assert_eq!(pluck(&house.call("code:list-sessions", Value::Null).await, "id"), ["t"]);
    house.close().await;
}

#[tokio::test]
async fn a_session_lives_on_in_the_copy_of_its_transcript() {
    let agent = Agent::new();
    let lines = [user("u1", None, 1, "Hello"), assistant("a1", Some("u1"), 2, "World")];
    agent.write("old/s.jsonl", &lines).write("old/t.jsonl", &[user("v1", None, 1, "Another")]);
    let mut house = Reader::new(agent.folder).await;
    assert_eq!(house.session("s").await["project"], "old");
    let folder = house.house.folder.path().to_owned();
    write_lines(&folder, "new/s.jsonl", &lines);
    assert_eq!(house.page(json!({"sessionId": "s"})).await, ["u1", "a1"]);
    fs::remove_dir_all(projects(&folder).join("old")).unwrap();
    assert_eq!(house.page(json!({"sessionId": "s"})).await, ["u1", "a1"]);
    let session = house.session("s").await;
    assert_eq!((&session["project"], &session["messageCount"]), (&json!("new"), &json!(2)));
    assert_eq!((&session["title"], &session["model"]), (&json!("Hello"), &json!("model-1")));
    assert_eq!(house.session("t").await, Value::Null);
    house.close().await;
}

#[tokio::test]
async fn a_scan_that_takes_long_does_not_hold_up_a_request() {
    let agent = Agent::new();
    let lines: Vec<String> =
        (0..6_000).map(|n| user(&format!("e{n}"), None, 1, "some words to index")).collect();
    agent.write("p/s.jsonl", &lines);
    let mut house =
        Reader::open(agent.folder, |config| config.code.limits.scan_wait = Duration::from_millis(1)).await;
    // A part is there, and grows.
    let mut counts = Vec::new();
    while counts.last() != Some(&6_000) {
        let count = house.session("s").await["messageCount"].as_u64().unwrap_or(0);
        assert!(counts.last().is_none_or(|last| *last <= count));
        counts.push(count);
        house.call("chat:create", json!({})).await;
    }
    assert!(counts.len() > 2, "{counts:?}");
    assert_eq!(house.stats().files_read, 1);
    house.close().await;
}

#[tokio::test]
async fn files_come_back_as_they_were_before_a_prompt() {
    let agent = Agent::new();
    agent
        .backup("s", "aa@v1", "old a")
        .backup("s", "aa@v2", "newer a")
        .backup("s", "bb@v1", "old b")
        .write("p/s.jsonl", &[
            snapshot("u1", json!({}), false),
            user("u1", None, 1, "First change\nof all"),
            snapshot("u1", json!({"src/a.rs": backup(Some("aa@v1")), "new.rs": backup(None)}), true),
            user("u2", Some("u1"), 2, "Second"),
            snapshot("u2", json!({"src/a.rs": backup(Some("aa@v2")), "/home/me/work/b.rs": backup(Some("bb@v1")),
                "gone.rs": backup(Some("cc@v1"))}), false),
            json!({"type": "file-history-delta", "messageId": "u3", "trackingPath": "src/a.rs", "backup": backup(Some("aa@v1"))}).to_string(),
        ]);
    let mut house = Reader::new(agent.folder).await;
    let points = house.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&points, "label"), ["Restore point", "Second", "First change"]);
    assert_eq!(pluck(&points, "entryId"), ["null", "u2", "u1"]);
    assert_eq!(
        points[1]["files"],
        json!([
            {"path": "/home/me/work/b.rs", "size": 5, "sha1": sha1("old b")},
            {"path": "src/a.rs", "size": 7, "sha1": sha1("newer a")},
        ])
    );
    assert_eq!(house.session("s").await["restorePointCount"], 3);

    let restore = json!({"restorePointId": points[1]["id"], "targetDir": "before/second"});
    let result = house.call("code:restore", restore.clone()).await;
    let target = house.house.folder.path().canonicalize().unwrap().join("data/restored/before/second");
    assert_eq!(result["restorePointId"], points[1]["id"]);
    assert_eq!(result["targetDir"], json!(target));
    assert_eq!(result["restored"], json!(["b.rs", "src/a.rs"]));
    assert_eq!(pluck(&result["skipped"], "path"), ["gone.rs"]);
    let content = |path: &str| fs::read_to_string(target.join(path)).unwrap();
    assert_eq!((content("src/a.rs").as_str(), content("b.rs").as_str()), ("newer a", "old b"));

    // What is there stays, unless told otherwise.
    fs::write(target.join("b.rs"), "mine").unwrap();
    let result = house.call("code:restore", restore.clone()).await;
    assert_eq!(result["restored"], json!([]));
    assert_eq!(result["skipped"][0], json!({"path": "/home/me/work/b.rs", "reason": "it exists"}));
    assert_eq!(content("b.rs"), "mine");
    let mut overwrite = restore.clone();
    overwrite["overwrite"] = json!(true);
    let result = house.call("code:restore", overwrite).await;
    assert_eq!(result["restored"], json!(["b.rs", "src/a.rs"]));
    assert_eq!(content("b.rs"), "old b");
    let names: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no temporary file is left: {names:?}");

    let ids = pluck(&points, "id");
    let folder = house.close().await;
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let mut house = Reader::new(folder).await;
    let again = house.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    assert_eq!((pluck(&again, "id"), &again), (ids, &points), "an index that is made anew has the same ids");
    house.close().await;
}

fn sha1(content: &str) -> String {
    use sha1::{Digest, Sha1};
    Sha1::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn nothing_is_written_outside_of_the_restore_root() {
    use std::os::unix::fs::symlink;
    let agent = Agent::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "untouched").unwrap();
    let evil = outside.path().join("evil").to_string_lossy().into_owned();
    agent.backup("s", "aa@v1", "content").backup("s", "big@v1", &"x".repeat(2000));
    let history = agent.folder.path().join("home/file-history/s");
    symlink(outside.path().join("victim"), history.join("link@v1")).unwrap();
    agent.write(
        "p/s.jsonl",
        &[
            user("u1", None, 1, "Change"),
            snapshot(
                "u1",
                json!({
                    "good.txt": backup(Some("aa@v1")),
                    "../evil": backup(Some("aa@v1")),
                    "a/../../evil": backup(Some("aa@v1")),
                    "..\\evil": backup(Some("aa@v1")),
                    evil.clone(): backup(Some("aa@v1")),
                    "/home/me/work/../evil": backup(Some("aa@v1")),
                    "linked/evil": backup(Some("aa@v1")),
                    "file-link": backup(Some("aa@v1")),
                    "folder": backup(Some("aa@v1")),
                    "from-outside": backup(Some("../../projects/p/s.jsonl")),
                    "from-link": backup(Some("link@v1")),
                    "from-folder": backup(Some(".")),
                    "large": backup(Some("big@v1")),
                }),
                false,
            ),
        ],
    );
    let mut house =
        Reader::open(agent.folder, |config| config.code.limits.max_restore_file_bytes = 1999).await;
    let points = house.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let id = &points[0]["id"];
    let listed = pluck(&points[0]["files"], "path");
    for path in ["from-outside", "from-link", "from-folder", "large"] {
        assert!(!listed.contains(&path.to_owned()), "{path}");
    }

    let root = house.house.folder.path().join("data/restored");
    fs::create_dir_all(root.join("t/folder")).unwrap();
    symlink(outside.path(), root.join("t/linked")).unwrap();
    symlink(outside.path().join("victim"), root.join("t/file-link")).unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    for overwrite in [false, true] {
        let restore = json!({"restorePointId": id, "targetDir": "t", "overwrite": overwrite});
        let result = house.call("code:restore", restore).await;
        assert_eq!(result["restored"], json!(["good.txt"]), "{result}");
        assert_eq!(result["skipped"].as_array().unwrap().len(), 12, "{result}");
        fs::remove_file(root.join("t/good.txt")).unwrap();
    }
    for target in [
        "..",
        "../t",
        "a/../../t",
        "/tmp/t",
        ".",
        "",
        "a//b",
        "..\\t",
        "C:\\t",
        "out",
        "out/t",
        "t/file-link",
    ] {
        let restore = json!({"restorePointId": id, "targetDir": target, "overwrite": true});
        let error = house.client.refuse("code:restore", restore).await;
        assert_eq!(error["details"]["path"], "targetDir", "{target}: {error}");
    }
    let names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"]);
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
    assert!(!house.house.folder.path().join("data/evil").exists());
    house.close().await;
}

#[tokio::test]
async fn what_is_put_back_is_bounded_in_all() {
    let agent = Agent::new();
    agent.backup("s", "aa@v1", &"a".repeat(600)).backup("s", "bb@v1", &"b".repeat(600)).write(
        "p/s.jsonl",
        &[snapshot("u1", json!({"a": backup(Some("aa@v1")), "b": backup(Some("bb@v1"))}), false)],
    );
    let mut house = Reader::open(agent.folder, |config| config.code.limits.max_restore_bytes = 1000).await;
    let points = house.call("code:list-restore-points", json!({"sessionId": "s"})).await;
    let restore = json!({"restorePointId": points[0]["id"], "targetDir": "t"});
    let result = house.call("code:restore", restore).await;
    assert_eq!(result["restored"], json!(["a"]));
    assert_eq!(result["skipped"], json!([{"path": "b", "reason": "all files together are too large"}]));
    house.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn links_and_pipes_are_no_transcripts() {
    let agent = Agent::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x.jsonl"), user("x", None, 1, "secret")).unwrap();
    agent.write("p/s.jsonl", &[user("u", None, 1, "Hi")]);
    let root = projects(agent.folder.path());
    std::os::unix::fs::symlink(outside.path().join("x.jsonl"), root.join("p/x.jsonl")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.join("q")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.join("p/pipe.jsonl")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let mut house = Reader::new(agent.folder).await;
    assert_eq!(pluck(&house.call("code:list-sessions", Value::Null).await, "id"), ["s"]);
    house.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let agent = Agent::new();
    agent.backup("s", "aa@v1", "a").write(
        "p/s.jsonl",
        &[user("u1", None, 1, "Hi"), snapshot("u1", json!({"a": backup(Some("aa@v1"))}), false)],
    );
    let mut house = Reader::new(agent.folder).await;
    let before = house.call("code:list-sessions", Value::Null).await;
    let point = house.call("code:list-restore-points", json!({"sessionId": "s"})).await[0]["id"].clone();
    for (channel, payload, path) in [
        ("code:list-sessions", json!([]), "payload"),
        ("code:list-sessions", json!({"limit": 0}), "limit"),
        ("code:list-sessions", json!({"limit": 501}), "limit"),
        ("code:list-sessions", json!({"limit": "5"}), "limit"),
        ("code:list-sessions", json!({"project": 1}), "project"),
        ("code:list-sessions", json!({"project": "x".repeat(256)}), "project"),
        ("code:get-session", Value::Null, "id"),
        ("code:get-session", json!({}), "id"),
        ("code:get-session", json!({"id": 7}), "id"),
        ("code:get-session", json!({"id": ""}), "id"),
        ("code:get-session", json!({"id": "x".repeat(129)}), "id"),
        ("code:get-transcript", json!({}), "sessionId"),
        ("code:get-transcript", json!({"sessionId": "nobody"}), "sessionId"),
        ("code:get-transcript", json!({"sessionId": "s", "limit": 501}), "limit"),
        ("code:get-transcript", json!({"sessionId": "s", "before": "nobody"}), "before"),
        ("code:get-transcript", json!({"sessionId": "s", "after": 1}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "after": "nobody"}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "before": "u1", "after": "u1"}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": "user"}), "roles"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": []}), "roles"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": ["boss"]}), "roles"),
        ("code:search-transcript", json!({}), "query"),
        ("code:search-transcript", json!({"query": null}), "query"),
        ("code:search-transcript", json!({"query": "x".repeat(1025)}), "query"),
        ("code:search-transcript", json!({"query": "x", "limit": 101}), "limit"),
        ("code:search-transcript", json!({"query": "x", "sessionId": "nobody"}), "sessionId"),
        ("code:list-restore-points", json!({}), "sessionId"),
        ("code:list-restore-points", json!("s"), "payload"),
        ("code:list-restore-points", json!({"sessionId": []}), "sessionId"),
        ("code:list-restore-points", json!({"sessionId": "nobody"}), "sessionId"),
        ("code:list-restore-points", json!({"sessionId": ""}), "sessionId"),
        ("code:restore", json!({"targetDir": "t"}), "restorePointId"),
        ("code:restore", json!({"restorePointId": "nobody", "targetDir": "t"}), "restorePointId"),
        ("code:restore", json!({"restorePointId": point}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": 1}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "x".repeat(1025)}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "x".repeat(256)}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "t", "overwrite": "yes"}), "overwrite"),
    ] {
        let error = house.client.refuse(channel, payload).await;
        assert_eq!(error["code"], "HANDLER_ERROR", "{channel}: {error}");
        assert_eq!(error["details"]["path"], path, "{channel}: {error}");
        assert!(error["details"]["expected"].is_string() && error["details"]["got"].is_string(), "{error}");
    }
    assert_eq!(house.call("code:list-sessions", Value::Null).await, before);
    assert!(!house.house.folder.path().join("data/restored").exists());
    house.close().await;
}

#[tokio::test]
async fn without_a_folder_there_are_no_sessions() {
    let agent = Agent::new();
    let mut house = Reader::open(agent.folder, |config| config.code.code_dir = None).await;
    assert_eq!(house.call("code:list-sessions", Value::Null).await, json!([]));
    assert_eq!(house.session("s").await, Value::Null);
    assert_eq!(house.call("code:search-transcript", json!({"query": "x"})).await, json!([]));
    house.close().await;
}

#[tokio::test]
async fn a_crash_in_the_first_index_loses_no_entry_and_doubles_none() {
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
            // The answer comes when all is indexed.
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
