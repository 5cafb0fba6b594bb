//! The channel family `settings`.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::host::Host;

#[tokio::test]
async fn a_changed_setting_is_emitted_once_to_every_client() {
    let host = Host::new().await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);
    let defaults = a.call("settings:get-all", Value::Null).await;
    assert_eq!(defaults["theme"], "system");
    assert_eq!(a.call("settings:get", json!({"key": "theme"})).await, "system");
    assert_eq!(a.call("settings:get", json!({"key": "nothing"})).await, Value::Null);

    let response = a.respond("settings:set", json!({"key": "theme", "value": "dark"})).await;
    assert!(response.get("payload").is_none() && response.get("error").is_none(), "{response}");
    assert_eq!(b.event("settings:changed").await, json!({"key": "theme", "value": "dark"}));
    a.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    a.call("settings:set", json!({"key": "language", "value": "en"})).await;

    let updated =
        a.call("settings:update", json!({"theme": "dark", "z": {"b": 1, "a": [1.0]}, "a": null})).await;
    assert_eq!((&updated["z"], &updated["a"]), (&json!({"b": 1, "a": [1.0]}), &Value::Null));
    assert_eq!(b.event("settings:changed").await, json!({"key": "a", "value": null}));
    assert_eq!(b.event("settings:changed").await, json!({"key": "z", "value": {"b": 1, "a": [1.0]}}));

    a.call("settings:reset", json!({"key": "z"})).await;
    assert_eq!(b.event("settings:changed").await, json!({"key": "z", "value": null}));
    assert_eq!(a.call("settings:reset", Value::Null).await, defaults);
    assert_eq!(b.event("settings:changed").await, json!({"key": "a", "value": null}));
    assert_eq!(b.event("settings:changed").await, json!({"key": "theme", "value": "system"}));
    // Nothing else was emitted: the next message of B is its own response.
    b.call("system:ping", Value::Null).await;
    assert_eq!(b.kept_events(), 0);
    host.close().await;
}

/// An object with this many keys.
fn keys(count: u32) -> Value {
    (0..count).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let before = client.call("settings:get-all", Value::Null).await;
    for (channel, payload, path) in [
        ("settings:get", json!({}), "key"),
        ("settings:set", json!({"key": "theme"}), "value"),
        ("settings:set", json!({"key": "theme", "value": "pink"}), "value"),
        ("settings:set", json!({"key": "", "value": 1}), "key"),
        ("settings:set", json!({"key": "k".repeat(257), "value": 1}), "key"),
        ("settings:set", json!({"key": "x", "value": "x".repeat(64 << 10)}), "value"),
        ("settings:update", json!({"x": 1, "theme": "pink"}), "theme"),
        ("settings:update", json!({"x": 1, "": 2}), "payload"),
        ("settings:update", keys(1011), "payload"),
        ("settings:reset", json!({"key": 1}), "key"),
    ] {
        client.refuse_member(channel, payload, path).await;
    }
    assert_eq!(client.call("settings:get-all", Value::Null).await, before);
    assert_eq!(client.kept_events(), 0, "a refused request emits nothing");
    host.close().await;
}

#[tokio::test]
async fn values_at_their_limits_are_accepted() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let value = json!("x".repeat((64 << 10) - 2));
    client.call("settings:set", json!({"key": "k".repeat(256), "value": value})).await;
    assert_eq!(client.call("settings:get", json!({"key": "k".repeat(256)})).await, value);
    client.call("settings:update", keys(999)).await;
    // The next one is too many, whatever known keys are set.
    let error = client.refuse("settings:update", keys(1000)).await;
    assert!(error["details"]["got"].as_str().unwrap().starts_with("1001 keys and "), "{error}");
    client.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    client.refuse("settings:set", json!({"key": "one.more", "value": 1})).await;
    // So many are refused before any is tried, because trying would delay other clients.
    let error = client.refuse("settings:update", keys(2000)).await;
    assert_eq!(error["details"]["got"], "2000 keys");
    host.close().await;
}
