//! The image channels over a real socket, on a real database file: the built-in provider, upstreams that play every fault
//! from a script, a server that nobody here wrote, and a program that is killed in mid-job.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use switchboard::backend::imagegen::ImagegenConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::client::Client;
use crate::support::house::House;
use crate::support::mock::Mock;
use crate::support::program::Program;
use crate::support::skip;
use crate::support::upstream::{Step, Upstream, status};

const TOKEN: &str = "sk-correct-horse-battery-staple";
/// A PNG of one pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

async fn house_with(adjust: impl FnOnce(&mut ImagegenConfig)) -> House {
    House::open(tempfile::tempdir().unwrap(), |backend, _| {
        backend.imagegen.retry_pause = Duration::from_millis(1);
        adjust(&mut backend.imagegen);
    })
    .await
}

async fn new_house() -> House {
    house_with(|_| {}).await
}

async fn point_at(client: &mut Client, provider: &str, url: &str) {
    let setting = json!({"key": format!("imagegen.{provider}.baseUrl"), "value": url});
    client.call("settings:set", setting).await;
    client.event("settings:changed").await;
}

/// A house whose `openai` is the upstream, and a client.
async fn house_at(upstream: &Upstream) -> (House, Client) {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, "openai", &format!("{}/v1", upstream.url)).await;
    (house, client)
}

/// An answer of OpenAI's with these images.
fn images(texts: &[&str]) -> Vec<u8> {
    let data: Vec<Value> = texts.iter().map(|text| json!({"b64_json": text})).collect();
    ok(&json!({"created": 1, "data": data}))
}

fn ok(body: &Value) -> Vec<u8> {
    status("200 OK", "content-type: application/json\r\n", &body.to_string())
}

fn ask(provider: &str) -> Value {
    json!({"prompt": "A lake at dawn", "provider": provider})
}

/// The events of one job, in their order and no others: the images of each batch, and the job as it ended.
async fn follow(client: &mut Client, entry: &Value, batches: &[i64]) -> (Vec<Value>, Value) {
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

/// The job of the next event, which must be a job's end.
async fn ended(client: &mut Client) -> Value {
    let mut completed = client.event("imagegen:job-completed").await;
    assert_eq!(completed["jobId"], completed["job"]["id"]);
    completed["job"].take()
}

/// Makes an entry of one batch that must fail: why.
async fn failure(client: &mut Client, payload: Value) -> String {
    client.call("imagegen:create-entry", payload).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    let job = ended(client).await;
    assert_eq!(job["status"], "failed");
    job["error"].as_str().unwrap().to_owned()
}

/// Waits until an upstream was asked so often. A batch is begun before it is asked for.
async fn asked(client: &mut Client, upstream: &Upstream, times: usize) {
    while upstream.requests().len() < times {
        client.call("system:ping", Value::Null).await;
    }
}

/// The entry as it is now.
async fn entry(client: &mut Client, id: &Value) -> Value {
    let entries = client.call("imagegen:list-entries", json!({"groupId": "default"})).await;
    entries.as_array().unwrap().iter().find(|entry| entry["id"] == *id).unwrap().clone()
}

/// The names of the image files of a data folder.
fn files(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data.join("images")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The ids of images, in the order of files.
fn ids(images: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = images.iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn house_files(house: &House) -> Vec<String> {
    files(&house.folder.path().join("data"))
}

/// An HTTP request's head and body.
async fn http(port: u16, line: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

#[tokio::test]
async fn an_entry_lives_from_the_queue_to_the_gallery_and_everyone_sees_it() {
    let house = new_house().await;
    let (mut a, mut b) = (Client::connect(house.port).await, Client::connect(house.port).await);
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
    let (_, svg) = http(house.port, &format!("GET {}", images[0]["url"].as_str().unwrap()), "").await;
    is_xml(&svg);
    house.close().await;
}

/// Whether a program that nobody here wrote reads it.
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
async fn entries_are_taken_in_the_order_in_which_they_were_made_whatever_their_group() {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
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
    house.close().await;
}

#[tokio::test]
async fn an_image_of_openai_is_stored_and_served_byte_by_byte_as_it_came() {
    let jpeg = BASE64.encode(b"\xff\xd8\xff\xe0\0\x04xx\xff\xc0\0\x0b\x08\0\x02\0\x03\x01");
    let upstream = Upstream::start(vec![vec![Step::Trickle(images(&[PNG, &jpeg]))]]).await;
    let (house, mut client) = house_at(&upstream).await;
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    let mut payload = ask("openai");
    payload["batchSize"] = json!(2);
    payload["params"] = json!({"quality": "high"});
    let queued = client.call("imagegen:create-entry", payload).await;
    assert_eq!(queued["model"], "gpt-image-1");
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    assert_eq!(
        (&made[0]["mimeType"], &made[0]["width"], &made[0]["seed"]),
        (&json!("image/png"), &json!(1), &Value::Null)
    );
    assert_eq!(
        (&made[1]["mimeType"], &made[1]["width"], &made[1]["height"]),
        (&json!("image/jpeg"), &json!(3), &json!(2))
    );
    for (image, (text, extension)) in made.iter().zip([(PNG, "png"), (&*jpeg, "jpg")]) {
        let sent = BASE64.decode(text.as_bytes()).unwrap();
        let name = format!("data/images/{}.{extension}", image["id"].as_str().unwrap());
        assert_eq!(fs::read(house.folder.path().join(name)).unwrap(), sent);
        let (head, body) = http(house.port, &format!("GET {}", image["url"].as_str().unwrap()), "").await;
        assert!(head.contains(image["mimeType"].as_str().unwrap()) && body == sent, "{head}");
    }
    let request = &upstream.requests()[0];
    assert!(request.starts_with("POST /v1/images/generations HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {TOKEN}\r\n")));
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = json!({"model": "gpt-image-1", "prompt": "A lake at dawn", "n": 2, "size": "1024x1024", "quality": "high"});
    assert_eq!(body, expected);
    house.close().await;
}

#[tokio::test]
async fn an_image_of_automatic1111_has_the_seed_that_its_info_tells() {
    let info = json!({"all_seeds": [77, 78], "index_of_first_image": 1}).to_string();
    let answer =
        json!({"images": [PNG, PNG, format!("data:image/png;base64,{PNG}")], "parameters": {}, "info": info});
    let upstream = Upstream::start(vec![vec![Step::Send(ok(&answer))]]).await;
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, "automatic1111", &upstream.url).await;
    client.call("credentials:set", json!({"key": "automatic1111", "token": "me:pass"})).await;
    client.event("credentials:changed").await;
    let mut payload = ask("automatic1111");
    payload["batchSize"] = json!(2);
    let queued = client.call("imagegen:create-entry", payload).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    assert_eq!((&made[0]["seed"], &made[1]["seed"]), (&json!(77), &json!(78)));
    let request = &upstream.requests()[0];
    assert!(request.starts_with("POST /sdapi/v1/txt2img HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Basic {}\r\n", BASE64.encode(b"me:pass"))));
    house.close().await;
}

#[tokio::test]
async fn what_fails_in_passing_is_tried_again_and_what_fails_for_good_says_why() {
    let send = |bytes: Vec<u8>| vec![Step::Send(bytes)];
    let late = status("429 Slow down", "retry-after: 0\r\n", "");
    let error =
        json!({"error": {"message": format!("bad size\r\nfor {TOKEN}"), "type": "invalid_request_error"}});
    let mut cut = images(&[PNG]);
    cut.truncate(cut.len() - 20);
    let half = BASE64.encode(&BASE64.decode(PNG.as_bytes()).unwrap()[..50]);
    let svg = BASE64.encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    let large = BASE64.encode(&[b"\x89PNG\r\n\x1a\n".to_vec(), vec![0; 1000]].concat());
    for (scripts, requests, message) in [
        (vec![send(late.clone()), send(status("503 Busy", "", "")), send(images(&[PNG]))], 3, ""),
        (vec![send(late.clone()), send(late.clone()), send(late.clone())], 3, "openai: 429: "),
        (vec![send(status("500 Oops", "", "not today")); 3], 3, "openai: 500: not today"),
        (vec![send(status("400 No", "", &error.to_string()))], 1, "openai: 400: bad size  for ***"),
        (vec![send(status("401 No", "", TOKEN))], 1, "openai: 401: the key was refused"),
        (
            vec![send(status("302 There", "location: /\r\n", ""))],
            1,
            "openai: 302: a redirect, which is not followed",
        ),
        (vec![send(images(&["!garbage!"]))], 1, "openai: an image that is no base64"),
        (vec![send(images(&["AAAA"]))], 1, "openai: something that is no PNG, JPEG or WebP"),
        (vec![send(images(&[&svg]))], 1, "openai: something that is no PNG, JPEG or WebP"),
        (vec![send(images(&[&half]))], 1, "openai: a PNG that is cut off or broken"),
        (vec![send(images(&[&large]))], 1, "openai: an image of more than 900 bytes"),
        (vec![send(images(&[]))], 1, "openai: 1 images were asked for, 0 came"),
        (vec![send(images(&[PNG, PNG]))], 1, "openai: 1 images were asked for, 2 came"),
        (
            vec![send(ok(&json!({"data": [{"url": "https://a"}]})))],
            1,
            "openai: an image without b64_json: an address is not followed",
        ),
        (vec![send(status("200 OK", "", "<html>"))], 1, "openai: an answer that is no JSON: "),
        (vec![send(cut)], 1, "openai: the connection broke: "),
        (
            vec![send(
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-encoding: gzip\r\n\r\n123456789".to_vec(),
            )],
            1,
            "openai: a compressed response",
        ),
        (vec![send(ok(&json!({"data": "x".repeat(2 << 20)})))], 1, "openai: a response of more than "),
    ] {
        let upstream = Upstream::start(scripts).await;
        let house = house_with(|config| config.max_image_bytes = 900).await;
        let mut client = Client::connect(house.port).await;
        point_at(&mut client, "openai", &upstream.url).await;
        client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
        client.event("credentials:changed").await;
        if message.is_empty() {
            let queued = client.call("imagegen:create-entry", ask("openai")).await;
            let (made, job) = follow(&mut client, &queued, &[0]).await;
            assert_eq!((made.len(), &job["status"]), (1, &json!("completed")));
        } else {
            let error = failure(&mut client, ask("openai")).await;
            assert!(error.starts_with(message) && !error.contains(TOKEN), "{error}, expected {message}");
            let listed = client.call("imagegen:list-entries", json!({"groupId": "default"})).await;
            assert_eq!((&listed[0]["status"], &listed[0]["error"]), (&json!("failed"), &json!(error)));
            assert_eq!(client.call("imagegen:list-images", Value::Null).await["images"], json!([]));
            assert_eq!(house_files(&house), [""; 0]);
        }
        assert_eq!(upstream.requests().len(), requests, "{message}");
        // The worker goes on with the next.
        let queued = client.call("imagegen:create-entry", ask("pattern")).await;
        follow(&mut client, &queued, &[0]).await;
        house.close().await;
    }
}

#[tokio::test]
async fn a_key_goes_over_tls_or_stays_on_this_machine_and_openai_needs_one() {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    let error = failure(&mut client, ask("openai")).await;
    assert_eq!(error, "openai: there is no key: set the credential \"openai\"");
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    point_at(&mut client, "openai", "http://far.example").await;
    let error = failure(&mut client, ask("openai")).await;
    assert!(error.contains("https://") && !error.contains(TOKEN), "{error}");
    // Nobody listens on port 1.
    point_at(&mut client, "openai", "http://127.0.0.1:1").await;
    assert!(failure(&mut client, ask("openai")).await.starts_with("openai: no connection: "));
    house.close().await;
}

#[tokio::test]
async fn a_provider_that_takes_too_long_is_given_up() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold]]).await;
    let house = house_with(|config| config.generation_timeout = Duration::from_millis(50)).await;
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, "openai", &upstream.url).await;
    assert_eq!(failure(&mut client, ask("openai")).await, "openai: no images within 50 ms");
    upstream.closed.recv().await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn the_provider_of_the_settings_is_asked_where_an_entry_names_none() {
    let upstream = Upstream::start(vec![vec![Step::Send(images(&[PNG]))]]).await;
    let (house, mut client) = house_at(&upstream).await;
    for provider in ["automatic1111", "pattern", "openai"] {
        client.call("settings:set", json!({"key": "imagegen.defaultProvider", "value": provider})).await;
        client.event("settings:changed").await;
    }
    let refused = json!({"key": "imagegen.defaultProvider", "value": "nobody"});
    assert_eq!(client.refuse("settings:set", refused).await["details"]["path"], "value");
    let queued = client.call("imagegen:create-entry", json!({"prompt": "x"})).await;
    assert_eq!(queued["provider"], "openai");
    follow(&mut client, &queued, &[0]).await;
    house.close().await;
}

#[tokio::test]
async fn an_entry_is_cancelled_while_it_waits_or_runs_and_what_is_done_stays() {
    let mut upstream = Upstream::start(vec![
        vec![Step::Send(images(&[PNG]))],
        vec![Step::Hold],
        vec![Step::Send(images(&[PNG]))],
    ])
    .await;
    let (house, mut client) = house_at(&upstream).await;
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

    // One that waits has no job that could end.
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

    // The end is the end: who asks again is told how it is.
    for ended in [&running, &waiting, &next] {
        let before = entry(&mut client, &ended["id"]).await;
        assert_eq!(client.call("imagegen:cancel-entry", json!({"id": ended["id"]})).await, before);
    }
    let page = client.call("imagegen:list-images", json!({"entryId": running["id"]})).await;
    assert_eq!(page["images"].as_array().unwrap().len(), 1, "the batch that was done stays");
    assert_eq!((house_files(&house).len(), made.len()), (2, 1));
    let counts = client.call("imagegen:list-groups", Value::Null).await[0]["counts"].clone();
    assert_eq!(counts, json!({"queued": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 2}));
    assert_eq!(upstream.requests().len(), 3);
    assert_eq!(client.kept_events(), 0);
    house.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
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
        ("imagegen:list-entries", json!({"groupId": "nobody"}), "groupId"),
        ("imagegen:list-entries", json!({"groupId": "default", "limit": 0}), "limit"),
        ("imagegen:list-entries", json!({"groupId": "default", "limit": 501}), "limit"),
        ("imagegen:list-entries", json!({"groupId": "default", "before": "nobody"}), "before"),
        ("imagegen:cancel-entry", Value::Null, "id"),
        ("imagegen:cancel-entry", json!({"id": 7}), "id"),
        ("imagegen:cancel-entry", json!({"id": ""}), "id"),
        ("imagegen:cancel-entry", json!({"id": "nobody"}), "id"),
        ("imagegen:cancel-entry", json!({"id": "x".repeat(129)}), "id"),
        ("imagegen:cancel-entry", json!([]), "payload"),
        ("imagegen:list-images", json!([]), "payload"),
        ("imagegen:list-images", json!({"groupId": "nobody"}), "groupId"),
        ("imagegen:list-images", json!({"entryId": "nobody"}), "entryId"),
        ("imagegen:list-images", json!({"before": "nobody"}), "before"),
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
        ("groupId", vec![json!("nobody"), json!(1)]),
        ("provider", vec![json!("nobody"), json!(1), Value::Null]),
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
        let shown: String = payload.to_string().chars().take(80).collect();
        let error = client.refuse(channel, payload).await;
        assert_eq!(
            (&error["code"], &error["details"]["path"]),
            (&json!("HANDLER_ERROR"), &json!(path)),
            "{channel} {shown}"
        );
        assert!(error["details"]["expected"].is_string() && error["details"]["got"].is_string(), "{error}");
    }
    assert_eq!(client.call("imagegen:list-groups", Value::Null).await, groups);
    assert_eq!(client.kept_events(), 0, "a refused request is told to nobody");
    house.close().await;
}

#[tokio::test]
async fn the_largest_things_allowed_are_allowed() {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    let params = json!({"x": "x".repeat((64 << 10) - 8)});
    assert_eq!(params.to_string().len(), 64 << 10);
    let payload = json!({"prompt": "x".repeat(32 << 10), "negativePrompt": "x".repeat(32 << 10), "width": 4096, "height": 64,
        "batchSize": 10, "model": "x".repeat(256), "seed": 4_294_967_295_i64, "steps": 1000, "cfgScale": 100, "params": params});
    let queued = client.call("imagegen:create-entry", payload).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    assert_eq!(made[9]["seed"], 4_294_967_304_i64);
    client.call("imagegen:create-group", json!({"name": "x".repeat(1024)})).await;
    house.close().await;
}

#[tokio::test]
async fn what_there_may_be_only_so_much_of_is_refused_when_it_is_full() {
    let go_on = Arc::new(Notify::new());
    let upstream = Upstream::start(vec![
        vec![Step::Await(go_on.clone()), Step::Send(images(&[PNG]))],
        vec![Step::Send(images(&[PNG]))],
        vec![Step::Send(images(&[PNG]))],
    ])
    .await;
    let house = house_with(|config| {
        (config.max_queued, config.max_groups, config.max_total_bytes) = (2, 2, 150);
    })
    .await;
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, "openai", &upstream.url).await;
    let first = client.call("imagegen:create-entry", ask("openai")).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    for _ in 0..2 {
        client.call("imagegen:create-entry", ask("openai")).await;
    }
    let error = client.refuse("imagegen:create-entry", ask("openai")).await;
    assert_eq!(error["message"], "payload: expected at most 2 queued entries, got one more");
    client.call("imagegen:create-group", json!({"name": "x"})).await;
    let error = client.refuse("imagegen:create-group", json!({"name": "y"})).await;
    assert_eq!(error["message"], "payload: expected at most 2 groups, got one more");
    go_on.notify_one();
    let completed = client.event("imagegen:batch-completed").await;
    assert_eq!(completed["images"][0]["entryId"], first["id"]);
    assert_eq!(ended(&mut client).await["status"], "completed");
    // 70 bytes are there, and 150 are allowed: the second image fits, the third does not.
    for status in ["completed", "failed"] {
        client.event("imagegen:job-created").await;
        client.event("imagegen:batch-started").await;
        if status == "completed" {
            client.event("imagegen:batch-completed").await;
        }
        assert_eq!(ended(&mut client).await["status"], status);
    }
    assert_eq!(house_files(&house).len(), 2);
    house.close().await;
}

#[tokio::test]
async fn pages_of_the_gallery_lead_through_all_images_without_gap_or_repetition() {
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    let mut made = Vec::new();
    for prompt in ["A quiet lake", "Crème brûlée on a LAKE", "Mountains"] {
        let payload = json!({"prompt": prompt, "batchSize": 10, "width": 64, "height": 64});
        let queued = client.call("imagegen:create-entry", payload).await;
        made.extend(follow(&mut client, &queued, &[0]).await.0);
    }
    // Ten images of one moment each.
    assert_eq!(made[0]["createdAt"], made[9]["createdAt"]);
    made.reverse();
    let mut seen = Vec::new();
    let mut filters = json!({"limit": 7});
    loop {
        let mut page = client.call("imagegen:list-images", filters).await;
        seen.append(page["images"].as_array_mut().unwrap());
        assert_eq!(page["hasMore"], json!(!page["nextBefore"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        filters = json!({"limit": 7, "before": page["nextBefore"]});
    }
    assert_eq!(seen, made);
    let exact = client.call("imagegen:list-images", json!({"limit": 30})).await;
    assert_eq!((exact["images"].as_array().unwrap().len(), &exact["hasMore"]), (30, &json!(false)));
    let (first, last) = (&made[29]["createdAt"], &made[0]["createdAt"]);
    let after = json!(last.as_i64().unwrap() + 1);
    for (filters, hits) in [
        (json!({"query": "lake"}), 20),
        (json!({"query": "creme BRULEE"}), 10),
        (json!({"query": "mount"}), 10),
        (json!({"query": "lake mountains"}), 0),
        (json!({"query": ""}), 30),
        (json!({"query": " \t\u{0} "}), 30),
        (json!({"query": "\" OR 1=1 --"}), 0),
        (json!({"query": "NEAR(lake"}), 0),
        (json!({"query": "prompt:lake"}), 0),
        (json!({"query": "^ * - + :"}), 0),
        (json!({"from": first, "to": last}), 30),
        (json!({"from": after}), 0),
        (json!({"to": 0}), 0),
        (json!({"groupId": "default"}), 30),
        (json!({"entryId": made[0]["entryId"], "query": "mountains"}), 10),
        (json!({"entryId": made[0]["entryId"], "query": "lake"}), 0),
    ] {
        let page = client.call("imagegen:list-images", filters.clone()).await;
        assert_eq!(page["images"].as_array().unwrap().len(), hits, "{filters}");
    }
    house.close().await;
}

#[tokio::test]
async fn an_image_is_served_with_its_type_and_to_those_who_may_see_it_alone() {
    let house =
        House::open(tempfile::tempdir().unwrap(), |_, config| config.token = Some(TOKEN.to_owned())).await;
    let mut client = Client::connect(house.port).await;
    client.call("auth", json!({"token": TOKEN})).await;
    let queued = client.call("imagegen:create-entry", json!({"prompt": "x"})).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let url = made[0]["url"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let (head, body) = http(house.port, &format!("GET {url}"), &bearer).await;
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: image/svg+xml",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "cache-control: private, max-age=31536000, immutable",
        "cross-origin-resource-policy: same-site",
        &format!("content-length: {}", body.len()),
        &format!("etag: \"{}\"", made[0]["id"].as_str().unwrap()),
    ] {
        assert!(head.lines().any(|header| header == line), "{line}: {head}");
    }
    let (head, nothing) = http(house.port, &format!("HEAD {url}"), &bearer).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("content-length: {}", body.len())));
    assert_eq!(nothing, b"");
    let known = format!("{bearer}If-None-Match: \"{}\"\r\n", made[0]["id"].as_str().unwrap());
    assert!(http(house.port, &format!("GET {url}"), &known).await.0.starts_with("HTTP/1.1 304 "));
    let in_query = http(house.port, &format!("GET {url}?token={TOKEN}"), "").await;
    assert!(in_query.0.starts_with("HTTP/1.1 200 ") && in_query.1 == body);
    for (line, headers, status) in [
        (format!("GET {url}"), "", 401),
        (format!("GET {url}?token=wrong"), "", 401),
        (format!("GET {url}?token={TOKEN}"), "Origin: https://evil.example\r\n", 403),
        (format!("POST {url}"), &*bearer, 405),
        (format!("GET {url}.svg"), &bearer, 404),
        (format!("GET {url}/"), &bearer, 404),
        ("GET /files/images/".to_owned(), &bearer, 404),
        ("GET /files/images/550e8400-e29b-41d4-a716-446655440000".to_owned(), &bearer, 404),
        ("GET /files/images/../switchboard.db".to_owned(), &bearer, 404),
        ("GET /files/images/..%2fswitchboard.db".to_owned(), &bearer, 404),
        ("GET /files/images/%2e%2e/switchboard.key".to_owned(), &bearer, 404),
        ("GET /files/images//etc/passwd".to_owned(), &bearer, 404),
        (format!("GET /files/images/../images/{}", made[0]["id"].as_str().unwrap()), &bearer, 404),
        ("GET /files/".to_owned(), &bearer, 426),
    ] {
        let (head, _) = http(house.port, &line, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
    }
    // A file that somebody has taken away.
    fs::remove_dir_all(house.folder.path().join("data/images")).unwrap();
    assert!(http(house.port, &format!("GET {url}"), &bearer).await.0.starts_with("HTTP/1.1 404 "));
    house.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    let queued = client.call("imagegen:create-entry", ask("pattern")).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let folder = house.folder.path().join("data/images");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = folder.join(format!("{}.svg", made[0]["id"].as_str().unwrap()));
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    house.close().await;
}

#[tokio::test]
async fn a_job_that_a_kill_cuts_off_is_finished_once_after_the_restart() {
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
    let behind = client.call("imagegen:create-entry", ask("pattern")).await;
    let created = client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    let kept = client.event("imagegen:batch-completed").await["images"].clone();
    client.event("imagegen:batch-started").await;
    asked(&mut client, &upstream, 2).await;
    program.kill();
    // What a crash between a file and its row leaves, and what is not ours.
    let stray = "550e8400-e29b-41d4-a716-446655440000";
    for name in [format!("{stray}.png"), format!("{stray}.svg.tmp"), "notes.txt".to_owned()] {
        fs::write(data.join("images").join(name), "x").unwrap();
    }

    let program = Program::start(&data);
    let mut client = Client::connect(program.port).await;
    // The worker waits at the upstream, so all that follows is heard.
    asked(&mut client, &upstream, 3).await;
    let running = entry(&mut client, &queued["id"]).await;
    assert_eq!((&running["jobId"], &running["batchesDone"]), (&created["jobId"], &json!(1)));
    client.call("system:ping", Value::Null).await;
    while client.kept_events() > 0 {
        // Those of the beginning, as far as this client was there already.
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
    made.extend(follow(&mut client, &behind, &[0]).await.0);

    let page = client.call("imagegen:list-images", Value::Null).await;
    made.reverse();
    assert_eq!(page["images"], json!(made), "what was told is what is there, once");
    assert_eq!(upstream.requests().len(), 4, "one batch was cut off, so one was asked for twice");
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

/// Kills at moments that nobody chose: the built-in provider is so fast that most of its time goes into writing.
#[tokio::test]
async fn however_often_the_program_is_killed_each_batch_is_there_once_with_its_files() {
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
    assert_eq!(on_disk, ids(made), "each image has its file, and no file is nobody's");
    drop(client);
    program.stop("-TERM");
}

#[tokio::test]
async fn a_server_that_stops_in_mid_job_goes_on_when_it_is_started_again() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold], vec![Step::Send(images(&[PNG]))]]).await;
    let (house, mut client) = house_at(&upstream).await;
    let queued = client.call("imagegen:create-entry", ask("openai")).await;
    client.event("imagegen:job-created").await;
    client.event("imagegen:batch-started").await;
    asked(&mut client, &upstream, 1).await;
    drop(client);
    let folder = house.close().await;
    upstream.closed.recv().await.unwrap();
    let house = House::open(folder, |_, _| {}).await;
    let mut client = Client::connect(house.port).await;
    while entry(&mut client, &queued["id"]).await["status"] != "completed" {}
    assert_eq!(house_files(&house).len(), 1);
    house.close().await;
}

#[tokio::test]
async fn a_mock_of_openai_by_somebody_else_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = json!({"fixtures": [
        {"match": {"endpoint": "image", "userMessage": "lake"}, "response": {"images": [{"b64Json": PNG}, {"b64Json": PNG}]}},
        {"match": {"endpoint": "image", "userMessage": "address"}, "response": {"image": {"url": "https://a.example/1.png"}}},
        {"match": {"endpoint": "image", "userMessage": "fail"}, "response": {
            "error": {"message": "Your request was rejected", "type": "image_generation_user_error"}, "status": 400}},
    ]});
    let Some(mock) = Mock::start(folder.path(), &fixtures) else {
        return skip::skipped("npm's @copilotkit/aimock, which is not installed");
    };
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, "openai", &format!("{}/v1", mock.url)).await;
    let payload = json!({"prompt": "a lake", "provider": "openai", "batchSize": 2});
    let queued = client.call("imagegen:create-entry", payload).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let (_, body) = http(house.port, &format!("GET {}", made[1]["url"].as_str().unwrap()), "").await;
    assert_eq!(BASE64.encode(&body), PNG);
    for (prompt, message) in [
        ("fail", "openai: 400: Your request was rejected"),
        ("address", "openai: an image without b64_json: an address is not followed"),
    ] {
        assert_eq!(failure(&mut client, json!({"prompt": prompt, "provider": "openai"})).await, message);
    }
    house.close().await;
}
