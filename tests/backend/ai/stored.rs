//! Questions and answers that are stored in a chat: both or neither.

use std::sync::Arc;

use serde_json::{Value, json};
use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, Server};
use tokio::sync::Notify;

use super::setup::*;
use crate::support::client::Client;
use crate::support::program;
use crate::support::upstream::{Step, Upstream};

#[tokio::test]
async fn question_and_answer_are_stored_together_or_not_at_all() {
    let host = new_host().await;
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
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let mut witness = Client::connect(host.port).await;
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

    // Also without events, and with the tools that the model wants to use.
    client.call("ai:chat", payload).await;
    let page = client.call("chat:get-messages", json!({"chatId": chat["id"]})).await;
    let expected =
        json!([{"type": "text", "text": "Look"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]);
    assert_eq!(page["messages"][3]["content"], expected);
    host.close().await;
}

#[tokio::test]
async fn a_chat_must_exist_before_the_request_and_when_the_answer_arrives() {
    let host = new_host().await;
    let go_on = Arc::new(Notify::new());
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let end = sse(&anthropic_end()).into_bytes();
    let upstream =
        Upstream::start(vec![vec![Step::Send(start), Step::Await(go_on.clone()), Step::Send(end)]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let mut payload = ask();
    payload["chatId"] = json!("unknown");
    assert_eq!(client.refuse("ai:chat", payload.clone()).await["details"]["path"], "chatId");
    assert_eq!(upstream.requests(), [""; 0]);

    let chat = client.call("chat:create", json!({})).await;
    client.event("chat:created").await;
    payload["chatId"] = chat["id"].clone();
    let id = client.send("ai:chat-stream", payload).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    let mut other = Client::connect(host.port).await;
    other.call("chat:delete", json!({"id": chat["id"]})).await;
    assert_eq!(client.next().await.unwrap()["channel"], "chat:deleted");
    go_on.notify_one();
    let error = Streamed::collect(&mut client, id).await.error();
    assert_eq!(
        (&error["details"]["path"], &error["details"]["got"]),
        (&json!("chatId"), &json!("an unknown id"))
    );
    host.close().await;
}

#[tokio::test]
async fn stopping_the_server_aborts_an_answer_and_stores_nothing() {
    let host = new_host().await;
    let start = stream(&sse(&[&anthropic_start()[..], &[delta("Gr")]].concat()));
    let mut upstream = Upstream::start(vec![vec![Step::Send(start), Step::Hold]]).await;
    let mut client = client_of(&host, "anthropic", &upstream).await;
    let chat = client.call("chat:create", json!({})).await;
    client.event("chat:created").await;
    let mut payload = ask();
    payload["chatId"] = chat["id"].clone();
    client.send("ai:chat-stream", payload).await;
    assert_eq!(client.next().await.unwrap()["channel"], "ai:stream-chunk");
    host.server.stop().await;
    upstream.closed.recv().await.unwrap();
    host.backend.close().await;

    let backend = Backend::open(BackendConfig::new(host.folder.path().join("data"))).unwrap();
    let server = Server::new(Config::default().port(0));
    register_all(&server, &backend);
    let mut client = Client::connect(server.start().await.unwrap()).await;
    assert_eq!(client.call("chat:get", json!({"id": chat["id"]})).await, chat);
    drop(client);
    server.stop().await;
    backend.close().await;
}

#[tokio::test]
async fn a_crash_during_an_answer_stores_nothing() {
    let started = stream(&sse(&[anthropic_start(), vec![delta("Grüße,")]].concat()));
    let upstream =
        Upstream::start(vec![vec![Step::Send(started), Step::Hold], vec![Step::Send(answer())]]).await;
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
