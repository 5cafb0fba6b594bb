//! Credentials of the version before origins: their tokens were encrypted alone.

use std::fs;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use switchboard::backend::db::{Db, DbLimits};

use super::setup::*;
use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::upstream::{Step, Upstream};

/// The tables of version 7.
const VERSION_7: [&str; 7] = [
    include_str!("../../../src/backend/families/chat/tables.sql"),
    include_str!("../../../src/backend/families/settings/tables.sql"),
    include_str!("../../../src/backend/families/code/tables.sql"),
    include_str!("../../../src/backend/families/credentials/tables.sql"),
    include_str!("../../../src/backend/families/artifact/tables.sql"),
    include_str!("../../../src/backend/families/imagegen/tables.sql"),
    include_str!("../../../src/backend/families/analytics/tables.sql"),
];
const KEY: [u8; 32] = [5; 32];

/// Encrypts a token as the version before did.
fn seal(name: &str, token: &str) -> Vec<u8> {
    let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).unwrap());
    let (nonce, mut sealed) = ([name.len() as u8; 12], token.as_bytes().to_vec());
    let unique = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_append_tag(unique, Aad::from(name.as_bytes()), &mut sealed).unwrap();
    [&nonce[..], &sealed].concat()
}

/// Makes a folder with a database of the version before, in which `openai` has this base URL in family `ai`.
async fn old_data(base_url: &str, credentials: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Db::open(&data, &VERSION_7, DbLimits::default()).unwrap().close().await;
    let database = open(folder.path());
    let url = Value::from(base_url).to_string();
    database.execute("INSERT INTO settings VALUES ('ai.openai.baseUrl', ?)", [url]).unwrap();
    for (name, sealed) in credentials {
        database.execute("INSERT INTO credentials VALUES (?, ?, '{}')", params![name, sealed]).unwrap();
    }
    fs::write(data.join("switchboard.key"), KEY).unwrap();
    folder
}

fn open(folder: &Path) -> Connection {
    Connection::open(folder.join("data/switchboard.db")).unwrap()
}

/// What is stored of a credential, and whether its token is still encrypted alone.
fn stored(folder: &Path, name: &str) -> (Vec<u8>, bool) {
    let sql = "SELECT sealed, base_urls NOT NULL FROM credentials WHERE key = ?";
    open(folder).query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Waits until a credential is encrypted with its origins.
async fn converted(client: &mut Client, folder: &Path, name: &str) {
    while stored(folder, name).1 {
        client.call("system:ping", Value::Null).await;
    }
}

fn done() -> Vec<Step> {
    vec![Step::Send(stream(&sse(&[
        json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}),
    ])))]
}

async fn is_refused(client: &mut Client, given_for: &str) {
    let error = client.refuse("ai:chat", question("openai", "m", "x")).await;
    let error = error["message"].as_str().unwrap();
    assert!(error.contains(&format!("given for {given_for} and https://api.openai.com")), "{error}");
}

#[tokio::test]
async fn a_token_of_the_version_before_belongs_to_the_base_url_that_was_set_then() {
    let (ours, theirs) = (Upstream::start(vec![done(), done()]).await, Upstream::start(vec![]).await);
    let foreign = vec![7; 40];
    let credentials =
        [("openai", seal("openai", TOKEN)), ("mine", seal("mine", "x")), ("anthropic", foreign.clone())];
    let mut folder = old_data(&format!("{}/v1", ours.url), &credentials).await;
    for round in 0..2 {
        let host = Host::open(folder, |_, _| {}).await;
        let mut client = Client::connect(host.port).await;
        client.call("ai:chat", question("openai", "m", "x")).await;
        for name in ["openai", "mine"] {
            converted(&mut client, host.folder.path(), name).await;
        }
        point_at(&mut client, "openai", &theirs.url).await;
        is_refused(&mut client, &ours.url).await;
        point_at(&mut client, "openai", &ours.url).await;
        let request = ours.requests().pop().unwrap();
        assert!(
            ours.requests().len() == round + 1 && request.contains(&format!("Bearer {TOKEN}")),
            "{request}"
        );
        // One that cannot be decrypted stays unchanged.
        assert_eq!(stored(host.folder.path(), "anthropic"), (foreign.clone(), true));
        let error = client.refuse("ai:chat", ask()).await;
        assert!(error["message"].as_str().unwrap().contains("is not the key"), "{error}");
        folder = host.close().await;
    }
    assert_eq!(theirs.requests(), [""; 0]);
}

#[tokio::test]
async fn a_base_url_that_changes_while_the_key_file_is_missing_gets_no_token() {
    let (ours, theirs) = (Upstream::start(vec![done(), done()]).await, Upstream::start(vec![]).await);
    let folder = old_data(&ours.url, &[("openai", seal("openai", TOKEN))]).await;
    let key_file = folder.path().join("data/switchboard.key");
    let aside = folder.path().join("aside");
    fs::rename(&key_file, &aside).unwrap();
    let host = Host::open(folder, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &theirs.url).await;
    let error = client.refuse("ai:chat", question("openai", "m", "x")).await;
    assert!(error["message"].as_str().unwrap().contains("is missing"), "{error}");
    // The key file comes back while the server runs, and the token is still encrypted alone.
    fs::rename(&aside, &key_file).unwrap();
    is_refused(&mut client, &ours.url).await;
    assert!(stored(host.folder.path(), "openai").1);
    let host = Host::open(host.close().await, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    is_refused(&mut client, &ours.url).await;
    converted(&mut client, host.folder.path(), "openai").await;
    is_refused(&mut client, &ours.url).await;
    point_at(&mut client, "openai", &ours.url).await;
    client.call("ai:chat", question("openai", "m", "x")).await;
    assert!(ours.requests()[0].contains(&format!("Bearer {TOKEN}")));
    assert_eq!(theirs.requests(), [""; 0]);
    host.close().await;
}

#[tokio::test]
async fn a_token_given_anew_replaces_one_of_the_version_before() {
    let (ours, theirs) = (Upstream::start(vec![]).await, Upstream::start(vec![done()]).await);
    // The first one cannot be converted, so it stays as it is until it is replaced.
    let folder = old_data(&ours.url, &[("openai", vec![7; 40]), ("a", seal("a", "x"))]).await;
    let host = Host::open(folder, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &theirs.url).await;
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    assert!(!stored(host.folder.path(), "openai").1);
    client.call("ai:chat", question("openai", "m", "x")).await;
    assert!(theirs.requests()[0].contains(&format!("Bearer {TOKEN}")));
    assert_eq!(ours.requests(), [""; 0]);
    host.close().await;
}
