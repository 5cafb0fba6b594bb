//! An interrupted job is finished once after a restart.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::setup::*;
use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::program::Program;
use crate::support::upstream::{Step, Upstream};

#[tokio::test]
async fn a_job_interrupted_by_a_kill_is_finished_once_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let go_on = Arc::new(Notify::new());
    let two = images(&[PNG, PNG]);
    let upstream = Upstream::start(vec![
        vec![Step::Send(two.clone())],
        vec![Step::Hold],
        vec![Step::Await(go_on.clone()), Step::Send(two.clone())],
        vec![Step::Send(two)],
    ])
    .await;
    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    point_at(&mut client, "openai", &upstream.url).await;
    let payload = json!({"prompt": "x", "provider": "openai", "batchSize": 2, "batchCount": 3});
    let queued = client.call("imagegen:create-entry", payload).await;
    let next = client.call("imagegen:create-entry", ask("pattern")).await;
    let created = client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    let kept = client.event("imagegen:batch-completed").await["images"].clone();
    client.event("imagegen:batch-started").await;
    asked(&mut client, &upstream, 2).await;
    program.kill();
    // A file without its row, as a crash leaves it, and a file that is not ours.
    let stray = "550e8400-e29b-41d4-a716-446655440000";
    for name in [format!("{stray}.png"), format!("{stray}.svg.tmp"), "notes.txt".to_owned()] {
        fs::write(data.join("images").join(name), "x").unwrap();
    }

    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    // The worker waits for the upstream, so all that follows is received.
    asked(&mut client, &upstream, 3).await;
    let running = entry(&mut client, &queued["id"]).await;
    assert_eq!((&running["jobId"], &running["batchesDone"]), (&created["jobId"], &json!(1)));
    client.call("system:ping", Value::Null).await;
    while client.kept_events() > 0 {
        // The first ones, as far as this client was connected already.
        let kept = client.kept_events();
        client.event(if kept == 2 { "imagegen:job-created" } else { "imagegen:batch-started" }).await;
    }
    go_on.notify_one();
    let mut made = kept.as_array().unwrap().clone();
    for index in [1, 2] {
        if index == 2 {
            client.event("imagegen:batch-started").await;
        }
        let completed = client.event("imagegen:batch-completed").await;
        assert_eq!((&completed["batchIndex"], &completed["jobId"]), (&json!(index), &created["jobId"]));
        made.extend(completed["images"].as_array().unwrap().clone());
    }
    let job = ended(&mut client).await;
    assert_eq!((&job["status"], &job["startedAt"]), (&json!("completed"), &created["job"]["startedAt"]));
    made.extend(follow(&mut client, &next, &[0]).await.0);

    let page = client.call("imagegen:list-images", Value::Null).await;
    made.reverse();
    assert_eq!(page["images"], json!(made), "what was emitted is what is stored, once");
    assert_eq!(upstream.requests().len(), 4, "one batch was interrupted, so one was requested twice");
    let names = files(&data);
    let found: Vec<String> = names
        .iter()
        .filter_map(|name| Some(name.split_once('.')?.0.to_owned()))
        .filter(|id| id != "notes")
        .collect();
    assert_eq!(found, ids(&made));
    assert!(names.contains(&"notes.txt".to_owned()));
    drop(client);
    program.stop("-TERM");
}

/// Kills at arbitrary times: the built-in provider is so fast that most of its time is writing.
#[tokio::test]
async fn however_often_the_program_is_killed_each_batch_is_stored_once() {
    const BATCHES: i64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let payload =
        json!({"prompt": "x", "seed": 0, "batchSize": 2, "batchCount": BATCHES, "width": 64, "height": 64});
    let mut id = Value::Null;
    let mut program = Program::start(&data);
    for round in 0..4 {
        let mut client = Client::connect(program.port).await;
        if id.is_null() {
            id = client.call("imagegen:create-entry", payload.clone()).await["id"].clone();
        }
        let mut told = 0;
        while told < 5 + round {
            match client.next().await {
                Ok(event) if event["channel"] == "imagegen:batch-completed" => told += 1,
                Ok(event) if event["channel"] == "imagegen:job-completed" => break,
                _ => {}
            }
        }
        program.kill();
        program = Program::start(&data);
    }
    let mut client = Client::connect(program.port).await;
    while entry(&mut client, &id).await["status"] != "completed" {}
    let page = client.call("imagegen:list-images", json!({"limit": 500})).await;
    let made = page["images"].as_array().unwrap();
    let mut seeds: Vec<i64> = made.iter().map(|image| image["seed"].as_i64().unwrap()).collect();
    seeds.reverse();
    assert_eq!(seeds, (0..2 * BATCHES).collect::<Vec<_>>());
    let on_disk: Vec<String> = files(&data).iter().map(|name| name.replace(".svg", "")).collect();
    assert_eq!(on_disk, ids(made), "each image has its file, and each file its image");
    drop(client);
    program.stop("-TERM");
}

#[tokio::test]
async fn an_interrupted_job_continues_after_a_restart() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold], vec![Step::Send(images(&[PNG]))]]).await;
    let (host, mut client) = host_at(&upstream).await;
    let queued = client.call("imagegen:create-entry", ask("openai")).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    asked(&mut client, &upstream, 1).await;
    drop(client);
    let folder = host.close().await;
    upstream.closed.recv().await.unwrap();
    let host = Host::open(folder, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    while entry(&mut client, &queued["id"]).await["status"] != "completed" {}
    assert_eq!(host_files(&host).len(), 1);
    host.close().await;
}
