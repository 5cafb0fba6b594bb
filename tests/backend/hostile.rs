//! Every request channel against payloads that its declared type forbids: each member in turn replaced by each other JSON
//! type, removed, and made huge. Each must be answered by an error that names the member, and nothing may change.
//!
//! What is forbidden is read from the declarations in TypeScript, so a declaration that allows more or less than the handler
//! fails too.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use switchboard::backend;
use switchboard::backend::registry::Direction;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::typescript::{Type, Types};

/// Longer than any text is allowed to be.
const HUGE_BYTES: usize = (1 << 20) + 1;

/// A step from a value to a part of it.
#[derive(Clone, Debug)]
enum Step {
    Member(String),
    Element(usize),
}

/// A valid payload with every member of its type. What it names exists on the host.
fn payloads(Named { chat, session, restore_point, entry }: &Named) -> Vec<(&'static str, Value)> {
    let id = json!({"id": chat});
    let block = json!({"type": "text", "text": "Hello"});
    let range = json!({"timeRange": "7d"});
    let series = json!({"timeRange": "7d", "granularity": "day"});
    let ask = json!({
        "provider": "echo", "model": "echo", "system": "Be brief", "temperature": 0.5, "maxTokens": 100,
        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": [block]},
            {"role": "user", "content": "Goodbye"}],
        "stopSequences": ["stop"], "chatId": chat, "requestId": "r", "stream": true,
    });
    vec![
        ("chat:list", json!({"limit": 1})),
        ("chat:create", json!({"title": "Groceries", "systemPrompt": "Be brief"})),
        ("chat:get", id.clone()),
        ("chat:update", json!({"id": chat, "title": "Dinner", "systemPrompt": "Be kind"})),
        ("chat:get-messages", json!({"chatId": chat, "limit": 1})),
        (
            "chat:add-message",
            json!({"chatId": chat, "role": "user", "content": [block], "provider": "p", "model": "m",
                "usage": {"inputTokens": 1, "outputTokens": 2}, "metadata": {"a": 1}}),
        ),
        ("chat:search", json!({"query": "hello", "limit": 1, "chatId": chat})),
        ("ai:chat", ask.clone()),
        ("ai:chat-stream", ask),
        ("ai:models", json!({"provider": "echo"})),
        ("ai:has-credentials", json!({"provider": "echo"})),
        ("code:list-sessions", json!({"project": "p", "limit": 1})),
        ("code:get-session", json!({"id": session})),
        ("code:get-transcript", json!({"sessionId": session, "limit": 1, "roles": ["user"]})),
        ("code:search-transcript", json!({"sessionId": session, "query": "hello", "limit": 1})),
        ("code:list-restore-points", json!({"sessionId": session})),
        ("code:restore", json!({"restorePointId": restore_point, "targetDir": "back", "overwrite": true})),
        ("imagegen:list-groups", Value::Null),
        ("imagegen:create-group", json!({"name": "g"})),
        ("imagegen:list-entries", json!({"groupId": "default", "limit": 1})),
        (
            "imagegen:create-entry",
            json!({"groupId": "default", "prompt": "a lake", "negativePrompt": "people", "provider": "pattern",
                "model": "m", "width": 64, "height": 64, "batchSize": 1, "batchCount": 1, "steps": 1, "cfgScale": 1.5,
                "seed": 1, "params": {"a": 1}}),
        ),
        ("imagegen:cancel-entry", json!({"id": entry})),
        (
            "imagegen:list-images",
            json!({"groupId": "default", "entryId": entry, "query": "lake", "from": 0, "to": 1, "limit": 1}),
        ),
        ("settings:get-all", Value::Null),
        ("settings:get", json!({"key": "theme"})),
        ("settings:set", json!({"key": "theme", "value": "dark"})),
        (
            "settings:update",
            json!({"ai.anthropic.baseUrl": "https://a.example", "ai.defaultModel": "m", "ai.defaultProvider": "echo",
                "ai.openai.baseUrl": "https://a.example", "analytics.retentionDays": 7,
                "imagegen.automatic1111.baseUrl": "https://a.example", "imagegen.defaultProvider": "pattern",
                "imagegen.openai.baseUrl": "https://a.example", "language": "de", "theme": "light"}),
        ),
        ("settings:reset", json!({"key": "theme"})),
        ("credentials:list", Value::Null),
        ("credentials:get", json!({"key": "k"})),
        ("credentials:set", json!({"key": "k", "token": "t", "metadata": {"a": 1}, "origin": "https://a"})),
        ("credentials:delete", json!({"key": "k"})),
        ("artifact:list", Value::Null),
        ("artifact:get", json!({"id": "a"})),
        ("artifact:install", json!({"source": "a"})),
        ("artifact:invoke", json!({"id": "a", "input": {}})),
        ("artifact:enable", json!({"id": "a"})),
        ("artifact:disable", json!({"id": "a"})),
        ("artifact:remove", json!({"id": "a"})),
        ("analytics:dashboard", json!({"timeRange": {"from": 5, "to": 6}, "granularity": "hour"})),
        ("analytics:lifetime-totals", Value::Null),
        ("analytics:cost-summary", range.clone()),
        ("analytics:cost-timeseries", series.clone()),
        ("analytics:error-summary", range.clone()),
        ("analytics:error-timeseries", series.clone()),
        ("analytics:token-timeseries", series.clone()),
        ("analytics:model-usage", range.clone()),
        ("analytics:imagegen-timeseries", series),
        ("analytics:tool-usage", range.clone()),
        ("analytics:session-stats", range),
        ("analytics:run-aggregation", Value::Null),
        ("analytics:run-cleanup", Value::Null),
        ("system:ping", Value::Null),
        ("system:channels", Value::Null),
        ("system:stats", Value::Null),
        ("chat:delete", id),
    ]
}

/// Members that no payload above has, because what they name would have to exist.
const NOT_GIVEN: [(&str, &str); 6] = [
    ("chat:list", "before"),
    ("chat:get-messages", "before"),
    ("code:get-transcript", "before"),
    ("code:get-transcript", "after"),
    ("imagegen:list-entries", "before"),
    ("imagegen:list-images", "before"),
];

/// The paths of a value and of all its parts, the value itself first.
fn places(value: &Value) -> Vec<Vec<Step>> {
    let mut found = vec![Vec::new()];
    let mut below = |step: Step, part: &Value| {
        for mut path in places(part) {
            path.insert(0, step.clone());
            found.push(path);
        }
    };
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, part)| below(Step::Member(name.clone()), part));
        }
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(n, part)| below(Step::Element(n), part));
        }
        _ => {}
    }
    found
}

/// The value with one part of it replaced, or removed.
fn with(value: &Value, path: &[Step], new: Option<&Value>) -> Value {
    let mut changed = value.clone();
    let Some((last, way)) = path.split_last() else { return new.cloned().unwrap_or_default() };
    let mut at = &mut changed;
    for step in way {
        at = match step {
            Step::Member(name) => &mut at[name],
            Step::Element(n) => &mut at[*n],
        };
    }
    match (last, new) {
        (Step::Member(name), Some(new)) => at[name] = new.clone(),
        (Step::Element(n), Some(new)) => at[*n] = new.clone(),
        (Step::Member(name), None) => drop(at.as_object_mut().unwrap().remove(name)),
        (Step::Element(n), None) => drop(at.as_array_mut().unwrap().remove(*n)),
    }
    changed
}

/// Replacements for the part at a path.
fn replacements(part: &Value) -> Vec<Option<Value>> {
    let mut all = vec![
        None,
        Some(Value::Null),
        Some(json!(true)),
        Some(json!(-1)),
        Some(json!(0.5)),
        Some(json!(1e300)),
        Some(json!("")),
        Some(json!("hostile")),
        Some(json!([])),
        Some(json!(["hostile", null])),
        Some(json!({})),
        Some(json!({"hostile": {"a": []}})),
    ];
    all.push(Some(match part {
        Value::Array(elements) => json!(vec![elements.first().cloned().unwrap_or_default(); 40_000]),
        Value::Object(_) => json!({"hostile": "x".repeat(HUGE_BYTES)}),
        Value::Number(_) => json!(u64::MAX),
        _ => json!("x".repeat(HUGE_BYTES)),
    }));
    all
}

fn written(path: &[Step]) -> String {
    let text: String = path
        .iter()
        .map(|step| match step {
            Step::Member(name) => format!(".{name}"),
            Step::Element(n) => format!("[{n}]"),
        })
        .collect();
    if text.is_empty() { "payload".to_owned() } else { text.trim_start_matches('.').to_owned() }
}

/// Every row of every table.
fn dump(data: &Path) -> Vec<String> {
    let file = data.join("switchboard.db");
    let database = rusqlite::Connection::open(file).unwrap();
    let names = |connection: &rusqlite::Connection| -> Vec<String> {
        let mut tables =
            connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1").unwrap();
        tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut rows = Vec::new();
    for table in names(&database) {
        let mut all = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = all.column_count();
        let mut found = all.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values: Vec<_> =
                (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n).unwrap()).collect();
            rows.push(format!("{table}: {values:?}"));
        }
    }
    rows
}

/// What payloads name.
struct Named {
    chat: Value,
    session: &'static str,
    restore_point: Value,
    entry: Value,
}

/// A host with a chat, a coding session and an artifact, and a client.
async fn furnished() -> (Host, Client, Named) {
    let folder = tempfile::tempdir().unwrap();
    let projects = folder.path().join("home/projects");
    let session = "7b0e5ab1-6c3e-4c5a-9d5e-111111111111";
    let backups = folder.path().join("home/file-history").join(session);
    fs::create_dir_all(projects.join("p")).unwrap();
    fs::create_dir_all(&backups).unwrap();
    fs::write(backups.join("aa@v1"), "as it was").unwrap();
    let time = "2026-01-01T00:00:00.000Z";
    let prompt = json!({"type": "user", "uuid": "u1", "parentUuid": null, "sessionId": session, "cwd": "/p",
        "timestamp": time, "message": {"role": "user", "content": "hello"}});
    let backup = json!({"backupFileName": "aa@v1", "version": 1, "backupTime": time});
    let snapshot = json!({"type": "file-history-snapshot", "messageId": "u1", "isSnapshotUpdate": false,
        "snapshot": {"messageId": "u1", "timestamp": time, "trackedFileBackups": {"a.rs": backup}}});
    fs::write(projects.join(format!("p/{session}.jsonl")), format!("{prompt}\n{snapshot}\n")).unwrap();
    let sources = folder.path().join("sources");
    fs::create_dir_all(sources.join("a")).unwrap();
    let artifact = json!({"id": "a", "name": "A", "version": "1", "command": ["cat"]});
    fs::write(sources.join("a/artifact.json"), artifact.to_string()).unwrap();
    let host = Host::open(folder, |backend, config| {
        backend.code.code_dir = Some(projects);
        backend.artifact.sources = vec![sources];
        backend.artifact.allow = true;
        // Refused requests are counted, which changes the database.
        backend.analytics.record = false;
        // The client receives no heartbeats and answers no pings, however slow the machine is.
        backend.heartbeat_interval = std::time::Duration::from_secs(3600);
        config.limits.idle_timeout = std::time::Duration::from_secs(3600);
    })
    .await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await["id"].clone();
    client.event("chat:created").await;
    client.call("artifact:install", json!({"source": "a"})).await;
    client.call("code:list-sessions", Value::Null).await;
    let points = client.call("code:list-restore-points", json!({"sessionId": session})).await;
    let entry = client.call("imagegen:create-entry", json!({"prompt": "a lake"})).await["id"].clone();
    while client.any_event().await.0 != "imagegen:job-completed" {}
    (host, client, Named { chat, session, restore_point: points[0]["id"].clone(), entry })
}

#[tokio::test]
async fn what_a_declared_type_forbids_is_refused_by_member() {
    let (host, mut client, named) = furnished().await;
    let types = Types::read(&backend::typescript());
    let payloads = payloads(&named);
    let requests: Vec<_> =
        backend::channels().into_iter().filter(|channel| channel.direction == Direction::Request).collect();
    let before = dump(&host.folder.path().join("data"));
    let mut witness = Client::connect(host.port).await;
    let mut allowed = Vec::new();
    let (mut refused, mut wrong) = (0, Vec::new());
    for channel in &requests {
        let (_, fits) = payloads
            .iter()
            .find(|(name, _)| *name == channel.name)
            .unwrap_or_else(|| panic!("{}", channel.name));
        let of = match channel.payload {
            "-" => types.parse("{}"),
            text => types.parse(text),
        };
        assert_eq!(types.misfits(&of, &or_empty(fits), ""), [""; 0], "{}", channel.name);
        if let Type::Object(members) = types.resolve(&of) {
            for name in members.keys().filter(|name| fits.get(name).is_none()) {
                assert!(
                    NOT_GIVEN.contains(&(channel.name, name)),
                    "{}: no {name} in its payload",
                    channel.name
                );
            }
        }
        for path in places(fits) {
            let part = path.iter().fold(fits, |part, step| match step {
                Step::Member(name) => &part[name],
                Step::Element(n) => &part[*n],
            });
            let huge = replacements(part).len() - 1;
            for (n, new) in replacements(part).iter().enumerate() {
                let hostile = with(fits, &path, new.as_ref());
                let misfits = types.misfits(&of, &or_empty(&hostile), "");
                // Metadata is limited as a whole, so a number in it can have any value.
                let is_bounded = !(part.is_object()
                    || part.is_number()
                        && (written(&path).starts_with("metadata") || written(&path).starts_with("params")));
                let is_too_big = n == huge && is_bounded && !path.is_empty();
                if misfits.is_empty() && !is_too_big {
                    allowed.push((channel.name, hostile, written(&path)));
                    continue;
                }
                let response = client.respond(channel.name, hostile).await;
                let error = &response["error"];
                let named = error["details"]["path"].as_str().unwrap_or_default();
                let is_named = |misfit: &String| {
                    // For a list of words the error names the list.
                    misfit == named || misfit.strip_prefix(named).is_some_and(|index| index.starts_with('['))
                };
                let is_right = !named.is_empty()
                    && (misfits.iter().any(is_named) || n == huge && related(named, &written(&path)));
                let shown: String =
                    new.as_ref().map_or("nothing".to_owned(), Value::to_string).chars().take(80).collect();
                if error["code"] != "HANDLER_ERROR" || !is_right {
                    let place = written(&path);
                    let response: String = response.to_string().chars().take(300).collect();
                    wrong.push(format!(
                        "{}: {place} replaced by {shown}: expected an error at {misfits:?}, got {response}",
                        channel.name
                    ));
                }
                refused += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 20 * requests.len(), "{refused} refused");
    assert!(dump(&host.folder.path().join("data")) == before, "the database has changed");
    witness.call("system:ping", Value::Null).await;
    assert_eq!(witness.kept_events(), 0, "a refused request emits nothing to others");

    // A value that the type allows can be outside a range; that error names the member too.
    for (channel, payload, path) in allowed {
        let response = client.respond(channel, payload.clone()).await;
        if let Some(error) = response.get("error") {
            let named = error["details"]["path"].as_str();
            assert!(error["message"] != "Internal error", "{channel}: {payload}: {response}");
            assert!(
                named.is_none_or(|named| related(named, &path)),
                "{channel}: {path}: {payload}: {response}"
            );
        }
    }
    // A valid payload is still accepted at the end.
    for (channel, payload) in payloads {
        client.call(channel, payload).await;
    }
    host.close().await;
}

/// The response to a request, without what differs from one request to the next.
async fn outcome(client: &mut Client, channel: &str, payload: Value) -> Value {
    fn plain(value: &Value) -> Value {
        match value {
            Value::Number(_) => json!(0),
            Value::String(text) if text.len() == 36 || text.parse::<u64>().is_ok() => json!("an id"),
            Value::Array(elements) => elements.iter().map(plain).collect(),
            Value::Object(members) => {
                Value::Object(members.iter().map(|(name, part)| (name.clone(), plain(part))).collect())
            }
            other => other.clone(),
        }
    }
    let response = client.respond(channel, payload).await;
    json!({"payload": plain(&response["payload"]), "error": plain(&response["error"])})
}

#[tokio::test]
async fn null_for_an_optional_member_is_as_if_it_was_left_out() {
    let (host, mut client, named) = furnished().await;
    let types = Types::read(&backend::typescript());
    let payloads = payloads(&named);
    let mut compared = 0;
    let channels = backend::channels();
    let mut channels: Vec<_> =
        channels.iter().filter(|channel| channel.direction == Direction::Request).collect();
    // The images of an entry come one after the other, so the lists are compared before there is one.
    channels.sort_by_key(|channel| channel.name == "imagegen:create-entry");
    for channel in channels {
        let name = channel.name;
        let (_, full) = payloads.iter().find(|(other, _)| *other == name).unwrap();
        if channel.payload == "-" {
            continue;
        }
        let Type::Object(members) = types.resolve(&types.parse(channel.payload)) else { panic!("{name}") };
        let optional: Vec<&String> = members
            .iter()
            .filter(|(_, member)| member.optional && !types.resolve(&member.of).accepts_null())
            .map(|(member, _)| member)
            .collect();
        let none = |given: &Value, nulled: &[&String]| {
            nulled.iter().fold(given.clone(), |payload, member| {
                with(&payload, &[Step::Member((*member).clone())], Some(&Value::Null))
            })
        };
        let left_out = |given: &Value, removed: &[&String]| {
            removed.iter().fold(given.clone(), |payload, member| {
                with(&payload, &[Step::Member((*member).clone())], None)
            })
        };
        if optional.is_empty() {
            continue;
        }
        // Each of them alone, then all together.
        for nulled in optional.iter().map(std::slice::from_ref).chain([&optional[..]]) {
            // The first request can change what the second one finds.
            client.respond(name, left_out(full, nulled)).await;
            let expected = outcome(&mut client, name, left_out(full, nulled)).await;
            let seen = outcome(&mut client, name, none(full, nulled)).await;
            assert_eq!(seen, expected, "{name}: null for {nulled:?}");
            compared += nulled.len();
        }
    }
    assert!(compared > 100, "{compared} members compared");
    host.close().await;
}

/// An absent payload counts as an object without members.
fn or_empty(payload: &Value) -> Value {
    if payload.is_null() { json!({}) } else { payload.clone() }
}

/// Whether one path is a prefix of the other.
fn related(a: &str, b: &str) -> bool {
    a == "payload" || b == "payload" || a.starts_with(b) || b.starts_with(a)
}
