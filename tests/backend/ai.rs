//! The AI channels over a real socket: the echo provider, and an upstream that plays every fault from a script.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;
use switchboard::backend::credentials::Token;
use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use crate::support::client::Client;
use crate::support::house::House;
use crate::support::mock::Mock;
use crate::support::upstream::{Step, Upstream, play, status};
use crate::support::{certificate, program, skip};

const TOKEN: &str = "sk-correct-horse-battery-staple";

/// A house whose `ai` is configured so.
async fn house_with(ai: AiConfig) -> House {
    House::open(tempfile::tempdir().unwrap(), |backend, _| backend.ai = ai).await
}

/// A house that does not wait long before it tries again.
async fn new_house() -> House {
    house_with(AiConfig { retry_pause: Duration::from_millis(1), ..AiConfig::default() }).await
}

/// A client, once the provider's server is the upstream and there is a key for it.
async fn client_of(house: &House, provider: &str, upstream: &Upstream) -> Client {
    let mut client = Client::connect(house.port).await;
    point_at(&mut client, provider, &upstream.url).await;
    client.call("credentials:set", json!({"key": provider, "token": TOKEN})).await;
    client.event("credentials:changed").await;
    client
}

async fn point_at(client: &mut Client, provider: &str, url: &str) {
    client.call("settings:set", json!({"key": format!("ai.{provider}.baseUrl"), "value": url})).await;
    client.event("settings:changed").await;
}

/// A stream of events whose end is the end of the connection.
fn stream(events: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n{events}").into_bytes()
}

fn sse(data: &[Value]) -> String {
    let event = |data: &Value| match data["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    };
    data.iter().map(event).collect()
}

fn anthropic_start() -> Vec<Value> {
    vec![
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ]
}

fn delta(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

fn anthropic_end() -> Vec<Value> {
    vec![
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}}),
        json!({"type": "message_stop"}),
    ]
}

/// A whole answer of Anthropic's: `Grüße, Welt`.
fn answer() -> Vec<u8> {
    stream(&sse(&[anthropic_start(), vec![delta("Grüße,"), delta(" Welt")], anthropic_end()].concat()))
}

fn overloaded() -> Value {
    json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
}

fn question(provider: &str, model: &str, text: &str) -> Value {
    json!({"provider": provider, "model": model, "messages": [{"role": "user", "content": text}]})
}

fn ask() -> Value {
    question("anthropic", "claude-opus-5", "Hello")
}

/// A streamed answer as the client sees it: the chunks, then the one event that ends it, then the response, and nothing else.
struct Streamed {
    request_id: String,
    chunks: Vec<Value>,
    last: Value,
    response: Value,
}

impl Streamed {
    async fn ask(client: &mut Client, payload: Value) -> Streamed {
        let id = client.send("ai:chat-stream", payload).await;
        Streamed::collect(client, id).await
    }

    async fn collect(client: &mut Client, id: String) -> Streamed {
        let (mut chunks, mut last) = (Vec::new(), Value::Null);
        loop {
            let message = client.next().await.unwrap();
            if message["type"] == "response" && message["id"] == id.as_str() {
                let request_id = last["payload"]["requestId"].as_str().unwrap().to_owned();
                for chunk in &chunks {
                    let chunk: &Value = chunk;
                    assert_eq!(chunk["requestId"], request_id.as_str());
                }
                let chunks = chunks.iter().map(|chunk: &Value| chunk["chunk"].clone()).collect();
                return Streamed { request_id, chunks, last, response: message };
            }
            match message["channel"].as_str().unwrap() {
                "ai:stream-chunk" => {
                    assert!(last.is_null(), "a chunk behind the last event: {message}");
                    chunks.push(message["payload"].clone());
                }
                "ai:stream-complete" | "ai:stream-error" => {
                    assert!(last.is_null(), "two ends: {message}");
                    last = message;
                }
                "chat:message-added" => assert!(last.is_null(), "stored behind the last event"),
                other => panic!("{other}: {message}"),
            }
        }
    }

    /// The response's payload, which the last event had too.
    fn complete(&self) -> Value {
        assert_eq!(self.last["channel"], "ai:stream-complete", "{}", self.response);
        assert_eq!(self.last["payload"]["response"], self.response["payload"]);
        self.response["payload"].clone()
    }

    /// The error, which the last event had too.
    fn error(&self) -> Value {
        assert_eq!(self.last["channel"], "ai:stream-error", "{}", self.last);
        assert_eq!(self.last["payload"]["error"], self.response["error"]);
        self.response["error"].clone()
    }

    fn text(&self) -> String {
        let texts = self.chunks.iter().filter(|chunk| chunk["type"] == "text");
        texts.map(|chunk| chunk["text"].as_str().unwrap()).collect()
    }
}

#[tokio::test]
async fn the_echo_provider_says_it_again_word_by_word_to_who_asked_alone() {
    let house = new_house().await;
    let (mut a, mut b) = (Client::connect(house.port).await, Client::connect(house.port).await);
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

    // Whole, and under a name of the client's own.
    let mut payload = question("echo", "echo", "Hi");
    payload["requestId"] = json!("mine");
    assert_eq!(a.call("ai:chat", payload.clone()).await["requestId"], "mine");
    assert_eq!(a.kept_events(), 0, "ai:chat tells nothing on the way");
    assert_eq!(Streamed::ask(&mut a, payload).await.request_id, "mine");

    b.call("system:ping", Value::Null).await;
    assert_eq!(b.kept_events(), 0);
    house.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_asks_nobody() {
    let house = new_house().await;
    let upstream = Upstream::start(Vec::new()).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
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
        (with(json!({"provider": "nobody"})), "provider"),
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
        (with(json!({"chatId": "nobody"})), "chatId"),
        (with(json!({"requestId": ""})), "requestId"),
        (with(json!({"stream": "yes"})), "stream"),
    ] {
        let error = client.refuse("ai:chat", payload.clone()).await;
        assert_eq!(
            (&error["code"], &error["details"]["path"]),
            (&json!("HANDLER_ERROR"), &json!(path)),
            "{error}"
        );
        assert_eq!(Streamed::ask(&mut client, payload).await.error(), error);
    }
    for channel in ["ai:models", "ai:has-credentials"] {
        for payload in
            [json!([]), json!({"provider": "x"}), json!({"provider": null}), json!({"provider": [1]})]
        {
            let path = if payload.is_array() { "payload" } else { "provider" };
            assert_eq!(client.refuse(channel, payload).await["details"]["path"], path);
        }
    }
    assert_eq!(client.refuse("ai:has-credentials", Value::Null).await["details"]["path"], "provider");
    assert_eq!(upstream.requests(), [""; 0]);
    house.close().await;
}

#[tokio::test]
async fn anthropic_is_asked_and_understood() {
    let house = new_house().await;
    let thinking = [
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"a\":"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "[1]}"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "to_come", "index": 1}),
    ];
    let events = [anthropic_start(), vec![delta("Grüße")], thinking.to_vec(), anthropic_end()].concat();
    let upstream = Upstream::start(vec![vec![Step::Trickle(stream(&sse(&events))), Step::Hold]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let mut payload = ask();
    payload["system"] = json!("Be brief");
    payload["temperature"] = json!(1);
    payload["stopSequences"] = json!(["END"]);
    let streamed = Streamed::ask(&mut client, payload).await;
    let usage = json!({"inputTokens": 1000, "outputTokens": 100});
    assert_eq!(
        streamed.chunks,
        [
            json!({"type": "text", "text": "Grüße"}),
            json!({"type": "thinking", "text": "Hm"}),
            json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}}),
            json!({"type": "usage", "usage": usage}),
        ]
    );
    let response = streamed.complete();
    assert_eq!((&response["content"], &response["usage"]), (&json!("Grüße"), &usage));
    assert_eq!((&response["stopReason"], &response["costUsd"]), (&json!("end"), &json!(0.0075)));

    let request = &upstream.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{head}");
    for header in
        ["anthropic-version: 2023-06-01", "content-type: application/json", "accept: text/event-stream"]
    {
        assert!(head.lines().any(|line| line == header), "{header}: {head}");
    }
    assert!(head.lines().any(|line| line == format!("x-api-key: {TOKEN}")));
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = json!({
        "model": "claude-opus-5", "max_tokens": 16384, "stream": true, "system": "Be brief", "temperature": 1.0,
        "stop_sequences": ["END"], "messages": [{"role": "user", "content": "Hello"}],
    });
    assert_eq!(body, expected);
    house.close().await;
}

#[tokio::test]
async fn openai_is_asked_and_understood() {
    let house = new_house().await;
    let choice = |delta: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    let events = [
        choice(json!({"role": "assistant", "content": ""})),
        choice(json!({"content": "Hel"})),
        choice(json!({"content": "lo"})),
        choice(
            json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"a\""}}]}),
        ),
        choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}),
    ];
    let answered = sse(&events) + "data: [DONE]\n\n";
    let plain = json!({"choices": [{"message": {"content": "Whole"}, "finish_reason": "stop"}]}).to_string();
    let upstream = Upstream::start(vec![
        vec![Step::Trickle(stream(&answered)), Step::Hold],
        vec![Step::Send(status("200 OK", "content-type: application/json\r\n", &plain))],
    ])
    .await;
    let mut client = client_of(&house, "openai", &upstream).await;
    point_at(&mut client, "openai", &format!("{}/v1/", upstream.url)).await;
    let mut payload = question("openai", "local", "Hello");
    payload["maxTokens"] = json!(50);
    let streamed = Streamed::ask(&mut client, payload.clone()).await;
    assert_eq!(streamed.chunks.len(), 4);
    assert_eq!(streamed.chunks[2], json!({"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}));
    let response = streamed.complete();
    assert_eq!((&response["content"], &response["stopReason"]), (&json!("Hello"), &json!("tool_use")));
    assert_eq!((&response["usage"]["inputTokens"], &response["costUsd"]), (&json!(9), &Value::Null));

    // Not as a stream, and never counted.
    payload["stream"] = json!(false);
    let response = client.call("ai:chat", payload).await;
    assert_eq!((&response["content"], &response["stopReason"]), (&json!("Whole"), &json!("end")));
    assert_eq!(response["usage"], json!({"inputTokens": 0, "outputTokens": 0}));

    let requests = upstream.requests();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.lines().any(|line| line == format!("authorization: Bearer {TOKEN}")));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["max_tokens"], &body["stream_options"]), (&json!(50), &json!({"include_usage": true})));
    let (_, body) = requests[1].split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["stream"], false);
    house.close().await;
}

#[tokio::test]
async fn what_fails_in_passing_is_tried_twice_more_before_the_first_chunk_and_never_after() {
    let refused = |line: &str, headers: &str| {
        let body = json!({"type": "error", "error": {"type": "x", "message": "Not now"}}).to_string();
        vec![Step::Send(status(line, headers, &body))]
    };
    let well = vec![Step::Send(answer())];
    let early = vec![Step::Send(stream(&sse(&[&anthropic_start()[..], &[overloaded()]].concat())))];
    let late =
        vec![Step::Send(stream(&sse(&[&anthropic_start()[..], &[delta("Gr"), overloaded()]].concat())))];
    // The scripts, how many of them are played, what the error says.
    type Case = (Vec<Vec<Step>>, usize, Option<&'static str>);
    let cases: Vec<Case> = vec![
        (vec![refused("500 Oops", ""), well.clone()], 2, None),
        (vec![refused("529 Overloaded", ""), refused("503 Busy", ""), well.clone()], 3, None),
        (vec![refused("429 Too Many", "retry-after: 0\r\n"), well.clone()], 2, None),
        (vec![refused("429 Too Many", "retry-after-ms: 5\r\n"), well.clone()], 2, None),
        (vec![early.clone(), well.clone()], 2, None),
        (vec![refused("529 Overloaded", ""); 4], 3, Some("anthropic: 529: Not now")),
        (
            vec![early.clone(), early.clone(), early, well.clone()],
            3,
            Some("anthropic: overloaded_error: Overloaded"),
        ),
        (vec![late, well.clone()], 1, Some("anthropic: overloaded_error: Overloaded")),
        (vec![refused("400 Bad", ""), well.clone()], 1, Some("anthropic: 400: Not now")),
        (vec![refused("404 No", ""), well.clone()], 1, Some("anthropic: 404: Not now")),
        (
            vec![refused("429 Too Many", "retry-after: 3600\r\n"), well.clone()],
            1,
            Some("anthropic: 429: Not now"),
        ),
    ];
    let house = new_house().await;
    for (index, (scripts, played, says)) in cases.into_iter().enumerate() {
        let upstream = Upstream::start(scripts).await;
        let mut client = client_of(&house, "anthropic", &upstream).await;
        let streamed = Streamed::ask(&mut client, ask()).await;
        match says {
            None => assert_eq!(streamed.complete()["content"], "Grüße, Welt", "case {index}"),
            Some(says) => assert_eq!(streamed.error()["message"], says, "case {index}"),
        }
        assert_eq!(upstream.requests().len(), played, "case {index}");
        assert_eq!(streamed.chunks.is_empty(), says.is_some() && !streamed.text().starts_with("Gr"));
        if index == 10 {
            assert_eq!(streamed.error()["details"]["retryAfterMs"], 3_600_000);
        }
    }
    house.close().await;
}

#[tokio::test]
async fn a_provider_that_says_when_to_come_back_is_obeyed() {
    let house = new_house().await;
    let busy = status("429 Too Many", "retry-after: 1\r\n", "");
    let upstream = Upstream::start(vec![vec![Step::Send(busy)], vec![Step::Send(answer())]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let started = Instant::now();
    assert_eq!(client.call("ai:chat", ask()).await["content"], "Grüße, Welt");
    assert!(started.elapsed() >= Duration::from_secs(1));
    house.close().await;
}

#[tokio::test]
async fn a_broken_answer_is_an_error_behind_the_chunks_that_came() {
    let begun = |rest: &str| {
        let start = sse(&[&anthropic_start()[..], &[delta("Gr")]].concat());
        vec![Step::Send(stream(&format!("{start}{rest}")))]
    };
    let half = sse(&[delta("never seen")]);
    let long = format!("data: {}", "x".repeat(10 << 20));
    let chunked =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n: hi\n\r\nfff\r\nshort".to_vec();
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n: hi".to_vec();
    for (script, chunks, says) in [
        (begun(&half[..half.len() / 2]), 1, "the stream ended before its last event"),
        (begun(""), 1, "the stream ended before its last event"),
        (begun("data: {\n\n"), 1, "no JSON"),
        (begun(&long), 1, "a line of more than 4194304 bytes"),
        (vec![Step::Send(chunked)], 0, "the connection broke"),
        (vec![Step::Send(announced)], 0, "the connection broke"),
        (vec![Step::Send(stream(""))], 0, "the stream ended before its last event"),
        (vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())], 0, "the connection broke"),
        (vec![], 0, "the connection broke"),
        (vec![Step::Send(status("302 Found", "location: http://localhost/\r\n", ""))], 0, "302: a redirect"),
        (vec![Step::Send(status("401 No", "", TOKEN))], 0, "401: the key was refused"),
        (vec![Step::Send(status("400 No", "", &format!("not {TOKEN}!\nmore")))], 0, "400: not ***!"),
        (vec![Step::Send(status("200 OK", "content-encoding: gzip\r\n", "x"))], 0, "compressed"),
        (
            vec![Step::Send(status("200 OK", "content-type: application/json\r\n", "{}"))],
            0,
            "without content",
        ),
    ] {
        let house = new_house().await;
        let upstream = Upstream::start(vec![script]).await;
        let mut client = client_of(&house, "anthropic", &upstream).await;
        let streamed = Streamed::ask(&mut client, ask()).await;
        let message = streamed.error()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("anthropic: ") && message.contains(says), "{says}: {message}");
        assert_eq!((streamed.chunks.len(), upstream.requests().len()), (chunks, 1), "{says}");
        assert!(!format!("{}{}", streamed.last, streamed.response).contains(TOKEN));
        house.close().await;
    }
}

#[tokio::test]
async fn a_silent_provider_is_given_up_and_its_connection_closed() {
    let idle_timeout = Duration::from_millis(100);
    let house = house_with(AiConfig { idle_timeout, ..AiConfig::default() }).await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Hold], vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    for (chunks, says) in [(0, "anthropic: no response for 100 ms"), (1, "anthropic: silence for 100 ms")] {
        let streamed = Streamed::ask(&mut client, ask()).await;
        assert_eq!((&streamed.error()["message"], streamed.chunks.len()), (&json!(says), chunks));
        upstream.closed.recv().await.unwrap();
    }
    house.close().await;
}

#[tokio::test]
async fn an_answer_has_a_deadline_and_a_length() {
    let config =
        AiConfig { max_duration: Duration::from_millis(200), max_answer_bytes: 10, ..AiConfig::default() };
    let house = house_with(config).await;
    let start = stream(&sse(&anthropic_start()));
    let mut upstream =
        Upstream::start(vec![vec![Step::Send(start), Step::Hold], vec![Step::Send(answer())]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let error = Streamed::ask(&mut client, ask()).await.error();
    assert_eq!((&error["code"], &error["message"]), (&json!("TIMEOUT"), &json!("no answer within 200 ms")));
    upstream.closed.recv().await.unwrap();
    let streamed = Streamed::ask(&mut client, ask()).await;
    assert_eq!(streamed.error()["message"], "anthropic: the answer is longer than 10 bytes");
    assert_eq!(streamed.text(), "Grüße,");
    house.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_question_along() {
    let house = new_house().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    client.send("ai:chat-stream", ask()).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), upstream.closed.recv()).await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn streams_of_one_client_run_beside_each_other() {
    let house = new_house().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    client.send("ai:chat-stream", ask()).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    assert_eq!(Streamed::ask(&mut client, question("echo", "echo", "a b")).await.text(), "a b");
    house.close().await;
}

#[tokio::test]
async fn question_and_answer_are_stored_together_or_not_at_all() {
    let house = new_house().await;
    let broken = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let tool = [
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}),
        json!({"type": "content_block_stop", "index": 1}),
    ];
    let tool =
        stream(&sse(&[anthropic_start(), vec![delta("Look")], tool.to_vec(), anthropic_end()].concat()));
    let upstream =
        Upstream::start(vec![vec![Step::Send(answer())], vec![Step::Send(broken)], vec![Step::Send(tool)]])
            .await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let mut witness = Client::connect(house.port).await;
    let chat = client.call("chat:create", json!({})).await;
    client.event("chat:created").await;
    witness.event("chat:created").await;
    let blocks = json!([{"type": "text", "text": "Hello"}, {"type": "image", "source": {"z": 1, "a": 2}}]);
    let mut payload = ask();
    payload["chatId"] = chat["id"].clone();
    payload["messages"] = json!([
        {"role": "user", "content": "Earlier"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": blocks},
    ]);
    Streamed::ask(&mut client, payload.clone()).await.complete();
    let stored = [witness.event("chat:message-added").await, witness.event("chat:message-added").await];
    let page = client.call("chat:get-messages", json!({"chatId": chat["id"]})).await;
    assert_eq!(page["messages"], json!(stored));
    assert_eq!((&stored[0]["role"], &stored[0]["content"]), (&json!("user"), &blocks));
    assert_eq!((&stored[1]["role"], &stored[1]["content"]), (&json!("assistant"), &json!("Grüße, Welt")));
    assert_eq!((&stored[1]["provider"], &stored[1]["model"]), (&json!("anthropic"), &json!("claude-opus-5")));
    assert_eq!(stored[1]["usage"], json!({"inputTokens": 1000, "outputTokens": 100}));

    Streamed::ask(&mut client, payload.clone()).await.error();
    assert_eq!(
        client.call("chat:get-messages", json!({"chatId": chat["id"]})).await,
        page,
        "no half exchange"
    );

    // Without events too, and with the tools that the model wants used.
    client.call("ai:chat", payload).await;
    let page = client.call("chat:get-messages", json!({"chatId": chat["id"]})).await;
    let expected =
        json!([{"type": "text", "text": "Look"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]);
    assert_eq!(page["messages"][3]["content"], expected);
    house.close().await;
}

#[tokio::test]
async fn a_chat_must_be_there_before_anything_is_paid_for_and_when_the_answer_is() {
    let house = new_house().await;
    let go_on = Arc::new(Notify::new());
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let end = sse(&anthropic_end()).into_bytes();
    let upstream =
        Upstream::start(vec![vec![Step::Send(start), Step::Await(go_on.clone()), Step::Send(end)]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let mut payload = ask();
    payload["chatId"] = json!("nobody");
    assert_eq!(client.refuse("ai:chat", payload.clone()).await["details"]["path"], "chatId");
    assert_eq!(upstream.requests(), [""; 0]);

    let chat = client.call("chat:create", json!({})).await;
    client.event("chat:created").await;
    payload["chatId"] = chat["id"].clone();
    let id = client.send("ai:chat-stream", payload).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    let mut other = Client::connect(house.port).await;
    other.call("chat:delete", json!({"id": chat["id"]})).await;
    assert_eq!(client.next().await.unwrap()["channel"], "chat:deleted");
    go_on.notify_one();
    let error = Streamed::collect(&mut client, id).await.error();
    assert_eq!(
        (&error["details"]["path"], &error["details"]["got"]),
        (&json!("chatId"), &json!("an unknown id"))
    );
    house.close().await;
}

#[tokio::test]
async fn a_server_that_stops_in_mid_answer_ends_the_question_and_stores_nothing() {
    let house = new_house().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let chat = client.call("chat:create", json!({})).await;
    client.event("chat:created").await;
    let mut payload = ask();
    payload["chatId"] = chat["id"].clone();
    client.send("ai:chat-stream", payload).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    house.server.stop().await;
    upstream.closed.recv().await.unwrap();
    house.backend.close().await;

    let backend = Backend::open(BackendConfig::new(house.folder.path().join("data"))).unwrap();
    let server = Server::new(Config::default().port(0));
    register_all(&server, &backend);
    let mut client = Client::connect(server.start().await.unwrap()).await;
    assert_eq!(client.call("chat:get", json!({"id": chat["id"]})).await, chat);
    drop(client);
    server.stop().await;
    backend.close().await;
}

#[tokio::test]
async fn models_are_the_providers_own_with_prices_or_those_known_here() {
    let house = new_house().await;
    let list =
        json!({"data": [{"id": "claude-opus-5", "display_name": "Opus"}, {"id": "new-one"}]}).to_string();
    let json_type = "content-type: application/json\r\n";
    let upstream = Upstream::start(vec![
        vec![Step::Send(status("200 OK", json_type, &list))],
        vec![Step::Send(status("400 No", "", "no list today"))],
        vec![Step::Send(status("400 No", "", "no list today"))],
    ])
    .await;
    let mut client = Client::connect(house.port).await;
    let echo = json!([{
        "id": "echo", "provider": "echo", "name": "Echo", "contextWindow": null, "maxOutput": null,
        "inputUsdPerMTok": 0.0, "outputUsdPerMTok": 0.0,
    }]);
    assert_eq!(client.call("ai:models", json!({"provider": "echo"})).await, echo);
    let known = client.call("ai:models", Value::Null).await;
    for provider in ["anthropic", "openai", "echo"] {
        let listed = client.call("ai:models", json!({"provider": provider})).await;
        let models = known.as_array().unwrap().iter().filter(|model| model["provider"] == provider);
        assert_eq!(listed, models.cloned().collect::<Value>());
        assert!(!listed.as_array().unwrap().is_empty());
    }
    assert_eq!(client.call("ai:has-credentials", json!({"provider": "anthropic"})).await, false);
    assert_eq!(client.call("ai:has-credentials", json!({"provider": "echo"})).await, true);
    let error = client.refuse("ai:chat", ask()).await;
    assert_eq!(error["message"], "anthropic: there is no key: set the credential \"anthropic\"");
    assert_eq!(client.refuse("ai:chat", question("openai", "gpt-5", "x")).await["code"], "HANDLER_ERROR");

    let mut client = client_of(&house, "anthropic", &upstream).await;
    assert_eq!(client.call("ai:has-credentials", json!({"provider": "anthropic"})).await, true);
    for _ in 0..2 {
        let listed = client.call("ai:models", json!({"provider": "anthropic"})).await;
        let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|model| &model["name"]).collect();
        assert_eq!(names, ["Opus", "new-one"]);
        assert_eq!(listed[0]["inputUsdPerMTok"], 5.0);
        assert_eq!(upstream.requests().len(), 1, "the second answer is the first one, kept");
    }
    assert!(upstream.requests()[0].starts_with("GET /v1/models?limit=1000 HTTP/1.1\r\n"));

    // Another address is another list.
    point_at(&mut client, "anthropic", &format!("{}/", upstream.url)).await;
    let error = client.refuse("ai:models", json!({"provider": "anthropic"})).await;
    assert_eq!(error["message"], "anthropic: 400: no list today");
    assert_eq!(client.call("ai:models", Value::Null).await, known, "what is known stands in for what fails");
    house.close().await;
}

#[tokio::test]
async fn a_key_may_come_with_the_configuration_and_a_server_nearby_needs_none() {
    let done = sse(&[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})]);
    let upstream =
        Upstream::start(vec![vec![Step::Send(stream(&done))], vec![Step::Send(stream(&done))]]).await;
    for (keys, has) in [(vec![("openai".to_owned(), Token::new("sk-env"))], true), (vec![], false)] {
        let house =
            house_with(AiConfig { api_keys: keys.into_iter().collect(), ..AiConfig::default() }).await;
        let mut client = Client::connect(house.port).await;
        point_at(&mut client, "openai", &upstream.url).await;
        assert_eq!(client.call("ai:has-credentials", json!({"provider": "openai"})).await, has);
        client.call("ai:chat", question("openai", "m", "x")).await;
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.contains("authorization: Bearer sk-env"), has);
        assert_eq!(request.contains("authorization"), has);
        house.close().await;
    }
}

#[tokio::test]
async fn the_key_is_seen_by_the_provider_alone() {
    let house = new_house().await;
    let parrot = |line: &str| {
        vec![Step::Send(status(line, &format!("x-key: {TOKEN}\r\n"), &format!("{TOKEN} {TOKEN}")))]
    };
    let error = json!({"type": "error", "error": {"type": "x", "message": format!("bad {TOKEN}")}});
    let upstream = Upstream::start(vec![
        parrot("401 No"),
        parrot("400 No"),
        vec![Step::Send(stream(&sse(&[error])))],
        vec![Step::Send(answer())],
    ])
    .await;
    let mut client = client_of(&house, "anthropic", &upstream).await;
    let mut seen = String::new();
    for _ in 0..4 {
        let streamed = Streamed::ask(&mut client, ask()).await;
        seen += &format!("{}{}", streamed.last, streamed.response);
    }
    for (channel, payload) in [
        ("ai:models", Value::Null),
        ("ai:has-credentials", json!({"provider": "anthropic"})),
        ("system:stats", Value::Null),
    ] {
        seen += &client.respond(channel, payload).await.to_string();
    }
    seen += &format!("{:?} {:?}", house.backend, house.server);
    assert!(!seen.contains(TOKEN), "{seen}");
    assert!(seen.contains("bad ***"));
    assert!(upstream.requests().iter().all(|request| request.contains(TOKEN)));
    // A key is not sent where others can read along.
    point_at(&mut client, "anthropic", "http://anthropic.example").await;
    let error = client.refuse("ai:chat", ask()).await;
    assert!(error["message"].as_str().unwrap().contains("http://"), "{error}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_trusts_the_certificates_of_the_system_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, acceptor)) = certificate::localhost(folder.path()) else {
        return skip::skipped("https:// with a certificate by the openssl command, which is not installed");
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = seen.clone();
    tokio::spawn(async move {
        let (tell, _told) = mpsc::unbounded_channel();
        while let Ok((stream, _)) = listener.accept().await {
            let stream: TcpStream = stream;
            // A client that does not trust the certificate ends the handshake.
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(play(stream, vec![Step::Send(answer())], requests.clone(), tell.clone()));
            }
        }
    });
    let mut command = program::command(&folder.path().join("data"));
    command.env("SSL_CERT_FILE", &certificate).env("ANTHROPIC_API_KEY", TOKEN);
    let program = program::Program::spawn(command);
    let mut client = Client::connect(program.port).await;
    for (host, trusted) in [("127.0.0.1", false), ("localhost", true)] {
        point_at(&mut client, "anthropic", &format!("https://{host}:{upstream}")).await;
        let response = client.respond("ai:chat", ask()).await;
        assert_eq!(response.get("error").is_none(), trusted, "{response}");
        assert_eq!(
            seen.lock().unwrap().len(),
            usize::from(trusted),
            "nothing is said before the certificate is checked"
        );
        assert!(!response.to_string().contains(TOKEN));
    }
    program.stop("-INT");

    // A certificate that the system does not know.
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    client.call("credentials:set", json!({"key": "anthropic", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    point_at(&mut client, "anthropic", &format!("https://localhost:{upstream}")).await;
    let error = client.refuse("ai:chat", ask()).await;
    assert!(error["message"].as_str().unwrap().contains("no connection: "), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
    house.close().await;
}

#[tokio::test]
async fn a_crash_in_mid_answer_stores_nothing_and_the_next_answer_whole() {
    let begun = stream(&sse(&[anthropic_start(), vec![delta("Grüße,")]].concat()));
    let upstream =
        Upstream::start(vec![vec![Step::Send(begun), Step::Hold], vec![Step::Send(answer())]]).await;
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = program::command(&folder.path().join("data"));
        command.env("ANTHROPIC_API_KEY", TOKEN);
        program::Program::spawn(command)
    };
    let program = start();
    let mut client = Client::connect(program.port).await;
    point_at(&mut client, "anthropic", &upstream.url).await;
    let chat = client.call("chat:create", Value::Null).await["id"].clone();
    client.event("chat:created").await;
    let mut asked = ask();
    asked["chatId"] = chat.clone();
    client.send("ai:chat-stream", asked.clone()).await;
    assert_eq!(client.event("ai:stream-chunk").await["chunk"]["text"], "Grüße,");
    program.kill();

    let program = start();
    let mut client = Client::connect(program.port).await;
    let messages = async |client: &mut Client| {
        let page = client.call("chat:get-messages", json!({"chatId": chat})).await;
        let counted = client.call("chat:get", json!({"id": chat})).await["messageCount"].clone();
        (
            page["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|message| message["role"].clone())
                .collect::<Vec<_>>(),
            counted,
        )
    };
    assert_eq!(messages(&mut client).await, (vec![], json!(0)));
    client.call("ai:chat-stream", asked).await;
    assert_eq!(messages(&mut client).await, (vec![json!("user"), json!("assistant")], json!(2)));
    program.stop("-INT");
}

#[tokio::test]
async fn a_mock_of_both_providers_by_somebody_else_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = json!({"fixtures": [
        {"match": {"userMessage": "say"}, "response": {"content": "Streamed by somebody else's server: Grüße."}},
        {"match": {"userMessage": "use"}, "response": {"toolCalls": [
            {"name": "get_weather", "arguments": "{\"city\":\"Berlin\",\"days\":[1,2]}"}]}},
        {"match": {"userMessage": "think"}, "response": {"content": "Done.", "reasoning": "Let me think."}},
        {"match": {"userMessage": "fail"}, "response": {"error": {"message": "No such luck", "type": "invalid_request_error"}, "status": 400}},
    ]});
    let Some(mock) = Mock::start(folder.path(), &fixtures) else {
        return skip::skipped("npm's @copilotkit/aimock, which is not installed");
    };
    let house = new_house().await;
    let mut client = Client::connect(house.port).await;
    for (provider, base) in [("anthropic", mock.url.clone()), ("openai", format!("{}/v1", mock.url))] {
        point_at(&mut client, provider, &base).await;
        client.call("credentials:set", json!({"key": provider, "token": TOKEN})).await;
        client.event("credentials:changed").await;

        let said = "Streamed by somebody else's server: Grüße.";
        let streamed = Streamed::ask(&mut client, question(provider, "m", "say")).await;
        assert_eq!(streamed.text(), said);
        assert!(streamed.chunks.len() > 5, "{:?}", streamed.chunks);
        let response = streamed.complete();
        assert_eq!((&response["content"], &response["stopReason"]), (&json!(said), &json!("end")));
        let mut whole = question(provider, "m", "say");
        whole["stream"] = json!(false);
        assert_eq!(client.call("ai:chat", whole).await["content"], said);

        let streamed = Streamed::ask(&mut client, question(provider, "m", "use")).await;
        let tools: Vec<_> = streamed.chunks.iter().filter(|chunk| chunk["type"] == "tool_use").collect();
        assert_eq!(tools.len(), 1);
        assert_eq!(tools[0]["name"], "get_weather");
        assert_eq!(tools[0]["input"], json!({"city": "Berlin", "days": [1, 2]}));
        assert_eq!(streamed.complete()["stopReason"], "tool_use");

        let streamed = Streamed::ask(&mut client, question(provider, "m", "think")).await;
        let thought = streamed.chunks.iter().filter(|chunk| chunk["type"] == "thinking");
        assert_eq!(thought.map(|chunk| chunk["text"].as_str().unwrap()).collect::<String>(), "Let me think.");
        assert_eq!(streamed.complete()["content"], "Done.");

        let error = Streamed::ask(&mut client, question(provider, "m", "fail")).await.error();
        assert_eq!(error["message"], format!("{provider}: 400: No such luck"));
    }
    let listed = client.call("ai:models", json!({"provider": "openai"})).await;
    let gpt = listed.as_array().unwrap().iter().find(|model| model["id"] == "gpt-4o").unwrap();
    assert_eq!((&gpt["inputUsdPerMTok"], &gpt["contextWindow"]), (&json!(2.5), &json!(128_000)));
    house.close().await;
}
