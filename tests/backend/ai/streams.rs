//! How an answer streams: chunks, deadlines, a client that disconnects.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;

use super::setup::*;
use crate::support::client::Client;
use crate::support::upstream::{Step, Upstream, status};

#[tokio::test]
async fn the_echo_provider_streams_words_only_to_the_client_that_asked() {
    let host = new_host().await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);
    let streamed = Streamed::ask(&mut a, question("echo", "echo", "Hello, big world")).await;
    let usage = json!({"inputTokens": 3, "outputTokens": 3});
    assert_eq!(
        streamed.chunks,
        [
            json!({"type": "text", "text": "Hello, "}),
            json!({"type": "text", "text": "big "}),
            json!({"type": "text", "text": "world"}),
            json!({"type": "usage", "usage": usage}),
        ]
    );
    let response = streamed.complete();
    let latency = response["latencyMs"].as_u64().unwrap();
    let expected = json!({
        "requestId": streamed.response["id"], "provider": "echo", "model": "echo", "content": "Hello, big world",
        "stopReason": "end", "usage": usage, "costUsd": 0.0, "latencyMs": latency,
    });
    assert_eq!(response, expected);

    // Not streamed, and with an id chosen by the client.
    let mut payload = question("echo", "echo", "Hi");
    payload["requestId"] = json!("mine");
    assert_eq!(a.call("ai:chat", payload.clone()).await["requestId"], "mine");
    assert_eq!(a.kept_events(), 0, "ai:chat emits nothing");
    assert_eq!(Streamed::ask(&mut a, payload).await.request_id, "mine");

    b.call("system:ping", Value::Null).await;
    assert_eq!(b.kept_events(), 0);
    host.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_asks_no_provider() {
    let host = new_host().await;
    let upstream = Upstream::start(Vec::new()).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let with = |change: Value| {
        let mut payload = ask();
        for (name, value) in change.as_object().unwrap() {
            payload[name] = value.clone();
        }
        payload
    };
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (payload, path) in [
        (Value::Null, "provider"),
        (json!("x"), "payload"),
        (with(json!({"provider": "unknown"})), "provider"),
        (with(json!({"provider": 1})), "provider"),
        (with(json!({"model": ""})), "model"),
        (with(json!({"model": "m".repeat(257)})), "model"),
        (with(json!({"messages": []})), "messages"),
        (with(json!({"messages": {}})), "messages"),
        (with(json!({"messages": ["x"]})), "messages[0]"),
        (with(json!({"messages": [{"role": "user", "content": "x"}, {"role": "boss"}]})), "messages[1].role"),
        (with(json!({"messages": [{"role": "user"}]})), "messages[0].content"),
        (with(message(json!(5))), "messages[0].content"),
        (with(message(json!([{"type": "text"}, {"text": "x"}]))), "messages[0].content[1].type"),
        (with(message(json!("x".repeat((1 << 20) + 1)))), "messages[0].content"),
        (with(json!({"system": 1})), "system"),
        (with(json!({"temperature": "warm"})), "temperature"),
        (with(json!({"temperature": 2.5})), "temperature"),
        (with(json!({"maxTokens": 0})), "maxTokens"),
        (with(json!({"maxTokens": 1.5})), "maxTokens"),
        (with(json!({"stopSequences": "END"})), "stopSequences"),
        (with(json!({"stopSequences": ["END", ""]})), "stopSequences[1]"),
        (with(json!({"stopSequences": vec!["x"; 17]})), "stopSequences"),
        (with(json!({"chatId": 7})), "chatId"),
        (with(json!({"chatId": "unknown"})), "chatId"),
        (with(json!({"requestId": ""})), "requestId"),
        (with(json!({"stream": "yes"})), "stream"),
    ] {
        let error = client.refuse_member("ai:chat", payload.clone(), path).await;
        assert_eq!(Streamed::ask(&mut client, payload).await.error(), error);
    }
    for channel in ["ai:models", "ai:has-credentials"] {
        for payload in [json!([]), json!({"provider": "x"}), json!({"provider": [1]})] {
            let path = if payload.is_array() { "payload" } else { "provider" };
            assert_eq!(client.refuse(channel, payload).await["details"]["path"], path);
        }
    }
    assert_eq!(client.refuse("ai:has-credentials", Value::Null).await["details"]["path"], "provider");
    assert_eq!(upstream.requests(), [""; 0]);
    host.close().await;
}

#[tokio::test]
async fn a_broken_answer_is_an_error_after_the_chunks_received() {
    let started = |rest: &str| {
        let start = sse(&[&anthropic_start()[..], &[delta("Gr")]].concat());
        vec![Step::Send(stream(&format!("{start}{rest}")))]
    };
    let half = sse(&[delta("never seen")]);
    let long = format!("data: {}", "x".repeat(10 << 20));
    let chunked =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n: hi\n\r\nfff\r\nshort".to_vec();
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n: hi".to_vec();
    for (script, chunks, says) in [
        (started(&half[..half.len() / 2]), 1, "the stream ended before its last event"),
        (started(""), 1, "the stream ended before its last event"),
        (started("data: {\n\n"), 1, "invalid JSON"),
        (started(&long), 1, "a line of more than 4194304 bytes"),
        (vec![Step::Send(chunked)], 0, "the connection broke"),
        (vec![Step::Send(announced)], 0, "the connection broke"),
        (vec![Step::Send(stream(""))], 0, "the stream ended before its last event"),
        (vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())], 0, "the connection broke"),
        (vec![], 0, "the connection broke"),
        (vec![Step::Send(status("302 Found", "location: http://localhost/\r\n", ""))], 0, "302: redirects"),
        (vec![Step::Send(status("401 No", "", TOKEN))], 0, "401: the key was refused"),
        (vec![Step::Send(status("400 No", "", &format!("not {TOKEN}!\nmore")))], 0, "400: not ***!"),
        (vec![Step::Send(status("200 OK", "content-encoding: gzip\r\n", "x"))], 0, "compressed"),
        (
            vec![Step::Send(status("200 OK", "content-type: application/json\r\n", "{}"))],
            0,
            "without content",
        ),
    ] {
        let host = new_host().await;
        let upstream = Upstream::start(vec![script]).await;
        let mut client = client_of(&host, "anthropic", &upstream).await;
        let streamed = Streamed::ask(&mut client, ask()).await;
        let message = streamed.error()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("anthropic: ") && message.contains(says), "{says}: {message}");
        assert_eq!((streamed.chunks.len(), upstream.requests().len()), (chunks, 1), "{says}");
        assert!(!format!("{}{}", streamed.last, streamed.response).contains(TOKEN));
        host.close().await;
    }
}

#[tokio::test]
async fn a_silent_provider_times_out_and_its_connection_is_closed() {
    let idle_timeout = Duration::from_millis(100);
    let host = host_with(AiConfig { idle_timeout, ..AiConfig::default() }).await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Hold], vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    for (chunks, says) in [(0, "anthropic: no response for 100 ms"), (1, "anthropic: silence for 100 ms")] {
        let streamed = Streamed::ask(&mut client, ask()).await;
        assert_eq!((&streamed.error()["message"], streamed.chunks.len()), (&json!(says), chunks));
        upstream.closed.recv().await.unwrap();
    }
    host.close().await;
}

#[tokio::test]
async fn an_answer_is_limited_in_time_and_length() {
    let config =
        AiConfig { max_duration: Duration::from_millis(200), max_answer_bytes: 10, ..AiConfig::default() };
    let host = host_with(config).await;
    let start = stream(&sse(&anthropic_start()));
    let mut upstream =
        Upstream::start(vec![vec![Step::Send(start), Step::Hold], vec![Step::Send(answer())]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let error = Streamed::ask(&mut client, ask()).await.error();
    assert_eq!((&error["code"], &error["message"]), (&json!("TIMEOUT"), &json!("no answer within 200 ms")));
    upstream.closed.recv().await.unwrap();
    let streamed = Streamed::ask(&mut client, ask()).await;
    assert_eq!(streamed.error()["message"], "anthropic: the answer is longer than 10 bytes");
    assert_eq!(streamed.text(), "Grüße,");
    host.close().await;
}

#[tokio::test]
async fn a_disconnect_aborts_the_clients_question() {
    let host = new_host().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    client.send("ai:chat-stream", ask()).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), upstream.closed.recv()).await.unwrap().unwrap();
    host.close().await;
}

#[tokio::test]
async fn streams_of_one_client_run_concurrently() {
    let host = new_host().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    client.send("ai:chat-stream", ask()).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    assert_eq!(Streamed::ask(&mut client, question("echo", "echo", "a b")).await.text(), "a b");
    host.close().await;
}
