//! What each provider is sent, and how its images and errors are read.

use std::fs;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::setup::*;
use crate::support::client::Client;
use crate::support::mock::Mock;
use crate::support::skip;
use crate::support::upstream::{Step, Upstream, status};

#[tokio::test]
async fn an_image_of_openai_is_stored_and_served_unchanged() {
    let jpeg = BASE64.encode(b"\xff\xd8\xff\xe0\0\x04xx\xff\xc0\0\x0b\x08\0\x02\0\x03\x01");
    let upstream = Upstream::start(vec![vec![Step::Trickle(images(&[PNG, &jpeg]))]]).await;
    let (host, mut client) = host_at(&upstream).await;
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
        assert_eq!(fs::read(host.folder.path().join(name)).unwrap(), sent);
        let (head, body) = http(host.port, &format!("GET {}", image["url"].as_str().unwrap()), "").await;
        assert!(head.contains(image["mimeType"].as_str().unwrap()) && body == sent, "{head}");
    }
    let request = &upstream.requests()[0];
    assert!(request.starts_with("POST /v1/images/generations HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {TOKEN}\r\n")));
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    let expected = json!({"model": "gpt-image-1", "prompt": "A lake at dawn", "n": 2, "size": "1024x1024", "quality": "high"});
    assert_eq!(body, expected);
    host.close().await;
}

#[tokio::test]
async fn an_image_of_automatic1111_has_the_seed_of_its_info() {
    let info = json!({"all_seeds": [77, 78], "index_of_first_image": 1}).to_string();
    let answer =
        json!({"images": [PNG, PNG, format!("data:image/png;base64,{PNG}")], "parameters": {}, "info": info});
    let upstream = Upstream::start(vec![vec![Step::Send(ok(&answer))]]).await;
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
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
    host.close().await;
}

#[tokio::test]
async fn temporary_errors_are_retried_and_permanent_errors_are_reported() {
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
            "openai: 302: redirects are not followed",
        ),
        (vec![send(images(&["!garbage!"]))], 1, "openai: an image that is not base64"),
        (vec![send(images(&["AAAA"]))], 1, "openai: an image that is not a PNG, JPEG or WebP"),
        (vec![send(images(&[&svg]))], 1, "openai: an image that is not a PNG, JPEG or WebP"),
        (vec![send(images(&[&half]))], 1, "openai: a truncated or damaged PNG"),
        (vec![send(images(&[&large]))], 1, "openai: an image of more than 900 bytes"),
        (vec![send(images(&[]))], 1, "openai: 0 images in the response, 1 expected"),
        (vec![send(images(&[PNG, PNG]))], 1, "openai: 2 images in the response, 1 expected"),
        (
            vec![send(ok(&json!({"data": [{"url": "https://a"}]})))],
            1,
            "openai: an image without b64_json; URLs are not followed",
        ),
        (vec![send(status("200 OK", "", "<html>"))], 1, "openai: invalid JSON: "),
        (vec![send(cut)], 1, "openai: the connection broke: "),
        (
            vec![send(
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-encoding: gzip\r\n\r\n123456789".to_vec(),
            )],
            1,
            "openai: unexpected compressed response",
        ),
        (vec![send(ok(&json!({"data": "x".repeat(2 << 20)})))], 1, "openai: a response of more than "),
    ] {
        let upstream = Upstream::start(scripts).await;
        let host = host_with(|config| config.max_image_bytes = 900).await;
        let mut client = Client::connect(host.port).await;
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
            assert_eq!(host_files(&host), [""; 0]);
        }
        assert_eq!(upstream.requests().len(), requests, "{message}");
        // The worker continues with the next entry.
        let queued = client.call("imagegen:create-entry", ask("pattern")).await;
        follow(&mut client, &queued, &[0]).await;
        host.close().await;
    }
}

#[tokio::test]
async fn a_key_is_sent_over_tls_or_loopback_only_and_openai_needs_one() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let error = failure(&mut client, ask("openai")).await;
    assert_eq!(error, "openai: no API key; set the credential \"openai\"");
    point_at(&mut client, "openai", "http://far.example").await;
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    let error = failure(&mut client, ask("openai")).await;
    assert!(error.contains("use https://") && !error.contains(TOKEN), "{error}");
    // The key belongs to the origin that was set when it was stored. No server listens on port 1.
    point_at(&mut client, "openai", "http://127.0.0.1:1").await;
    let error = failure(&mut client, ask("openai")).await;
    assert!(
        error.contains("given for https://api.openai.com and http://far.example") && !error.contains(TOKEN),
        "{error}"
    );
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    assert!(failure(&mut client, ask("openai")).await.starts_with("openai: no connection: "));
    host.close().await;
}

#[tokio::test]
async fn a_provider_that_takes_too_long_times_out() {
    let mut upstream = Upstream::start(vec![vec![Step::Hold]]).await;
    let host = host_with(|config| config.generation_timeout = Duration::from_millis(50)).await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &upstream.url).await;
    assert_eq!(failure(&mut client, ask("openai")).await, "openai: no images within 50 ms");
    upstream.closed.recv().await.unwrap();
    host.close().await;
}

#[tokio::test]
async fn an_entry_without_a_provider_uses_the_one_of_the_settings() {
    let upstream = Upstream::start(vec![vec![Step::Send(images(&[PNG]))]]).await;
    let (host, mut client) = host_at(&upstream).await;
    for provider in ["automatic1111", "pattern", "openai"] {
        client.call("settings:set", json!({"key": "imagegen.defaultProvider", "value": provider})).await;
        client.event("settings:changed").await;
    }
    let refused = json!({"key": "imagegen.defaultProvider", "value": "unknown"});
    assert_eq!(client.refuse("settings:set", refused).await["details"]["path"], "value");
    let queued = client.call("imagegen:create-entry", json!({"prompt": "x"})).await;
    assert_eq!(queued["provider"], "openai");
    follow(&mut client, &queued, &[0]).await;
    host.close().await;
}

#[tokio::test]
async fn a_third_party_mock_of_openai_is_understood() {
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
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &format!("{}/v1", mock.url)).await;
    let payload = json!({"prompt": "a lake", "provider": "openai", "batchSize": 2});
    let queued = client.call("imagegen:create-entry", payload).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let (_, body) = http(host.port, &format!("GET {}", made[1]["url"].as_str().unwrap()), "").await;
    assert_eq!(BASE64.encode(&body), PNG);
    for (prompt, message) in [
        ("fail", "openai: 400: Your request was rejected"),
        ("address", "openai: an image without b64_json; URLs are not followed"),
    ] {
        assert_eq!(failure(&mut client, json!({"prompt": prompt, "provider": "openai"})).await, message);
    }
    host.close().await;
}
