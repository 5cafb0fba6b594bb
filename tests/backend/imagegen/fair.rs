//! The queue among several clients.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::setup::*;
use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::upstream::{Step, Upstream};

fn named(prompt: &str, batches: u32) -> Value {
    json!({"prompt": prompt, "provider": "openai", "batchCount": batches})
}

/// An upstream that makes an image for each of so many requests. It answers the first one when it is notified.
async fn upstream(count: usize) -> (Upstream, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let image = Step::Send(images(&[PNG]));
    let first = vec![Step::Await(go_on.clone()), image.clone()];
    let rest = std::iter::repeat_n(vec![image], count - 1);
    (Upstream::start(std::iter::once(first).chain(rest).collect()).await, go_on)
}

/// The prompts of the batches in the order in which they were made.
async fn prompts(client: &mut Client, upstream: &Upstream, count: usize) -> String {
    asked(client, upstream, count).await;
    let prompt = |request: &String| {
        let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["prompt"].as_str().unwrap().to_owned()
    };
    upstream.requests().iter().map(prompt).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn one_image_of_a_client_does_not_wait_for_all_images_of_another() {
    let (upstream, go_on) = upstream(12).await;
    let (host, mut busy) = host_at(&upstream).await;
    let mut others = [Client::connect(host.port).await, Client::connect(host.port).await];
    let mut witness = Client::connect(host.port).await;
    let first = busy.call("imagegen:create-entry", named("a", 4)).await;
    for prompt in ["b", "c", "d", "e"] {
        busy.call("imagegen:create-entry", named(prompt, 1)).await;
    }
    asked(&mut busy, &upstream, 1).await;
    others[0].call("imagegen:create-entry", named("x", 2)).await;
    others[0].call("imagegen:create-entry", named("y", 1)).await;
    others[1].call("imagegen:create-entry", named("z", 1)).await;
    go_on.notify_one();
    // The entries of one client are made in their order, and its batches alternate with those of the others.
    assert_eq!(prompts(&mut busy, &upstream, 12).await, "a x z a x a y a b c d e");
    // An entry is running from its first to its last batch.
    let mut statuses = Vec::new();
    while statuses.len() < 2 {
        let mut event = witness.next().await.unwrap();
        if event["payload"]["job"]["entryId"] == first["id"] {
            statuses.push(event["payload"]["job"]["status"].take());
        }
    }
    assert_eq!(statuses, ["running", "completed"]);
    host.close().await;
}

#[tokio::test]
async fn an_entry_can_be_cancelled_between_two_of_its_batches() {
    let (upstream, go_on) = upstream(4).await;
    let (host, mut busy) = host_at(&upstream).await;
    let mut other = Client::connect(host.port).await;
    other.call("imagegen:create-entry", named("x", 2)).await;
    asked(&mut other, &upstream, 1).await;
    let waits = busy.call("imagegen:create-entry", named("a", 5)).await;
    let next = busy.call("imagegen:create-entry", named("b", 1)).await;
    go_on.notify_one();
    // After the first batch of `a` it is the turn of `x` again, and meanwhile `a` has no batch at work.
    while entry(&mut busy, &waits["id"]).await["batchesDone"] == json!(0) {}
    let cancelled = busy.call("imagegen:cancel-entry", json!({"id": waits["id"]})).await;
    assert_eq!(cancelled["status"], "cancelled");
    while entry(&mut busy, &next["id"]).await["status"] != "completed" {}
    let made =
        upstream.requests().iter().filter(|request| request.contains("\"prompt\":\"a\"")).count() as i64;
    let done = entry(&mut busy, &waits["id"]).await["batchesDone"].as_i64().unwrap();
    assert!(done <= made && made <= done + 1, "a batch at work ends with its entry");
    let counts = busy.call("imagegen:list-groups", Value::Null).await[0]["counts"].clone();
    assert_eq!(
        (&counts["running"], &counts["queued"], &counts["cancelled"]),
        (&json!(0), &json!(0), &json!(1))
    );
    host.close().await;
}

#[tokio::test]
async fn clients_that_have_left_share_one_turn() {
    let (upstream, go_on) = upstream(8).await;
    let (host, mut client) = host_at(&upstream).await;
    client.call("imagegen:create-entry", named("0", 1)).await;
    asked(&mut client, &upstream, 1).await;
    for n in 1..6 {
        let mut other = Client::connect(host.port).await;
        other.call("imagegen:create-entry", named(&n.to_string(), 1)).await;
    }
    while host.server.client_ids().len() > 1 {
        client.call("system:ping", Value::Null).await;
    }
    client.call("imagegen:create-entry", named("x", 2)).await;
    go_on.notify_one();
    assert_eq!(prompts(&mut client, &upstream, 8).await, "0 1 x 2 x 3 4 5");
    host.close().await;
}

#[tokio::test]
async fn after_a_restart_what_was_queued_before_counts_as_of_one_client() {
    let (held, _) = upstream(1).await;
    let (host, mut a) = host_at(&held).await;
    let mut b = Client::connect(host.port).await;
    for (client, prompt) in [(&mut a, "a"), (&mut b, "b")] {
        client.call("imagegen:create-entry", named(prompt, 2)).await;
    }
    asked(&mut a, &held, 1).await;
    let (upstream, go_on) = upstream(6).await;
    let setting = json!({"key": "imagegen.openai.baseUrl", "value": upstream.url});
    a.call("settings:set", setting).await;
    drop((a, b));
    let host = Host::open(host.close().await, |_, _| {}).await;
    let mut c = Client::connect(host.port).await;
    asked(&mut c, &upstream, 1).await;
    c.call("imagegen:create-entry", named("c", 2)).await;
    go_on.notify_one();
    assert_eq!(prompts(&mut c, &upstream, 6).await, "a c a c b b");
    host.close().await;
}
