//! Statistics over a real socket, on a real database file: what is counted, what is never recorded, and that nothing is counted
//! twice, however the process ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use serde_json::{Value, json};
use switchboard::backend::BackendConfig;
use switchboard::backend::analytics::{AiCall, ImageBatch};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::program::{self, Program};
use crate::support::skip;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const KEY: &str = "sk-correct-horse-battery-staple";

/// Nothing is written or rolled up without a request.
fn quiet(backend: &mut BackendConfig) {
    backend.analytics.flush_interval = Duration::from_secs(3600);
    backend.analytics.rollup_interval = Duration::from_secs(3600);
}

async fn open(folder: TempDir) -> Host {
    Host::open(folder, |backend, _| quiet(backend)).await
}

async fn new_host() -> Host {
    open(tempfile::tempdir().unwrap()).await
}

fn database(folder: &TempDir) -> PathBuf {
    folder.path().join("data/switchboard.db")
}

fn query(database: &Path, sql: &str) -> i64 {
    Connection::open(database).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Inserts one raw row per AI call into a database that no server has open.
fn lay_down(database: &Path, at: i64, rows: i64) {
    let connection = Connection::open(database).unwrap();
    connection
        .execute_batch(
            "INSERT OR IGNORE INTO analytics_names (id, role, name) VALUES (9001, 3, 'old'), (9002, 4, 'model')",
        )
        .unwrap();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
             INSERT INTO analytics_raw (at, kind, a, b, count, failed, extra, input, output, cache_read, cache_write,
                                        nano_usd, us, max_us)
             SELECT ?1 + i, 2, 9001, 9002, 1, 0, 0, 3, 2, 0, 0, 100, 1000, 1000 FROM n",
            [at, rows],
        )
        .unwrap();
}

async fn totals(client: &mut Client) -> Value {
    client.call("analytics:lifetime-totals", Value::Null).await
}

#[tokio::test]
async fn requests_errors_and_sessions_are_counted_once_each() {
    let (connections, disconnections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (came, left) = (connections.clone(), disconnections.clone());
    let host = Host::open(tempfile::tempdir().unwrap(), |backend, config| {
        quiet(backend);
        config.on_connection = Some(Arc::new(move |_| {
            came.fetch_add(1, Ordering::SeqCst);
        }));
        config.on_disconnection = Some(Arc::new(move |_| {
            left.fetch_add(1, Ordering::SeqCst);
        }));
    })
    .await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);
    let before = totals(&mut a).await;
    assert_eq!(
        (&before["requests"], &before["sessions"]),
        (&json!(0), &json!(2)),
        "not the stop request itself yet"
    );
    for _ in 0..10 {
        b.call("system:ping", Value::Null).await;
    }
    b.refuse("chat:get", json!({})).await;
    b.refuse("no:such", Value::Null).await;
    let after = totals(&mut a).await;
    assert_eq!((&after["requests"], &after["errors"]), (&json!(13), &json!(2)));
    let errors = a.call("analytics:error-summary", json!({"timeRange": "24h"})).await;
    assert_eq!(errors["total"], 2);
    let count = |name: &str, of: &str| json!({name: of, "count": 1});
    assert_eq!(errors["byCode"], json!([count("code", "HANDLER_ERROR"), count("code", "UNKNOWN_CHANNEL")]));
    assert_eq!(errors["byChannel"], json!([count("channel", "(unknown)"), count("channel", "chat:get")]));
    let messages: Vec<_> = errors["recent"].as_array().unwrap().iter().map(|line| &line["message"]).collect();
    assert_eq!(messages.len(), 2);
    assert!(messages.contains(&&json!("id: expected string of 1..=128 bytes")), "{messages:?}");
    assert!(messages.contains(&&json!("No handler for…")), "{messages:?}");

    let (port, folder) = (host.port, host.close().await);
    assert_eq!((connections.load(Ordering::SeqCst), disconnections.load(Ordering::SeqCst)), (2, 2));
    let host = open(folder).await;
    assert_ne!(host.port, 0, "{port}");
    let mut client = Client::connect(host.port).await;
    let totals = totals(&mut client).await;
    // The two requests above are counted too.
    assert_eq!((&totals["requests"], &totals["sessions"]), (&json!(15), &json!(3)));
    let stats = client.call("analytics:session-stats", json!({"timeRange": "24h"})).await;
    assert_eq!(stats["sessions"], 3);
    let by_day = stats["byDay"].as_array().unwrap();
    assert_eq!(by_day.iter().map(|day| day["sessions"].as_i64().unwrap()).sum::<i64>(), 3);
    assert_eq!(query(&database(&host.folder), "SELECT sum(extra) FROM analytics_raw WHERE kind = 5"), 2);
    host.close().await;
}

#[tokio::test]
async fn calls_of_every_family_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources");
    fs::create_dir_all(sources.join("weather")).unwrap();
    let manifest = json!({"id": "weather", "name": "W", "version": "1", "command": ["cat"], "input": {"type": "object"}});
    fs::write(sources.join("weather/artifact.json"), manifest.to_string()).unwrap();
    let host = Host::open(folder, |backend, _| {
        quiet(backend);
        (backend.artifact.allow, backend.artifact.sources) = (true, vec![sources]);
    })
    .await;
    let mut client = Client::connect(host.port).await;
    let question = |content: &str| json!({"provider": "echo", "model": "echo", "messages": [{"role": "user", "content": content}]});
    let mut output = 0;
    for content in ["one", "one two three"] {
        let answer = client.call("ai:chat", question(content)).await;
        output += answer["usage"]["outputTokens"].as_i64().unwrap();
    }
    client
        .refuse(
            "ai:chat",
            json!({"provider": "anthropic", "model": "m", "messages": [{"role": "user", "content": "x"}]}),
        )
        .await;
    let recorder = host.backend.analytics().recorder().clone();
    let call = AiCall {
        provider: "p",
        model: "m",
        cost_usd: Some(0.3),
        tools: &["look", "look"],
        ..AiCall::default()
    };
    recorder.ai_call(&call);
    recorder.images(&ImageBatch { provider: "openai", failed: true, ..ImageBatch::default() });
    recorder.artifact_call("weather", Duration::from_millis(30), true);
    client.call("artifact:install", json!({"source": "weather"})).await;
    client.call("artifact:invoke", json!({"id": "weather", "input": {}})).await;
    client.refuse("artifact:invoke", json!({"id": "weather", "input": "refused before it is called"})).await;
    client.call("imagegen:create-entry", json!({"prompt": "a lake", "batchCount": 2, "batchSize": 2})).await;
    while client.any_event().await.0 != "imagegen:job-completed" {}

    let totals = totals(&mut client).await;
    assert_eq!((&totals["aiCalls"], &totals["outputTokens"]), (&json!(4), &json!(output)));
    assert_eq!((&totals["images"], &totals["artifactCalls"]), (&json!(4), &json!(2)));
    assert_eq!(totals["costUsd"], 0.3);
    let range = json!({"timeRange": "24h", "granularity": "hour"});
    let usage = client.call("analytics:model-usage", range.clone()).await;
    assert_eq!((&usage["models"][0]["model"], &usage["models"][0]["share"]), (&json!("echo"), &json!(0.5)));
    let tools = client.call("analytics:tool-usage", range.clone()).await;
    let expected = json!([
        {"tool": "look", "source": "ai", "calls": 2, "errors": 0, "meanMs": null},
        {"tool": "weather", "source": "artifact", "calls": 2, "errors": 1},
    ]);
    let mut tools = tools["tools"].clone();
    assert!(tools[1]["meanMs"].as_f64().unwrap() > 15.0);
    tools[1].as_object_mut().unwrap().remove("meanMs");
    assert_eq!(tools, expected);
    let images = client.call("analytics:imagegen-timeseries", range.clone()).await;
    assert_eq!(images["total"], json!({"images": 4, "batches": 3, "failed": 1}));
    assert_eq!(images["buckets"].as_array().unwrap().len(), 25);
    let dashboard = client.call("analytics:dashboard", Value::Null).await;
    assert_eq!(dashboard["cost"]["totalUsd"], 0.3);
    assert_eq!(dashboard["requests"]["granularity"], "day");
    host.close().await;
}

#[tokio::test]
async fn an_ai_call_whose_client_disconnects_is_counted_as_failed() {
    let host = new_host().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::connect(host.port).await;
    let url = format!("http://{}", upstream.local_addr().unwrap());
    client.call("settings:set", json!({"key": "ai.openai.baseUrl", "value": url})).await;
    let question =
        json!({"provider": "openai", "model": "m", "messages": [{"role": "user", "content": "x"}]});
    client.send("ai:chat", question).await;
    let (mut upstream, _) = upstream.accept().await.unwrap();
    drop(client);
    // The provider's connection ends when the handler is dropped, and the call is counted before that.
    let mut request = Vec::new();
    let _ = upstream.read_to_end(&mut request).await;
    let mut client = Client::connect(host.port).await;
    assert_eq!(totals(&mut client).await["aiCalls"], 1);
    let errors = client.call("analytics:error-summary", json!({"timeRange": "24h"})).await;
    assert_eq!(errors["byCode"], json!([{"code": "CONNECTION_CLOSED", "count": 1}]));
    host.close().await;
}

#[tokio::test]
async fn no_credential_and_no_message_is_recorded() {
    const DIARY: &str = "dear diary, a secret";
    let host = new_host().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains(DIARY) {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
            }
            let body = json!({"error": {"message": format!("{DIARY} {KEY}")}}).to_string();
            let head = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length";
            stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        }
    });
    let mut client = Client::connect(host.port).await;
    client.call("settings:set", json!({"key": "ai.openai.baseUrl", "value": url})).await;
    client.call("credentials:set", json!({"key": "openai", "token": KEY})).await;
    let question =
        json!({"provider": "openai", "model": "m", "messages": [{"role": "user", "content": DIARY}]});
    let error = client.refuse("ai:chat", question).await;
    assert!(error["message"].as_str().unwrap().contains(DIARY), "{error}");
    for (channel, payload) in [
        (DIARY, json!(DIARY)),
        (KEY, Value::Null),
        ("credentials:set", json!({"key": [KEY], "token": KEY})),
        ("credentials:set", json!({"key": "k", "token": {"t": KEY}})),
        ("ai:chat", json!({"provider": KEY})),
        ("chat:add-message", json!({"chatId": DIARY, "role": DIARY, "content": DIARY})),
        ("analytics:cost-summary", json!({"timeRange": KEY})),
    ] {
        client.refuse(channel, payload).await;
    }
    let errors = client.call("analytics:error-summary", json!({"timeRange": "24h"})).await.to_string();
    assert!(errors.contains("\"openai: 400…\""), "{errors}");
    for secret in [DIARY, KEY, "correct-horse"] {
        assert!(!errors.contains(secret), "{errors}");
    }
    let folder = host.close().await;
    let bytes = fs::read(database(&folder)).unwrap();
    for secret in [DIARY, KEY] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
}

#[tokio::test]
async fn names_that_clients_choose_do_not_fill_the_database() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let mut last = String::new();
    for n in 0..1100 {
        client.send(&format!("random:{n}"), Value::Null).await;
        let question = json!({"provider": "echo", "model": format!("m{n}"), "messages": [{"role": "user", "content": "x"}]});
        last = client.send("ai:chat", question).await;
    }
    while client.next().await.unwrap()["id"] != last.as_str() {}
    let errors = client.call("analytics:error-summary", json!({"timeRange": "24h"})).await;
    assert_eq!(errors["byChannel"], json!([{"channel": "(unknown)", "count": 1100}]));
    assert_eq!(errors["recent"].as_array().unwrap().len(), 50);
    let usage = client.call("analytics:model-usage", json!({"timeRange": "24h"})).await;
    let models = usage["models"].as_array().unwrap();
    assert_eq!(
        (models.len(), &models[0]["model"], &models[0]["calls"]),
        (1001, &json!("(other)"), &json!(100))
    );
    let folder = host.close().await;
    assert!(query(&database(&folder), "SELECT count(*) FROM analytics_names") < 1100);
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let objects = [json!([]), json!("7d"), json!(1), json!(true), json!([{"timeRange": "7d"}])];
    let ranges = [
        (json!({"timeRange": "1d"}), "timeRange"),
        (json!({"timeRange": ["7d"]}), "timeRange"),
        (json!({"timeRange": {"from": 5, "to": 5}}), "timeRange.to"),
        (json!({"timeRange": {"from": 5}}), "timeRange.to"),
        (json!({"timeRange": {"from": 0.5, "to": 5}}), "timeRange.from"),
        (json!({"timeRange": {"from": 0, "to": 9_007_199_254_740_991_i64}}), "timeRange.to"),
    ];
    let granularities = [
        (json!({"timeRange": "7d", "granularity": "minute"}), "granularity"),
        (json!({"timeRange": "7d", "granularity": ["hour"]}), "granularity"),
    ];
    let mut refused = 0;
    for channel in switchboard::backend::analytics::CHANNELS {
        let takes = |member: &str| channel.payload.contains(member);
        let mut wrong: Vec<(Value, &str)> =
            objects.iter().map(|payload| (payload.clone(), "payload")).collect();
        if takes("timeRange") {
            wrong.extend(ranges.iter().cloned());
        }
        if takes("granularity") {
            wrong.extend(granularities.iter().cloned());
        }
        if takes("timeRange:") {
            wrong.push((Value::Null, "timeRange"));
            wrong.push((json!({"timeRange": null}), "timeRange"));
        }
        if takes("granularity:") {
            wrong.push((json!({"timeRange": "7d"}), "granularity"));
            wrong.push((json!({"timeRange": "7d", "granularity": null}), "granularity"));
        }
        assert!(wrong.len() >= 5, "{}", channel.name);
        for (payload, path) in wrong {
            client.refuse_member(channel.name, payload, path).await;
            refused += 1;
        }
    }
    let database = database(&host.folder);
    // The refused request can have been written already: what is due at the start is written at an unknown time.
    let costs = "SELECT count(*) FROM analytics_raw WHERE nano_usd + input + output > 0 OR failed < count";
    assert!(
        query(&database, costs) <= 1,
        "a refused request wrote more than its count and the client's session"
    );
    // The number of buckets is known once the database was queried.
    let hours = json!({"timeRange": {"from": 0, "to": 1_000_000_000_000_i64}, "granularity": "hour"});
    for channel in ["analytics:dashboard", "analytics:cost-timeseries"] {
        let error = client.refuse(channel, hours.clone()).await;
        assert_eq!(error["details"]["path"], "granularity");
        refused += 1;
    }
    let totals = totals(&mut client).await;
    assert_eq!((&totals["requests"], &totals["errors"]), (&json!(refused), &json!(refused)));
    host.close().await;
}

#[tokio::test]
async fn totals_survive_aggregation_cleanup_and_restarts() {
    let folder = new_host().await.close().await;
    let old = now() - 40 * DAY_MS;
    lay_down(&database(&folder), old, 25_000);
    let host = open(folder).await;
    let mut client = Client::connect(host.port).await;
    client.call("settings:set", json!({"key": "analytics.retentionDays", "value": 45})).await;
    let range = json!({"timeRange": {"from": old, "to": old + DAY_MS}, "granularity": "hour"});
    let channels = ["analytics:cost-summary", "analytics:token-timeseries", "analytics:model-usage"];
    let mut before = Vec::new();
    for channel in channels {
        before.push(client.call(channel, range.clone()).await);
    }
    assert_eq!(
        before[1]["total"],
        json!({"input": 75_000, "output": 50_000, "cacheRead": 0, "cacheWrite": 0})
    );
    // Upkeep runs once at the start, so only the number of rows is checked, not which run wrote them.
    client.call("analytics:run-aggregation", Value::Null).await;
    let rows = "SELECT count(*) FROM analytics_raw";
    let left = "SELECT count(*) FROM analytics_raw WHERE id > (SELECT rolled_up_to FROM analytics_state)";
    assert_eq!(query(&database(&host.folder), left), 0);
    // Only the last request itself is left.
    let aggregated = client.call("analytics:run-aggregation", Value::Null).await["aggregated"].clone();
    assert_eq!(aggregated, 1);
    assert_eq!(client.call("analytics:run-cleanup", Value::Null).await["deleted"], 0);
    client.call("settings:set", json!({"key": "analytics.retentionDays", "value": 30})).await;
    assert_eq!(client.call("analytics:run-cleanup", Value::Null).await["deleted"], 25_000);
    assert_eq!(client.call("analytics:run-cleanup", Value::Null).await["deleted"], 0);
    assert!(query(&database(&host.folder), rows) < 100);
    let host = open(host.close().await).await;
    let mut client = Client::connect(host.port).await;
    for (channel, before) in channels.iter().zip(&before) {
        assert_eq!(client.call(channel, range.clone()).await, *before, "{channel}");
    }
    assert_eq!(totals(&mut client).await["aiCalls"], 25_000);
    let folder = host.close().await;
    let sum = Command::new("sqlite3")
        .arg(database(&folder))
        .arg("PRAGMA integrity_check; SELECT sum(count), sum(input) FROM analytics_days WHERE kind = 2; SELECT sum(count) FROM analytics_hours WHERE kind = 2")
        .output();
    match sum {
        Ok(output) => assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok\n25000|75000\n25000\n"),
        Err(_) => skip::skipped("sums of hours and days by the sqlite3 command, which is not installed"),
    }
}

#[tokio::test]
async fn upkeep_runs_without_a_request() {
    let folder = new_host().await.close().await;
    lay_down(&database(&folder), now() - 100 * DAY_MS, 10);
    let host = Host::open(folder, |backend, _| {
        backend.analytics.flush_interval = Duration::from_millis(5);
        backend.analytics.rollup_interval = Duration::from_millis(10);
    })
    .await;
    let mut client = Client::connect(host.port).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let done = "SELECT (SELECT count(*) FROM analytics_raw WHERE kind = 2) = 0
                   AND (SELECT count(*) FROM analytics_hours WHERE kind = 1) > 0";
    while query(&database(&host.folder), done) == 0 {
        assert!(Instant::now() < deadline, "nothing was done");
        client.call("system:ping", Value::Null).await;
    }
    assert_eq!(totals(&mut client).await["aiCalls"], 10);
    host.close().await;
}

#[tokio::test]
async fn written_counts_survive_kill_9_and_count_once() {
    const ROWS: i64 = 300_000;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let file = database(&folder);
    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    for _ in 0..20 {
        client.call("system:ping", Value::Null).await;
    }
    let written = totals(&mut client).await;
    assert_eq!(written["requests"], 20);
    program.kill();
    drop(client);
    lay_down(&file, now() - DAY_MS, ROWS);
    let rolled_up = "SELECT max(rolled_up_to) FROM analytics_state";
    let last = query(&file, "SELECT max(id) FROM analytics_raw");
    let mut kills = Vec::new();
    // A server rolls up from its start on. Each time it is killed a little later.
    for _ in 0..3 {
        let started = query(&file, rolled_up);
        let program = Program::start(&data_dir);
        let watch = Connection::open(&file).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut at = started;
        while at == started && at < last {
            assert!(Instant::now() < deadline, "nothing is rolled up");
            at = watch.query_row(rolled_up, [], |row| row.get(0)).unwrap();
        }
        program.kill();
        drop(watch);
        kills.push(query(&file, rolled_up));
    }
    println!("killed with {kills:?} of {last} rows rolled up");
    assert!(kills[0] < last, "the first kill was during aggregation");
    let program = Program::start(&data_dir);
    let mut client = Client::connect(program.port).await;
    let first = totals(&mut client).await;
    assert_eq!((&first["aiCalls"], &first["inputTokens"]), (&json!(ROWS), &json!(3 * ROWS)));
    assert_eq!(first["requests"], 20, "{written}");
    client.call("analytics:run-aggregation", Value::Null).await;
    let second = totals(&mut client).await;
    assert_eq!((&second["aiCalls"], &second["costUsd"]), (&json!(ROWS), &json!(0.03)));
    drop(client);
    assert_eq!(program.stop("-TERM").0, Some(0));
    assert_eq!(query(&file, "SELECT sum(count) FROM analytics_days WHERE kind = 2"), ROWS);
    assert_eq!(query(&file, "SELECT sum(count) FROM analytics_hours WHERE kind = 2"), ROWS);
    // Stopping has written what was in memory: three requests and the ends of the sessions.
    let host = open(folder).await;
    let mut client = Client::connect(host.port).await;
    assert_eq!(totals(&mut client).await["requests"], 23);
    host.close().await;
}

#[tokio::test]
async fn a_full_database_answers_queries_and_keeps_pending_counts() {
    let host = Host::open(tempfile::tempdir().unwrap(), |backend, _| {
        quiet(backend);
        backend.db.max_database_bytes = 1 << 20;
    })
    .await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", Value::Null).await["id"].clone();
    let before = totals(&mut client).await["requests"].as_i64().unwrap();
    let mut sent = 1;
    let message = |size: usize| json!({"chatId": chat, "role": "user", "content": "x".repeat(size)});
    for size in [100_000, 10_000, 1_000, 100, 1] {
        loop {
            sent += 1;
            if client.respond("chat:add-message", message(size)).await.get("error").is_some() {
                break;
            }
        }
    }
    let flushed = host.backend.analytics().flush().await;
    let stale = totals(&mut client).await["requests"].as_i64().unwrap();
    assert_eq!(stale == before, flushed.is_err());
    client.call("chat:delete", json!({"id": chat})).await;
    let after = totals(&mut client).await["requests"].as_i64().unwrap();
    // The messages, the deletion, and the query between them.
    assert_eq!(after, before + sent + 2, "the first flush: {flushed:?}");
    host.close().await;
}

#[tokio::test]
async fn an_operator_can_turn_recording_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program::command(&folder.path().join("data"));
    command.arg("--no-analytics");
    let program = Program::spawn(command);
    let mut client = Client::connect(program.port).await;
    client.call("system:ping", Value::Null).await;
    client.refuse("no:such", Value::Null).await;
    let totals = totals(&mut client).await;
    let counts = ["requests", "errors", "aiCalls", "sessions"];
    assert!(counts.iter().all(|count| totals[*count] == 0) && totals["since"].is_null(), "{totals}");
    assert_eq!(client.call("analytics:run-aggregation", Value::Null).await, json!({"aggregated": 0}));
    drop(client);
    program.stop("-TERM");
    assert_eq!(query(&database(&folder), "SELECT count(*) FROM analytics_raw"), 0);
}
