//! Places for requests to providers, among several clients.

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;

use super::setup::*;
use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::upstream::{Step, Upstream};

async fn host_with_places(max_concurrent: usize) -> Host {
    host_with(AiConfig { max_concurrent, ..AiConfig::default() }).await
}

/// Waits until an upstream has received this many requests.
async fn asked(client: &mut Client, upstream: &Upstream, times: usize) {
    while upstream.requests().len() < times {
        client.call("system:ping", Value::Null).await;
    }
}

#[tokio::test]
async fn one_client_does_not_hold_all_places_and_leaving_frees_those_it_has() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold]; 4]).await;
    let host = host_with_places(3).await;
    let (mut busy, mut other) =
        (client_of(&host, "anthropic", &upstream).await, Client::connect(host.port).await);
    for _ in 0..8 {
        busy.send("ai:chat", ask()).await;
    }
    asked(&mut other, &upstream, 2).await;
    // The third place is left for another client, which has it at once.
    other.send("ai:chat", ask()).await;
    asked(&mut other, &upstream, 3).await;
    // A client that leaves takes its requests with it, those that wait too.
    let mut late = Client::connect(host.port).await;
    late.send("ai:chat", ask()).await;
    late.call("system:ping", Value::Null).await;
    assert_eq!(upstream.requests().len(), 3);
    drop(busy);
    upstream.closed.recv().await.unwrap();
    upstream.closed.recv().await.unwrap();
    asked(&mut late, &upstream, 4).await;
    late.call("system:ping", Value::Null).await;
    assert_eq!(upstream.requests().len(), 4, "the six that waited are never sent");
    host.close().await;
}

#[tokio::test]
async fn lists_of_models_take_places_too_unless_they_need_no_request() {
    let upstream = Upstream::start(vec![vec![Step::Hold]]).await;
    let host = host_with_places(1).await;
    let (mut busy, mut other) =
        (client_of(&host, "anthropic", &upstream).await, Client::connect(host.port).await);
    busy.send("ai:models", json!({"provider": "anthropic"})).await;
    asked(&mut other, &upstream, 1).await;
    let waits = other.send("ai:models", json!({"provider": "anthropic"})).await;
    // Neither a provider without a key nor the built-in one waits for a place.
    for provider in ["openai", "echo"] {
        let models = other.call("ai:models", json!({"provider": provider})).await;
        assert!(models.as_array().is_some_and(|models| !models.is_empty()), "{models}");
    }
    assert_eq!(other.call("ai:chat", question("echo", "echo", "x")).await["content"], "x");
    assert_eq!(upstream.requests().len(), 1);
    drop(busy);
    // The provider's next answer is not a list.
    while other.next().await.unwrap()["id"] != waits.as_str() {}
    assert_eq!(upstream.requests().len(), 2);
    host.close().await;
}

#[tokio::test]
async fn a_key_that_is_deleted_during_the_wait_is_not_sent() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold]]).await;
    let host = host_with_places(1).await;
    let (mut busy, mut other) =
        (client_of(&host, "anthropic", &upstream).await, Client::connect(host.port).await);
    busy.send("ai:chat", ask()).await;
    asked(&mut other, &upstream, 1).await;
    let waits = other.send("ai:chat", ask()).await;
    other.call("system:ping", Value::Null).await;
    other.call("credentials:delete", json!({"key": "anthropic"})).await;
    drop(busy);
    upstream.closed.recv().await.unwrap();
    while other.next().await.unwrap()["id"] != waits.as_str() {}
    let requests = upstream.requests();
    assert!(
        requests.len() == 2 && requests[0].contains(TOKEN) && !requests[1].contains(TOKEN),
        "{requests:?}"
    );
    host.close().await;
}
