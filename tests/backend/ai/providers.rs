//! What each provider is sent, and how its answers, errors and models are read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::setup::*;
use crate::support::client::Client;
use crate::support::mock::Mock;
use crate::support::skip;
use crate::support::upstream::{Step, Upstream, status};

#[tokio::test]
async fn requests_to_anthropic_and_its_answers_have_the_right_form() {
    let host = new_host().await;
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
    let mut client = client_of(&host, "anthropic", &upstream).await;
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
    host.close().await;
}

#[tokio::test]
async fn requests_to_openai_and_its_answers_have_the_right_form() {
    let host = new_host().await;
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
    let mut client = client_of(&host, "openai", &upstream).await;
    point_at(&mut client, "openai", &format!("{}/v1/", upstream.url)).await;
    let mut payload = question("openai", "local", "Hello");
    payload["maxTokens"] = json!(50);
    let streamed = Streamed::ask(&mut client, payload.clone()).await;
    assert_eq!(streamed.chunks.len(), 4);
    assert_eq!(streamed.chunks[2], json!({"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}));
    let response = streamed.complete();
    assert_eq!((&response["content"], &response["stopReason"]), (&json!("Hello"), &json!("tool_use")));
    assert_eq!((&response["usage"]["inputTokens"], &response["costUsd"]), (&json!(9), &Value::Null));

    // Not a stream, and not counted.
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
    host.close().await;
}

#[tokio::test]
async fn temporary_errors_are_retried_twice_before_the_first_chunk_only() {
    let refused = |line: &str, headers: &str| {
        let body = json!({"type": "error", "error": {"type": "x", "message": "Not now"}}).to_string();
        vec![Step::Send(status(line, headers, &body))]
    };
    let well = vec![Step::Send(answer())];
    let early = vec![Step::Send(stream(&sse(&[&anthropic_start()[..], &[overloaded()]].concat())))];
    let late =
        vec![Step::Send(stream(&sse(&[&anthropic_start()[..], &[delta("Gr"), overloaded()]].concat())))];
    // The scripts, how many of them are played, and the error.
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
    let host = new_host().await;
    for (index, (scripts, played, says)) in cases.into_iter().enumerate() {
        let upstream = Upstream::start(scripts).await;
        let mut client = client_of(&host, "anthropic", &upstream).await;
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
    host.close().await;
}

#[tokio::test]
async fn retry_after_of_a_provider_is_respected() {
    let host = new_host().await;
    let busy = status("429 Too Many", "retry-after: 1\r\n", "");
    let upstream = Upstream::start(vec![vec![Step::Send(busy)], vec![Step::Send(answer())]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let started = Instant::now();
    assert_eq!(client.call("ai:chat", ask()).await["content"], "Grüße, Welt");
    assert!(started.elapsed() >= Duration::from_secs(1));
    host.close().await;
}

#[tokio::test]
async fn models_come_from_the_provider_or_from_the_built_in_list() {
    let host = new_host().await;
    let list =
        json!({"data": [{"id": "claude-opus-5", "display_name": "Opus"}, {"id": "new-one"}]}).to_string();
    let json_type = "content-type: application/json\r\n";
    let upstream = Upstream::start(vec![
        vec![Step::Send(status("200 OK", json_type, &list))],
        vec![Step::Send(status("400 No", "", "no list today"))],
        vec![Step::Send(status("400 No", "", "no list today"))],
    ])
    .await;
    let mut client = Client::connect(host.port).await;
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
    assert_eq!(error["message"], "anthropic: no API key; set the credential \"anthropic\"");
    assert_eq!(client.refuse("ai:chat", question("openai", "gpt-5", "x")).await["code"], "HANDLER_ERROR");

    let mut client = client_of(&host, "anthropic", &upstream).await;
    assert_eq!(client.call("ai:has-credentials", json!({"provider": "anthropic"})).await, true);
    for _ in 0..2 {
        let listed = client.call("ai:models", json!({"provider": "anthropic"})).await;
        let names: Vec<&Value> = listed.as_array().unwrap().iter().map(|model| &model["name"]).collect();
        assert_eq!(names, ["Opus", "new-one"]);
        assert_eq!(listed[0]["inputUsdPerMTok"], 5.0);
        assert_eq!(upstream.requests().len(), 1, "the second answer is the cached first one");
    }
    assert!(upstream.requests()[0].starts_with("GET /v1/models?limit=1000 HTTP/1.1\r\n"));

    // Each address has its own list.
    point_at(&mut client, "anthropic", &format!("{}/", upstream.url)).await;
    let error = client.refuse("ai:models", json!({"provider": "anthropic"})).await;
    assert_eq!(error["message"], "anthropic: 400: no list today");
    assert_eq!(
        client.call("ai:models", Value::Null).await,
        known,
        "the built-in list replaces one that failed"
    );
    host.close().await;
}

#[tokio::test]
async fn a_third_party_mock_of_both_providers_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = json!({"fixtures": [
        {"match": {"userMessage": "say"}, "response": {"content": "Streamed by a third-party server: Grüße."}},
        {"match": {"userMessage": "use"}, "response": {"toolCalls": [
            {"name": "get_weather", "arguments": "{\"city\":\"Berlin\",\"days\":[1,2]}"}]}},
        {"match": {"userMessage": "think"}, "response": {"content": "Done.", "reasoning": "Let me think."}},
        {"match": {"userMessage": "fail"}, "response": {"error": {"message": "No such luck", "type": "invalid_request_error"}, "status": 400}},
    ]});
    let Some(mock) = Mock::start(folder.path(), &fixtures) else {
        return skip::skipped("npm's @copilotkit/aimock, which is not installed");
    };
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    for (provider, base) in [("anthropic", mock.url.clone()), ("openai", format!("{}/v1", mock.url))] {
        point_at(&mut client, provider, &base).await;
        client.call("credentials:set", json!({"key": provider, "token": TOKEN})).await;
        client.event("credentials:changed").await;

        let said = "Streamed by a third-party server: Grüße.";
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
    host.close().await;
}
