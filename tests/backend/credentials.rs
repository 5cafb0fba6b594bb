//! Credentials over a real socket, on a real database file: no response contains a stored token.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::program;
use serde_json::{Value, json};

const TOKEN: &str = "sk-correct-horse-battery-staple";
const KEY_FILE: &str = "data/switchboard.key";

/// The files below a folder that contain these bytes.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if fs::read(&path).unwrap().windows(needle.len()).any(|bytes| bytes == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn every_client_sees_a_credential_from_set_to_delete() {
    let host = Host::new().await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);
    assert_eq!(a.call("credentials:list", Value::Null).await, json!([]));
    let none = json!({"exists": false, "metadata": null});
    assert_eq!(a.call("credentials:get", json!({"key": "anthropic"})).await, none);

    let metadata = json!({"label": "Work", "n": 1.0});
    let given = json!({"key": "anthropic", "token": TOKEN, "metadata": metadata});
    let response = a.respond("credentials:set", given).await;
    assert!(response.get("payload").is_none() && response.get("error").is_none(), "{response}");
    assert_eq!(b.event("credentials:changed").await, json!({"key": "anthropic", "exists": true}));
    a.call("credentials:set", json!({"key": "\"", "token": "x"})).await;
    assert_eq!(b.event("credentials:changed").await, json!({"key": "\"", "exists": true}));
    assert_eq!(a.call("credentials:list", Value::Null).await, json!(["\"", "anthropic"]));
    let credential = a.call("credentials:get", json!({"key": "anthropic"})).await;
    assert_eq!(credential, json!({"exists": true, "metadata": metadata}));

    // A second one replaces the first, with its metadata.
    a.call("credentials:set", json!({"key": "anthropic", "token": "y"})).await;
    assert_eq!(b.event("credentials:changed").await, json!({"key": "anthropic", "exists": true}));
    let credential = a.call("credentials:get", json!({"key": "anthropic"})).await;
    assert_eq!(credential, json!({"exists": true, "metadata": null}));

    assert_eq!(a.call("credentials:delete", json!({"key": "anthropic"})).await, json!(true));
    assert_eq!(b.event("credentials:changed").await, json!({"key": "anthropic", "exists": false}));
    assert_eq!(a.call("credentials:delete", json!({"key": "anthropic"})).await, json!(false));
    assert_eq!(a.call("credentials:get", json!({"key": "anthropic"})).await, none);
    b.call("system:ping", Value::Null).await;
    assert_eq!(b.kept_events(), 0);
    host.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    for (channel, payload, path) in [
        ("credentials:list", json!([]), "payload"),
        ("credentials:get", Value::Null, "key"),
        ("credentials:get", json!({"key": 1}), "key"),
        ("credentials:get", json!({"key": ""}), "key"),
        ("credentials:get", json!({"key": "k".repeat(257)}), "key"),
        ("credentials:get", json!("anthropic"), "payload"),
        ("credentials:delete", json!({}), "key"),
        ("credentials:delete", json!({"key": null}), "key"),
        ("credentials:delete", json!({"key": ["x"]}), "key"),
        ("credentials:delete", json!([TOKEN]), "payload"),
        ("credentials:delete", json!({"key": {}}), "key"),
        ("credentials:set", json!({"token": TOKEN}), "key"),
        ("credentials:set", json!({"key": "k", "token": [TOKEN]}), "token"),
        ("credentials:set", json!({"key": "k", "token": {"token": TOKEN}}), "token"),
        ("credentials:set", json!({"key": "k", "token": ""}), "token"),
        ("credentials:set", json!({"key": "k", "token": TOKEN.repeat(1000)}), "token"),
        ("credentials:set", json!({"key": "k"}), "token"),
        ("credentials:set", json!({"key": "k", "token": TOKEN, "metadata": [TOKEN]}), "metadata"),
        (
            "credentials:set",
            json!({"key": "k", "token": TOKEN, "metadata": {"x": "x".repeat(64 << 10)}}),
            "metadata",
        ),
        ("credentials:set", json!({"key": [TOKEN], "token": TOKEN}), "key"),
        ("credentials:set", json!({"key": "k", "token": TOKEN, "origin": ""}), "origin"),
        ("credentials:set", json!({"key": "k", "token": TOKEN, "origin": TOKEN}), "origin"),
        (
            "credentials:set",
            json!({"key": "k", "token": TOKEN, "origin": format!("https://{TOKEN}@a")}),
            "origin",
        ),
        ("credentials:set", json!({"key": "k", "token": TOKEN, "origin": "x".repeat(2049)}), "origin"),
    ] {
        let error = client.refuse_member(channel, payload, path).await;
        assert!(!error.to_string().contains(TOKEN), "{error}");
    }
    assert_eq!(client.call("credentials:list", Value::Null).await, json!([]));
    assert_eq!(client.kept_events(), 0, "a refused request emits nothing");
    assert!(!host.folder.path().join(KEY_FILE).exists(), "a refused request creates no key file");
    host.close().await;
}

#[tokio::test]
async fn no_file_and_no_response_contains_the_token() {
    let host = Host::new().await;
    let (mut a, mut witness) = (Client::connect(host.port).await, Client::connect(host.port).await);
    a.call("credentials:set", json!({"key": "anthropic", "token": TOKEN, "metadata": {"m": "findable"}}))
        .await;
    let mut seen = witness.event("credentials:changed").await.to_string();
    for (channel, payload) in [
        ("credentials:list", Value::Null),
        ("credentials:get", json!({"key": "anthropic"})),
        ("settings:get-all", Value::Null),
        ("system:stats", Value::Null),
        ("system:channels", Value::Null),
    ] {
        seen += &a.respond(channel, payload).await.to_string();
    }
    seen += &format!("{:?} {:?}", host.backend, host.server);
    assert!(!seen.contains(TOKEN), "{seen}");
    // First in the write-ahead log, then in the database file after a checkpoint.
    for _ in 0..2 {
        let folder = host.folder.path();
        assert!(!files_with(folder, b"findable").is_empty(), "the search finds what is not sealed");
        assert_eq!(files_with(folder, TOKEN.as_bytes()), [""; 0]);
        host.server.stop().await;
        host.backend.close().await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn the_key_file_is_readable_by_its_owner_only_and_stays_the_same() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new().await;
    let key_file = host.folder.path().join(KEY_FILE);
    let mut client = Client::connect(host.port).await;
    client.call("credentials:set", json!({"key": "a", "token": TOKEN})).await;
    let key = fs::read(&key_file).unwrap();
    assert_eq!(key.len(), 32);
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    client.call("credentials:set", json!({"key": "b", "token": TOKEN})).await;
    let host = Host::open(host.close().await, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    client.call("credentials:set", json!({"key": "c", "token": TOKEN})).await;
    assert_eq!(fs::read(&key_file).unwrap(), key);
    let names: Vec<_> = fs::read_dir(host.folder.path().join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("key"))
        .collect();
    assert_eq!(names, ["switchboard.key"], "nothing temporary is left");
    host.close().await;
}

#[tokio::test]
async fn a_missing_or_wrong_key_file_is_an_error_and_stays_unchanged() {
    let host = Host::new().await;
    let key_file = host.folder.path().join(KEY_FILE);
    let mut client = Client::connect(host.port).await;
    let set = json!({"key": "other", "token": TOKEN});
    client.call("credentials:set", json!({"key": "anthropic", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    let key = fs::read(&key_file).unwrap();
    for (content, says) in [
        (None, "is missing"),
        (Some(vec![7; 32]), "is not the key"),
        (Some(vec![]), "expected 32 bytes, got 0"),
        (Some(vec![7; 31]), "expected 32 bytes, got 31"),
        (Some(vec![7; 33]), "expected 32 bytes, got more"),
    ] {
        match &content {
            None => fs::remove_file(&key_file).unwrap(),
            Some(bytes) => fs::write(&key_file, bytes).unwrap(),
        }
        let error = client.refuse("credentials:set", set.clone()).await["message"].clone();
        let error = error.as_str().unwrap();
        assert!(error.contains(says) && error.contains("switchboard.key"), "{error}");
        assert_eq!(fs::read(&key_file).ok(), content);
        // Requests that need no token still work.
        assert_eq!(client.call("credentials:list", Value::Null).await, json!(["anthropic"]));
    }
    fs::write(&key_file, key).unwrap();
    client.call("credentials:set", set).await;
    host.close().await;
}

#[tokio::test]
async fn at_most_a_thousand_credentials_are_stored() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let mut last = String::new();
    for n in 0..1000 {
        last = client.send("credentials:set", json!({"key": format!("k{n}"), "token": "x"})).await;
    }
    while client.next().await.unwrap()["id"] != last.as_str() {}
    let error = client.refuse("credentials:set", json!({"key": "one more", "token": "x"})).await;
    assert_eq!(error["details"]["path"], "key");
    client.call("credentials:set", json!({"key": "k0", "token": "y"})).await;
    assert_eq!(client.call("credentials:list", Value::Null).await.as_array().unwrap().len(), 1000);
    host.close().await;
}

#[test]
fn the_command_prints_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let program = program::Program::start(&folder.path().join("data"));
    let url = format!("ws://localhost:{}", program.port);
    let payload = json!({"key": "k", "token": TOKEN}).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args(["call", &url, "credentials:set", &payload])
        .env_remove("SWITCHBOARD_TOKEN")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let (_, said) = program.stop("-INT");
    assert!(!said.contains(TOKEN));
    assert_eq!(files_with(folder.path(), TOKEN.as_bytes()), [""; 0]);
}
