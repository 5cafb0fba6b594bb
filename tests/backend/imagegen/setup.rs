//! Servers, scripted upstreams, and the events of an entry.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::imagegen::ImagegenConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::upstream::{Upstream, status};

pub(super) const TOKEN: &str = "sk-correct-horse-battery-staple";
/// A PNG of one pixel.
pub(super) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

pub(super) async fn host_with(adjust: impl FnOnce(&mut ImagegenConfig)) -> Host {
    Host::open(tempfile::tempdir().unwrap(), |backend, _| {
        backend.imagegen.retry_pause = Duration::from_millis(1);
        adjust(&mut backend.imagegen);
    })
    .await
}

pub(super) async fn new_host() -> Host {
    host_with(|_| {}).await
}

pub(super) async fn point_at(client: &mut Client, provider: &str, url: &str) {
    let setting = json!({"key": format!("imagegen.{provider}.baseUrl"), "value": url});
    client.call("settings:set", setting).await;
    client.event("settings:changed").await;
}

/// A host whose `openai` is the upstream, and a client.
pub(super) async fn host_at(upstream: &Upstream) -> (Host, Client) {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &format!("{}/v1", upstream.url)).await;
    (host, client)
}

/// An answer of OpenAI with these images.
pub(super) fn images(texts: &[&str]) -> Vec<u8> {
    let data: Vec<Value> = texts.iter().map(|text| json!({"b64_json": text})).collect();
    ok(&json!({"created": 1, "data": data}))
}

pub(super) fn ok(body: &Value) -> Vec<u8> {
    status("200 OK", "content-type: application/json\r\n", &body.to_string())
}

pub(super) fn ask(provider: &str) -> Value {
    json!({"prompt": "A lake at dawn", "provider": provider})
}

/// The events of one job, in order and no others: the images of each batch, and the finished job.
pub(super) async fn follow(client: &mut Client, entry: &Value, batches: &[i64]) -> (Vec<Value>, Value) {
    let created = client.event("imagegen:job-created").await;
    let job_id = &created["jobId"];
    assert_eq!((&created["job"]["entryId"], &created["job"]["status"]), (&entry["id"], &json!("running")));
    assert_eq!(&created["job"]["id"], job_id);
    let mut all = Vec::new();
    for index in batches {
        let started = client.event("imagegen:batch-started").await;
        assert_eq!(started, json!({"jobId": job_id, "batchIndex": index}));
        let mut completed = client.event("imagegen:batch-completed").await;
        assert_eq!((&completed["jobId"], &completed["batchIndex"]), (job_id, &json!(index)));
        let Value::Array(images) = completed["images"].take() else { panic!("{completed}") };
        assert_eq!(images.len() as i64, entry["batchSize"]);
        all.extend(images);
    }
    let ended = ended(client).await;
    assert_eq!(&ended["id"], job_id);
    (all, ended)
}

/// The job of the next event, which must be the end of a job.
pub(super) async fn ended(client: &mut Client) -> Value {
    let mut completed = client.event("imagegen:job-completed").await;
    assert_eq!(completed["jobId"], completed["job"]["id"]);
    completed["job"].take()
}

/// Creates an entry of one batch that must fail, and returns the error.
pub(super) async fn failure(client: &mut Client, payload: Value) -> String {
    client.call("imagegen:create-entry", payload).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    let job = ended(client).await;
    assert_eq!(job["status"], "failed");
    job["error"].as_str().unwrap().to_owned()
}

/// Waits until an upstream has received this many requests. A batch starts before its request.
pub(super) async fn asked(client: &mut Client, upstream: &Upstream, times: usize) {
    while upstream.requests().len() < times {
        client.call("system:ping", Value::Null).await;
    }
}

/// The entry as it is now.
pub(super) async fn entry(client: &mut Client, id: &Value) -> Value {
    let entries = client.call("imagegen:list-entries", json!({"groupId": "default"})).await;
    entries.as_array().unwrap().iter().find(|entry| entry["id"] == *id).unwrap().clone()
}

/// The names of the image files of a data folder.
pub(super) fn files(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data.join("images")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The ids of images, in the order of files.
pub(super) fn ids(images: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = images.iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

pub(super) fn host_files(host: &Host) -> Vec<String> {
    files(&host.folder.path().join("data"))
}

/// The head and body of the response to an HTTP request.
pub(super) async fn http(port: u16, line: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}
