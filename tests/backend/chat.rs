//! The channel family `chat` over a real socket, on a real database file.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Client, pluck};
use crate::support::host::Host;

/// A host whose pages of results end early.
async fn small(folder: TempDir) -> Host {
    Host::open(folder, |backend, _| backend.db.max_page_bytes = 100_000).await
}

#[tokio::test]
async fn every_client_sees_a_chat_from_creation_to_deletion() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let (mut a, mut b) = (Client::connect(host.port).await, Client::connect(host.port).await);

    let chat = a.call("chat:create", json!({"title": "Groceries", "systemPrompt": "Be brief"})).await;
    assert_eq!(chat["title"], "Groceries");
    assert_eq!((&chat["systemPrompt"], &chat["messageCount"]), (&json!("Be brief"), &json!(0)));
    assert_eq!(chat["createdAt"], chat["updatedAt"]);
    assert_eq!(b.event("chat:created").await, chat);
    // The client that asked receives the event too, before the response.
    assert_eq!(a.event("chat:created").await, chat);
    let id = chat["id"].as_str().unwrap();
    assert_eq!(a.call("chat:get", json!({"id": id})).await, chat);

    let message = a.call("chat:add-message", json!({"chatId": id, "role": "user", "content": "Hi"})).await;
    assert_eq!(message["content"], "Hi");
    let names: Vec<&String> = message.as_object().unwrap().keys().collect();
    assert_eq!(names, ["chatId", "content", "createdAt", "id", "role"]);
    assert_eq!(b.event("chat:message-added").await, message);

    let updated = a.call("chat:update", json!({"id": id, "title": "Dinner", "systemPrompt": null})).await;
    assert_eq!((&updated["title"], &updated["systemPrompt"]), (&json!("Dinner"), &Value::Null));
    assert_eq!(updated["messageCount"], 1);
    assert_eq!(b.event("chat:updated").await, updated);
    // A request that changes nothing emits nothing: the next event is the deletion.
    assert_eq!(a.call("chat:update", json!({"id": id, "title": "Dinner"})).await, updated);

    assert_eq!(a.call("chat:delete", json!({"id": id})).await, json!(true));
    assert_eq!(b.event("chat:deleted").await, json!({"id": id}));
    assert_eq!(a.call("chat:delete", json!({"id": id})).await, json!(false));
    assert_eq!(a.call("chat:get", json!({"id": id})).await, Value::Null);
    assert_eq!(a.call("chat:search", json!({"query": "Hi"})).await, json!([]));
    a.refuse("chat:get-messages", json!({"chatId": id})).await;
    host.close().await;
}

#[tokio::test]
async fn a_message_is_returned_as_it_was_sent() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", Value::Null).await;
    assert_eq!(chat["title"], "New Chat");
    let given = json!({
        "chatId": chat["id"], "role": "assistant", "provider": "p", "model": "m",
        "content": [{"type": "text", "text": "é\u{1f600}\n\""}, {"type": "image", "z": [1.5, null], "a": {"b": -0.0}}],
        "usage": {"inputTokens": 0, "outputTokens": 9_007_199_254_740_991_i64}, "metadata": {"z": {"y": 1}, "a": []},
    });
    let added = client.call("chat:add-message", given.clone()).await;
    let page = client.call("chat:get-messages", json!({"chatId": chat["id"]})).await;
    assert_eq!(page, json!({"messages": [added], "hasMore": false, "nextBefore": null}));
    for (name, value) in given.as_object().unwrap() {
        assert_eq!(&added[name], value, "{name}");
    }
    host.close().await;
}

#[tokio::test]
async fn pages_cover_all_chats_and_messages_without_gap_or_repetition() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    // Created so fast that many share a millisecond.
    let mut ids = Vec::new();
    for n in 0..25 {
        let chat = client.call("chat:create", json!({"title": format!("{n}")})).await;
        ids.push(chat["id"].clone());
    }
    let mut seen = Vec::new();
    let mut query = json!({"limit": 10});
    loop {
        let chats = client.call("chat:list", query).await;
        seen.extend(pluck(&chats, "id").into_iter().cloned());
        let Some(last) = chats.as_array().unwrap().last() else { break };
        query = json!({"limit": 10, "before": last["id"]});
    }
    ids.reverse();
    assert_eq!(seen, ids);

    let chat = ids.last().unwrap().clone();
    let mut written = Vec::new();
    for n in 0..25 {
        let message = json!({"chatId": chat, "role": "user", "content": n.to_string()});
        written.push(client.call("chat:add-message", message).await["id"].clone());
    }
    let top = client.call("chat:list", json!({"limit": 1})).await;
    assert_eq!((&top[0]["id"], &top[0]["messageCount"]), (&chat, &json!(25)));

    let mut read: Vec<Value> = Vec::new();
    let mut query = json!({"chatId": chat, "limit": 10});
    loop {
        let page = client.call("chat:get-messages", query).await;
        let ids: Vec<Value> = pluck(&page["messages"], "id").into_iter().cloned().collect();
        read.splice(0..0, ids);
        assert_eq!(page["hasMore"], json!(!page["nextBefore"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        query = json!({"chatId": chat, "limit": 10, "before": page["nextBefore"]});
    }
    assert_eq!(read, written);
    // A page with exactly all of them says that there are no more.
    let page = client.call("chat:get-messages", json!({"chatId": chat, "limit": 25})).await;
    assert_eq!(page["hasMore"], false);
    host.close().await;
}

#[tokio::test]
async fn a_page_of_results_ends_before_it_is_too_long_to_send() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({})).await;
    for size in [60_000, 60_000, 200_000] {
        let message = json!({"chatId": chat["id"], "role": "user", "content": "x".repeat(size)});
        client.call("chat:add-message", message).await;
    }
    let mut sizes = Vec::new();
    let mut query = json!({"chatId": chat["id"]});
    loop {
        let page = client.call("chat:get-messages", query).await;
        let messages = page["messages"].as_array().unwrap();
        sizes.push(
            messages.iter().map(|message| message["content"].as_str().unwrap().len()).collect::<Vec<_>>(),
        );
        if page["hasMore"] == false {
            break;
        }
        query = json!({"chatId": chat["id"], "before": page["nextBefore"]});
    }
    assert_eq!(sizes, [vec![200_000], vec![60_000], vec![60_000]]);
    host.close().await;
}

#[tokio::test]
async fn search_results_end_before_they_are_too_long_to_send() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({})).await;
    for _ in 0..3 {
        // Snippets consist of whole words.
        let content = format!("needle {}", "x".repeat(40_000));
        client
            .call("chat:add-message", json!({"chatId": chat["id"], "role": "user", "content": content}))
            .await;
    }
    let found = client.call("chat:search", json!({"query": "needle"})).await;
    assert_eq!(found.as_array().unwrap().len(), 2);
    host.close().await;
}

#[tokio::test]
async fn search_finds_and_marks_words_and_accepts_any_text() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    let mut chats = Vec::new();
    for (title, content) in [
        ("One", json!("Buy <b>milk</b> & bread, then more milk")),
        ("Two", json!([{"type": "text", "text": "No MILK today"}, {"type": "text", "text": "Crème brûlée"}])),
    ] {
        let chat = client.call("chat:create", json!({"title": title})).await;
        client
            .call("chat:add-message", json!({"chatId": chat["id"], "role": "user", "content": content}))
            .await;
        chats.push(chat["id"].clone());
    }
    let found = client.call("chat:search", json!({"query": "milk"})).await;
    assert_eq!(found.as_array().unwrap().len(), 2);
    assert!(found[0]["score"].as_f64() >= found[1]["score"].as_f64(), "best first: {found}");
    let in_one = client.call("chat:search", json!({"query": "milk", "chatId": chats[0]})).await;
    assert_eq!(
        in_one[0]["snippet"],
        "Buy &lt;b&gt;<mark>milk</mark>&lt;/b&gt; &amp; bread, then more <mark>milk</mark>"
    );
    assert_eq!((&in_one[0]["chatTitle"], &in_one[0]["role"]), (&json!("One"), &json!("user")));
    for (query, hits) in [
        ("milk bread", 1),
        ("mil", 2),
        ("mil bread", 0),
        ("creme BRULEE", 1),
        ("", 0),
        ("  \u{0} ", 0),
        ("!!!", 0),
        ("milk !!!", 2),
        ("\"", 0),
        ("' OR 1=1 --", 0),
        ("NEAR(milk", 0),
        ("text:milk", 0),
        ("^ * - + :", 0),
        ("\u{fdd0}milk\u{fdd1}", 0),
    ] {
        let found = client.call("chat:search", json!({"query": query})).await;
        assert_eq!(found.as_array().unwrap().len(), hits, "{query:?}: {found}");
    }
    host.close().await;
}

#[tokio::test]
async fn a_long_message_that_matches_everywhere_has_a_snippet_soon() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({})).await;
    let text = "again ".repeat(100_000);
    client.call("chat:add-message", json!({"chatId": chat["id"], "role": "user", "content": text})).await;
    // Comparing every match with every other one would take hours.
    let found = client.call("chat:search", json!({"query": "again"})).await;
    assert!(found[0]["snippet"].as_str().unwrap().starts_with("<mark>again</mark> <mark>again</mark> "));
    assert!(found[0]["snippet"].as_str().unwrap().ends_with(" <mark>again</mark>…"), "{found}");
    host.close().await;
}

#[tokio::test]
async fn a_search_with_too_many_matches_ranks_the_newest_and_says_so() {
    let host = Host::open(tempfile::tempdir().unwrap(), |backend, _| backend.db.max_ranked_rows = 3).await;
    let mut client = Client::connect(host.port).await;
    let mut chats = Vec::new();
    for _ in 0..2 {
        chats.push(client.call("chat:create", json!({})).await["id"].clone());
    }
    // The oldest match is the best one, and only the second is in the other chat.
    let mut ids = Vec::new();
    let texts = [
        "needle",
        "needle and thread",
        "needle and thread, and more",
        "a fourth needle, with many words after it",
    ];
    for (chat, content) in [0, 1, 0, 0].into_iter().zip(texts) {
        let message = json!({"chatId": chats[chat], "role": "user", "content": content});
        ids.push(client.call("chat:add-message", message).await["id"].clone());
        if ids.len() == 3 {
            check_search(&mut client, json!({"query": "needle"}), &[&ids[0], &ids[1], &ids[2]], false).await;
        }
    }
    check_search(&mut client, json!({"query": "needle"}), &[&ids[1], &ids[2], &ids[3]], true).await;
    check_search(&mut client, json!({"query": "needle", "limit": 1}), &[&ids[1]], true).await;
    // Matches that are not searched do not count.
    let in_one = json!({"query": "needle", "chatId": chats[0]});
    check_search(&mut client, in_one, &[&ids[0], &ids[2], &ids[3]], false).await;
    host.close().await;
}

async fn check_search(client: &mut Client, query: Value, ids: &[&Value], truncated: bool) {
    let found = client.call("chat:search", query.clone()).await;
    assert_eq!(pluck(&found, "messageId"), ids, "{query}");
    for hit in found.as_array().unwrap() {
        assert_eq!(hit.get("truncated"), truncated.then_some(&json!(true)), "{query}");
    }
}

#[tokio::test]
async fn a_deleted_chat_is_gone_at_once_although_its_messages_are_removed_later() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut a = Client::connect(host.port).await;
    let mut chats = Vec::new();
    // Its messages are the newest, so they would be the first results.
    for title in ["kept", "deleted"] {
        let id = a.call("chat:create", json!({"title": title})).await["id"].clone();
        for _ in 0..300 {
            a.call("chat:add-message", json!({"chatId": id, "role": "user", "content": "needle"})).await;
        }
        chats.push(id);
    }
    let (mut b, id) = (Client::connect(host.port).await, &chats[1]);
    assert_eq!(a.call("chat:delete", json!({"id": id})).await, true);
    assert_eq!(b.event("chat:deleted").await, json!({"id": id}));
    // Each of these comes while messages of the chat are still on the disk, or after that: the answer is the same.
    for _ in 0..3 {
        assert_eq!(b.call("chat:get", json!({"id": id})).await, Value::Null);
        assert_eq!(pluck(&b.call("chat:list", json!({})).await, "title"), ["kept"]);
        let found = b.call("chat:search", json!({"query": "needle", "limit": 100})).await;
        assert!(pluck(&found, "chatTitle").iter().all(|title| *title == "kept") && found[99].is_object());
        b.refuse_member("chat:list", json!({"before": id}), "before").await;
        b.refuse_member("chat:get-messages", json!({"chatId": id}), "chatId").await;
        b.refuse_member("chat:search", json!({"query": "needle", "chatId": id}), "chatId").await;
        b.refuse_member("chat:update", json!({"id": id, "title": "back"}), "id").await;
        let message = json!({"chatId": id, "role": "user", "content": "late"});
        b.refuse_member("chat:add-message", message, "chatId").await;
        assert_eq!(b.call("chat:delete", json!({"id": id})).await, false);
    }
    host.close().await;
}

#[tokio::test]
async fn concurrent_clients_lose_nothing_and_see_changes_in_one_order() {
    let host = small(tempfile::tempdir().unwrap()).await;
    let mut witness = Client::connect(host.port).await;
    let chat = witness.call("chat:create", json!({})).await;
    witness.event("chat:created").await;
    let writers = (0..8).map(|writer| {
        let (port, chat) = (host.port, chat["id"].clone());
        tokio::spawn(async move {
            let mut client = Client::connect(port).await;
            for n in 0..50 {
                let message = json!({"chatId": chat, "role": "user", "content": format!("{writer}/{n}")});
                client.call("chat:add-message", message).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut told = Vec::new();
    for _ in 0..400 {
        told.push(witness.event("chat:message-added").await);
    }
    let page = witness.call("chat:get-messages", json!({"chatId": chat["id"], "limit": 500})).await;
    assert_eq!(page["messages"], json!(told));
    assert_eq!(witness.call("chat:get", json!({"id": chat["id"]})).await["messageCount"], 400);
    host.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await;
    let id = &chat["id"];
    let message = |change: Value| {
        let mut message = json!({"chatId": id, "role": "user", "content": "x"});
        for (name, value) in change.as_object().unwrap() {
            message[name] = value.clone();
        }
        message
    };
    for (channel, payload, path) in [
        ("chat:list", json!([]), "payload"),
        ("chat:list", json!({"limit": 0}), "limit"),
        ("chat:list", json!({"limit": 501}), "limit"),
        ("chat:list", json!({"limit": "5"}), "limit"),
        ("chat:list", json!({"before": "unknown"}), "before"),
        ("chat:create", json!({"title": ""}), "title"),
        ("chat:create", json!({"title": "x".repeat(1025)}), "title"),
        ("chat:create", json!({"systemPrompt": 5}), "systemPrompt"),
        ("chat:create", json!({"systemPrompt": "x".repeat((64 << 10) + 1)}), "systemPrompt"),
        ("chat:get", json!({}), "id"),
        ("chat:get", Value::Null, "id"),
        ("chat:get", json!({"id": 7}), "id"),
        ("chat:update", json!({"id": "unknown", "title": "x"}), "id"),
        ("chat:delete", json!("x"), "payload"),
        ("chat:get-messages", json!({"chatId": "unknown"}), "chatId"),
        ("chat:get-messages", json!({"chatId": id, "before": "unknown"}), "before"),
        ("chat:add-message", message(json!({"chatId": "unknown"})), "chatId"),
        ("chat:add-message", message(json!({"role": "boss"})), "role"),
        ("chat:add-message", message(json!({"content": null})), "content"),
        ("chat:add-message", message(json!({"content": ["x"]})), "content[0]"),
        (
            "chat:add-message",
            message(json!({"content": [{"type": "text"}, {"text": "x"}]})),
            "content[1].type",
        ),
        ("chat:add-message", message(json!({"content": "x".repeat((1 << 20) + 1)})), "content"),
        ("chat:add-message", message(json!({"usage": {"inputTokens": 1}})), "usage.outputTokens"),
        (
            "chat:add-message",
            message(json!({"usage": {"inputTokens": -1, "outputTokens": 0}})),
            "usage.inputTokens",
        ),
        ("chat:add-message", message(json!({"metadata": []})), "metadata"),
        ("chat:add-message", message(json!({"metadata": {"x": "x".repeat(64 << 10)}})), "metadata"),
        ("chat:search", json!({}), "query"),
        ("chat:search", json!({"query": "x", "limit": 101}), "limit"),
        ("chat:search", json!({"query": "x", "chatId": "unknown"}), "chatId"),
    ] {
        client.refuse_member(channel, payload, path).await;
    }
    assert_eq!(client.call("chat:list", Value::Null).await, json!([chat]));
    client.event("chat:created").await;
    assert_eq!(client.kept_events(), 0, "a refused request emits nothing");
    host.close().await;
}

#[tokio::test]
async fn values_at_their_limits_are_accepted() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let given = json!({"title": "x".repeat(1024), "systemPrompt": "x".repeat(64 << 10)});
    let chat = client.call("chat:create", given).await;
    let metadata = json!({"x": "x".repeat((64 << 10) - 8)});
    assert_eq!(metadata.to_string().len(), 64 << 10);
    let given =
        json!({"chatId": chat["id"], "role": "tool", "content": "x".repeat(1 << 20), "metadata": metadata});
    client.call("chat:add-message", given).await;
    host.close().await;
}
