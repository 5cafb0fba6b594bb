//! Pages of the gallery, and images over HTTP.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::setup::*;
use crate::support::client::Client;
use crate::support::host::Host;

#[tokio::test]
async fn pages_of_the_gallery_cover_all_images_without_gap_or_repetition() {
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let mut made = Vec::new();
    for prompt in ["A quiet lake", "Crème brûlée on a LAKE", "Mountains"] {
        let payload = json!({"prompt": prompt, "batchSize": 10, "width": 64, "height": 64});
        let queued = client.call("imagegen:create-entry", payload).await;
        made.extend(follow(&mut client, &queued, &[0]).await.0);
    }
    // Groups of ten images with the same time.
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
    host.close().await;
}

#[tokio::test]
async fn an_image_is_served_with_its_type_and_only_to_authorised_clients() {
    let host =
        Host::open(tempfile::tempdir().unwrap(), |_, config| config.token = Some(TOKEN.to_owned())).await;
    let mut client = Client::connect(host.port).await;
    client.call("auth", json!({"token": TOKEN})).await;
    let queued = client.call("imagegen:create-entry", json!({"prompt": "x"})).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let url = made[0]["url"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let (head, body) = http(host.port, &format!("GET {url}"), &bearer).await;
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
    let (head, nothing) = http(host.port, &format!("HEAD {url}"), &bearer).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("content-length: {}", body.len())));
    assert_eq!(nothing, b"");
    let known = format!("{bearer}If-None-Match: \"{}\"\r\n", made[0]["id"].as_str().unwrap());
    assert!(http(host.port, &format!("GET {url}"), &known).await.0.starts_with("HTTP/1.1 304 "));
    let in_query = http(host.port, &format!("GET {url}?token={TOKEN}"), "").await;
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
        let (head, _) = http(host.port, &line, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
    }
    // A file that was deleted.
    fs::remove_dir_all(host.folder.path().join("data/images")).unwrap();
    assert!(http(host.port, &format!("GET {url}"), &bearer).await.0.starts_with("HTTP/1.1 404 "));
    host.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let queued = client.call("imagegen:create-entry", ask("pattern")).await;
    let (made, _) = follow(&mut client, &queued, &[0]).await;
    let folder = host.folder.path().join("data/images");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = folder.join(format!("{}.svg", made[0]["id"].as_str().unwrap()));
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    host.close().await;
}
