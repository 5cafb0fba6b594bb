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
