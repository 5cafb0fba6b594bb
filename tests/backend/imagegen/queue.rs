//! Entries from the queue to the gallery, their limits, and payloads that are refused.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::setup::*;
use crate::support::client::Client;
use crate::support::skip;
use crate::support::upstream::{Step, Upstream};

#[tokio::test]
async fn every_client_sees_an_entry_from_the_queue_to_the_gallery() {
    let host = new_host().await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);
    let groups = a.call("imagegen:list-groups", Value::Null).await;
    let none = json!({"queued": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0});
    let created = groups[0]["createdAt"].as_i64().unwrap();
    assert!(created > 1_700_000_000_000);
    assert_eq!(groups, json!([{"id": "default", "name": "Default", "createdAt": created, "counts": none}]));

    let payload = json!({
        "prompt": "<b>Ein See</b> & \"Berge\"", "negativePrompt": "people", "width": 640, "height": 480, "batchSize": 2,
        "batchCount": 3, "steps": 20, "cfgScale": 7.5, "seed": 100, "params": {"z": 1.0, "a": [1.50]},
    });
    let queued = a.call("imagegen:create-entry", payload.clone()).await;
    for (name, value) in payload.as_object().unwrap() {
        assert_eq!(&queued[name], value, "{name}");
    }
    let expected = json!({"groupId": "default", "jobId": null, "status": "queued", "provider": "pattern", "model": null,
        "batchesDone": 0, "error": null, "startedAt": null, "finishedAt": null});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&queued[name], value, "{name}");
    }
    let (images, job) = follow(&mut b, &queued, &[0, 1, 2]).await;
    assert_eq!(follow(&mut a, &queued, &[0, 1, 2]).await, (images.clone(), job.clone()));
    assert_eq!((&job["status"], &job["error"]), (&json!("completed"), &Value::Null));
    assert!(job["finishedAt"].as_i64() >= job["startedAt"].as_i64());
    let now = entry(&mut a, &queued["id"]).await;
    assert_eq!(
        (&now["status"], &now["batchesDone"], &now["jobId"]),
        (&json!("completed"), &json!(3), &job["id"])
    );
    assert_eq!((&now["startedAt"], &now["finishedAt"]), (&job["startedAt"], &job["finishedAt"]));
    let groups = a.call("imagegen:list-groups", Value::Null).await;
    assert_eq!(groups[0]["counts"]["completed"], 1);

    for (n, image) in images.iter().enumerate() {
        let id = image["id"].as_str().unwrap();
        let expected = json!({
            "id": id, "entryId": queued["id"], "jobId": job["id"], "groupId": "default", "batchIndex": n / 2,
            "url": format!("/files/images/{id}"), "mimeType": "image/svg+xml", "width": 640, "height": 480,
            "seed": 100 + n, "prompt": payload["prompt"], "model": null, "createdAt": image["createdAt"],
        });
        assert_eq!(*image, expected);
    }
    let page = a.call("imagegen:list-images", Value::Null).await;
    let newest_first: Vec<Value> = images.iter().rev().cloned().collect();
    assert_eq!(page, json!({"images": newest_first, "hasMore": false, "nextBefore": null}));
    let (_, svg) = http(host.port, &format!("GET {}", images[0]["url"].as_str().unwrap()), "").await;
    is_xml(&svg);
    host.close().await;
}

/// A third-party parser reads it.
fn is_xml(svg: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.svg");
    fs::write(&file, svg).unwrap();
    let script = "import sys, xml.dom.minidom as d; print(d.parse(sys.argv[1]).documentElement.tagName)";
    match Command::new("python3").args(["-c", script]).arg(&file).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "svg", "{output:?}"),
        Err(_) => skip::skipped("reading an SVG with Python, which is not installed"),
    }
}

#[tokio::test]
async fn entries_run_in_order_of_creation_whatever_their_group() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let group = client.call("imagegen:create-group", json!({"name": "Seen"})).await;
    assert_eq!((&group["name"], &group["counts"]["queued"]), (&json!("Seen"), &json!(0)));
    let mut entries = Vec::new();
    for n in 0..6 {
        let group = if n % 2 == 0 { json!("default") } else { group["id"].clone() };
        let payload = json!({"prompt": n.to_string(), "groupId": group, "batchCount": 2});
        entries.push(client.call("imagegen:create-entry", payload).await);
    }
    for entry in &entries {
        let (images, _) = follow(&mut client, entry, &[0, 1]).await;
        assert!(images.iter().all(|image| image["groupId"] == entry["groupId"]));
    }
    let listed = client.call("imagegen:list-entries", json!({"groupId": group["id"]})).await;
    let listed: Vec<&Value> = listed.as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!(listed, [&entries[5]["id"], &entries[3]["id"], &entries[1]["id"]], "last made first");
    let page = json!({"groupId": group["id"], "limit": 1, "before": entries[5]["id"]});
    let listed = client.call("imagegen:list-entries", page).await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &entries[3]["id"]));
    let groups = client.call("imagegen:list-groups", Value::Null).await;
    assert_eq!((&groups[1]["id"], &groups[1]["counts"]["completed"]), (&group["id"], &json!(3)));
    host.close().await;
}

#[tokio::test]
async fn cancelling_an_entry_keeps_the_images_already_made() {
    let mut upstream = Upstream::start(vec![
        vec![Step::Send(images(&[PNG]))],
        vec![Step::Hold],
        vec![Step::Send(images(&[PNG]))],
    ])
    .await;
    let (host, mut client) = host_at(&upstream).await;
    let mut payload = ask("openai");
    payload["batchCount"] = json!(3);
    let running = client.call("imagegen:create-entry", payload).await;
    let waiting = client.call("imagegen:create-entry", ask("openai")).await;
    let next = client.call("imagegen:create-entry", ask("openai")).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    client.event("imagegen:batch-completed").await;
    client.event("imagegen:batch-started").await;
    asked(&mut client, &upstream, 2).await;

    // A waiting entry has no job that could end.
    let cancelled = client.call("imagegen:cancel-entry", json!({"id": waiting["id"]})).await;
    assert_eq!((&cancelled["status"], &cancelled["jobId"]), (&json!("cancelled"), &Value::Null));
    assert!(cancelled["finishedAt"].is_i64());
    assert_eq!(client.kept_events(), 0);

    let cancelled = client.call("imagegen:cancel-entry", json!({"id": running["id"]})).await;
    assert_eq!((&cancelled["status"], &cancelled["batchesDone"]), (&json!("cancelled"), &json!(1)));
    let job = ended(&mut client).await;
    assert_eq!(
        (&job["id"], &job["status"], &job["error"]),
        (&cancelled["jobId"], &json!("cancelled"), &Value::Null)
    );
    upstream.closed.recv().await.unwrap();
    let (made, _) = follow(&mut client, &next, &[0]).await;

    // A finished entry stays finished: cancelling it again returns its state.
    for ended in [&running, &waiting, &next] {
        let before = entry(&mut client, &ended["id"]).await;
        assert_eq!(client.call("imagegen:cancel-entry", json!({"id": ended["id"]})).await, before);
    }
    let page = client.call("imagegen:list-images", json!({"entryId": running["id"]})).await;
    assert_eq!(page["images"].as_array().unwrap().len(), 1, "the finished batch stays");
    assert_eq!((host_files(&host).len(), made.len()), (2, 1));
    let counts = client.call("imagegen:list-groups", Value::Null).await[0]["counts"].clone();
    assert_eq!(counts, json!({"queued": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 2}));
    assert_eq!(upstream.requests().len(), 3);
    assert_eq!(client.kept_events(), 0);
    host.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let groups = client.call("imagegen:list-groups", Value::Null).await;
    let with = |name: &str, value: Value| {
        let mut payload = json!({"prompt": "x", "groupId": "default"});
        payload[name] = value;
        payload
    };
    let mut cases = vec![
        ("imagegen:list-groups", json!([]), "payload"),
        ("imagegen:list-groups", json!("x"), "payload"),
        ("imagegen:list-groups", json!(1), "payload"),
        ("imagegen:list-groups", json!(true), "payload"),
        ("imagegen:list-groups", json!([{}]), "payload"),
        ("imagegen:create-group", Value::Null, "name"),
        ("imagegen:create-group", json!({"name": ""}), "name"),
        ("imagegen:create-group", json!({"name": 1}), "name"),
        ("imagegen:create-group", json!({"name": null}), "name"),
        ("imagegen:create-group", json!({"name": "x".repeat(1025)}), "name"),
        ("imagegen:create-group", json!(["x"]), "payload"),
        ("imagegen:list-entries", Value::Null, "groupId"),
        ("imagegen:list-entries", json!({"groupId": 1}), "groupId"),
        ("imagegen:list-entries", json!({"groupId": "unknown"}), "groupId"),
        ("imagegen:list-entries", json!({"groupId": "default", "limit": 0}), "limit"),
        ("imagegen:list-entries", json!({"groupId": "default", "limit": 501}), "limit"),
        ("imagegen:list-entries", json!({"groupId": "default", "before": "unknown"}), "before"),
        ("imagegen:cancel-entry", Value::Null, "id"),
        ("imagegen:cancel-entry", json!({"id": 7}), "id"),
        ("imagegen:cancel-entry", json!({"id": ""}), "id"),
        ("imagegen:cancel-entry", json!({"id": "unknown"}), "id"),
        ("imagegen:cancel-entry", json!({"id": "x".repeat(129)}), "id"),
        ("imagegen:cancel-entry", json!([]), "payload"),
        ("imagegen:list-images", json!([]), "payload"),
        ("imagegen:list-images", json!({"groupId": "unknown"}), "groupId"),
        ("imagegen:list-images", json!({"entryId": "unknown"}), "entryId"),
        ("imagegen:list-images", json!({"before": "unknown"}), "before"),
        ("imagegen:list-images", json!({"query": 1}), "query"),
        ("imagegen:list-images", json!({"query": "x".repeat(1025)}), "query"),
        ("imagegen:list-images", json!({"from": "today"}), "from"),
        ("imagegen:list-images", json!({"to": -1}), "to"),
        ("imagegen:list-images", json!({"limit": 501}), "limit"),
        ("imagegen:create-entry", Value::Null, "prompt"),
        ("imagegen:create-entry", json!("x"), "payload"),
    ];
    for (name, values) in [
        ("prompt", vec![json!(""), json!(1), json!("x".repeat((32 << 10) + 1))]),
        ("negativePrompt", vec![json!(1), json!("x".repeat((32 << 10) + 1))]),
        ("groupId", vec![json!("unknown"), json!(1)]),
        ("provider", vec![json!("unknown"), json!(1)]),
        ("model", vec![json!(""), json!("x".repeat(257))]),
        ("width", vec![json!(56), json!(65), json!(4104), json!("64"), json!(64.5)]),
        ("height", vec![json!(0), json!(-64), json!(100), json!(1e9)]),
        ("batchSize", vec![json!(0), json!(11), json!("1")]),
        ("batchCount", vec![json!(0), json!(101), json!(1.5)]),
        ("steps", vec![json!(0), json!(1001)]),
        ("cfgScale", vec![json!(-0.1), json!(101), json!("7")]),
        ("seed", vec![json!(-1), json!(4_294_967_296_i64), json!("1")]),
        ("params", vec![json!([]), json!("{}"), json!({"x": "x".repeat(64 << 10)})]),
    ] {
        cases.extend(values.into_iter().map(|value| ("imagegen:create-entry", with(name, value), name)));
    }
    for (channel, payload, path) in cases {
        client.refuse_member(channel, payload, path).await;
    }
    assert_eq!(client.call("imagegen:list-groups", Value::Null).await, groups);
    assert_eq!(client.kept_events(), 0, "a refused request emits nothing");
    host.close().await;
}

#[tokio::test]
async fn values_at_their_limits_are_accepted() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let params = json!({"x": "x".repeat((64 << 10) - 8)});
    assert_eq!(params.to_string().len(), 64 << 10);
    let payload = json!({"prompt": "x".repeat(32 << 10), "negativePrompt": "x".repeat(32 << 10), "width": 4096, "height": 64,
        "batchSize": 10, "model": "x".repeat(256), "seed": 4_294_967_295_i64, "steps": 1000, "cfgScale": 100, "params": params});
    let queued = client.call("imagegen:create-entry", payload).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    assert_eq!(made[9]["seed"], 4_294_967_304_i64);
    client.call("imagegen:create-group", json!({"name": "x".repeat(1024)})).await;
    host.close().await;
}

#[tokio::test]
async fn a_full_queue_or_gallery_refuses_more() {
    let go_on = Arc::new(Notify::new());
    let upstream = Upstream::start(vec![
        vec![Step::Await(go_on.clone()), Step::Send(images(&[PNG]))],
        vec![Step::Send(images(&[PNG]))],
        vec![Step::Send(images(&[PNG]))],
    ])
    .await;
    let host = host_with(|config| {
        (config.max_queued, config.max_groups, config.max_total_bytes) = (2, 2, 150);
    })
    .await;
    let (mut client, mut other) = (Client::connect(host.port).await, Client::connect(host.port).await);
    point_at(&mut client, "openai", &upstream.url).await;
    let first = client.call("imagegen:create-entry", ask("openai")).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    client.call("imagegen:create-entry", ask("openai")).await;
    let error = client.refuse("imagegen:create-entry", ask("openai")).await;
    assert_eq!(error["message"], "queued entries of one client: limit of 1 reached");
    other.call("imagegen:create-entry", ask("openai")).await;
    for client in [&mut client, &mut other] {
        let error = client.refuse("imagegen:create-entry", ask("openai")).await;
        assert_eq!(error["message"], "queued entries: limit of 2 reached");
    }
    client.call("imagegen:create-group", json!({"name": "x"})).await;
    let error = client.refuse("imagegen:create-group", json!({"name": "y"})).await;
    assert_eq!(error["message"], "groups: limit of 2 reached");
    go_on.notify_one();
    let completed = client.event("imagegen:batch-completed").await;
    assert_eq!(completed["images"][0]["entryId"], first["id"]);
    assert_eq!(ended(&mut client).await["status"], "completed");
    // 70 bytes are used and 150 are allowed: the second image fits, the third does not.
    for status in ["completed", "failed"] {
        client.event("imagegen:job-created").await;
        client.event("imagegen:batch-started").await;
        if status == "completed" {
            client.event("imagegen:batch-completed").await;
        }
        assert_eq!(ended(&mut client).await["status"], status);
    }
    assert_eq!(host_files(&host).len(), 2);
    host.close().await;
}
