//! The channel registry over a real socket, on a real database file.

use serde_json::{Value, json};
use switchboard::backend::registry::{Channel, Direction};
use switchboard::backend::{Backend, BackendConfig, channels, register_all};
use switchboard::{Config, Server};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::house::House;

/// A house whose pages end early.
async fn small(folder: TempDir) -> House {
    House::open(folder, |backend, _| backend.db.max_page_bytes = 100_000).await
}

/// The values of one member in a list of objects.
fn pluck<'a>(list: &'a Value, member: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().map(|object| &object[member]).collect()
}

#[tokio::test]
async fn a_chat_lives_from_create_to_delete_and_the_others_see_it() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let (mut a, mut b) = (Client::connect(house.port).await, Client::connect(house.port).await);

    let chat = a.call("chat:create", json!({"title": "Groceries", "systemPrompt": "Be brief"})).await;
    assert_eq!(chat["title"], "Groceries");
    assert_eq!((&chat["systemPrompt"], &chat["messageCount"]), (&json!("Be brief"), &json!(0)));
    assert_eq!(chat["createdAt"], chat["updatedAt"]);
    assert_eq!(b.event("chat:created").await, chat);
    // Who asked gets the event too, before the response.
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
    // What changes nothing is told to nobody: the next event is the deletion.
    assert_eq!(a.call("chat:update", json!({"id": id, "title": "Dinner"})).await, updated);

    assert_eq!(a.call("chat:delete", json!({"id": id})).await, json!(true));
    assert_eq!(b.event("chat:deleted").await, json!({"id": id}));
    assert_eq!(a.call("chat:delete", json!({"id": id})).await, json!(false));
    assert_eq!(a.call("chat:get", json!({"id": id})).await, Value::Null);
    assert_eq!(a.call("chat:search", json!({"query": "Hi"})).await, json!([]));
    a.refuse("chat:get-messages", json!({"chatId": id})).await;
    house.close().await;
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_given() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
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
    house.close().await;
}

#[tokio::test]
async fn pages_lead_through_all_chats_and_messages_without_gap_or_repetition() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    // Made so fast that many share a millisecond.
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
    // Exactly as many as there are: nothing more.
    let page = client.call("chat:get-messages", json!({"chatId": chat, "limit": 25})).await;
    assert_eq!(page["hasMore"], false);
    house.close().await;
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_long_to_send() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
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
    house.close().await;
}

#[tokio::test]
async fn search_results_end_before_they_are_too_long_to_send() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    let chat = client.call("chat:create", json!({})).await;
    for _ in 0..3 {
        // Snippets have whole words.
        let content = format!("needle {}", "x".repeat(40_000));
        client
            .call("chat:add-message", json!({"chatId": chat["id"], "role": "user", "content": content}))
            .await;
    }
    let found = client.call("chat:search", json!({"query": "needle"})).await;
    assert_eq!(found.as_array().unwrap().len(), 2);
    house.close().await;
}

#[tokio::test]
async fn search_finds_words_marks_them_and_takes_any_text() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
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
    house.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await;
    let id = &chat["id"];
    let before = client.call("settings:get-all", Value::Null).await;
    let message = |change: Value| {
        let mut message = json!({"chatId": id, "role": "user", "content": "x"});
        for (name, value) in change.as_object().unwrap() {
            message[name] = value.clone();
        }
        message
    };
    let many: Value =
        (0..1011).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    for (channel, payload, path) in [
        ("chat:list", json!([]), "payload"),
        ("chat:list", json!({"limit": 0}), "limit"),
        ("chat:list", json!({"limit": 501}), "limit"),
        ("chat:list", json!({"limit": "5"}), "limit"),
        ("chat:list", json!({"limit": null}), "limit"),
        ("chat:list", json!({"before": "nobody"}), "before"),
        ("chat:create", json!({"title": ""}), "title"),
        ("chat:create", json!({"title": "x".repeat(1025)}), "title"),
        ("chat:create", json!({"systemPrompt": 5}), "systemPrompt"),
        ("chat:create", json!({"systemPrompt": "x".repeat((64 << 10) + 1)}), "systemPrompt"),
        ("chat:get", json!({}), "id"),
        ("chat:get", Value::Null, "id"),
        ("chat:get", json!({"id": 7}), "id"),
        ("chat:update", json!({"id": "nobody", "title": "x"}), "id"),
        ("chat:update", json!({"id": id, "title": null}), "title"),
        ("chat:delete", json!("x"), "payload"),
        ("chat:get-messages", json!({"chatId": "nobody"}), "chatId"),
        ("chat:get-messages", json!({"chatId": id, "before": "nobody"}), "before"),
        ("chat:add-message", message(json!({"chatId": "nobody"})), "chatId"),
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
        ("chat:search", json!({"query": "x", "chatId": "nobody"}), "chatId"),
        ("settings:get", json!({}), "key"),
        ("settings:set", json!({"key": "theme"}), "value"),
        ("settings:set", json!({"key": "theme", "value": "pink"}), "value"),
        ("settings:set", json!({"key": "", "value": 1}), "key"),
        ("settings:set", json!({"key": "k".repeat(257), "value": 1}), "key"),
        ("settings:set", json!({"key": "x", "value": "x".repeat(64 << 10)}), "value"),
        ("settings:update", json!({"x": 1, "theme": "pink"}), "theme"),
        ("settings:update", json!({"x": 1, "": 2}), "payload"),
        ("settings:update", many, "payload"),
        ("settings:reset", json!({"key": 1}), "key"),
    ] {
        let error = client.refuse(channel, payload).await;
        assert_eq!(error["code"], "HANDLER_ERROR", "{channel}: {error}");
        assert_eq!(error["details"]["path"], path, "{channel}: {error}");
        assert!(error["details"]["expected"].is_string() && error["details"]["got"].is_string(), "{error}");
    }
    assert_eq!(client.call("settings:get-all", Value::Null).await, before);
    assert_eq!(client.call("chat:list", Value::Null).await, json!([chat]));
    client.event("chat:created").await;
    assert_eq!(client.kept_events(), 0, "a refused request is told to nobody");
    house.close().await;
}

#[tokio::test]
async fn the_largest_things_allowed_are_allowed() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    let given = json!({"title": "x".repeat(1024), "systemPrompt": "x".repeat(64 << 10)});
    let chat = client.call("chat:create", given).await;
    let metadata = json!({"x": "x".repeat((64 << 10) - 8)});
    assert_eq!(metadata.to_string().len(), 64 << 10);
    let given =
        json!({"chatId": chat["id"], "role": "tool", "content": "x".repeat(1 << 20), "metadata": metadata});
    client.call("chat:add-message", given).await;
    let value = json!("x".repeat((64 << 10) - 2));
    client.call("settings:set", json!({"key": "k".repeat(256), "value": value})).await;
    assert_eq!(client.call("settings:get", json!({"key": "k".repeat(256)})).await, value);
    let keys = |count: u32| -> Value {
        (0..count).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
    };
    client.call("settings:update", keys(999)).await;
    // The next one is too many, whichever keys that are known are set.
    let error = client.refuse("settings:update", keys(1000)).await;
    assert!(error["details"]["got"].as_str().unwrap().starts_with("1001 keys and "), "{error}");
    client.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    client.refuse("settings:set", json!({"key": "one.more", "value": 1})).await;
    // Of so many none is even tried, which would hold up everybody else.
    let error = client.refuse("settings:update", keys(2000)).await;
    assert_eq!(error["details"]["got"], "2000 keys");
    house.close().await;
}

#[tokio::test]
async fn a_setting_is_told_to_everyone_once_and_only_if_it_changed() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let (mut a, mut b) = (Client::connect(house.port).await, Client::connect(house.port).await);
    let defaults = a.call("settings:get-all", Value::Null).await;
    assert_eq!(defaults["theme"], "system");
    assert_eq!(a.call("settings:get", json!({"key": "theme"})).await, "system");
    assert_eq!(a.call("settings:get", json!({"key": "nothing"})).await, Value::Null);

    let response = a.respond("settings:set", json!({"key": "theme", "value": "dark"})).await;
    assert!(response.get("payload").is_none() && response.get("error").is_none(), "{response}");
    assert_eq!(b.event("settings:changed").await, json!({"key": "theme", "value": "dark"}));
    a.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    a.call("settings:set", json!({"key": "language", "value": "en"})).await;

    let updated =
        a.call("settings:update", json!({"theme": "dark", "z": {"b": 1, "a": [1.0]}, "a": null})).await;
    assert_eq!((&updated["z"], &updated["a"]), (&json!({"b": 1, "a": [1.0]}), &Value::Null));
    assert_eq!(b.event("settings:changed").await, json!({"key": "a", "value": null}));
    assert_eq!(b.event("settings:changed").await, json!({"key": "z", "value": {"b": 1, "a": [1.0]}}));

    a.call("settings:reset", json!({"key": "z"})).await;
    assert_eq!(b.event("settings:changed").await, json!({"key": "z", "value": null}));
    assert_eq!(a.call("settings:reset", Value::Null).await, defaults);
    assert_eq!(b.event("settings:changed").await, json!({"key": "a", "value": null}));
    assert_eq!(b.event("settings:changed").await, json!({"key": "theme", "value": "system"}));
    // Nothing came beside: the next thing B sees is its own answer.
    b.call("system:ping", Value::Null).await;
    assert_eq!(b.kept_events(), 0);
    house.close().await;
}

#[tokio::test]
async fn many_clients_at_once_lose_nothing_and_see_changes_in_one_order() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut witness = Client::connect(house.port).await;
    let chat = witness.call("chat:create", json!({})).await;
    witness.event("chat:created").await;
    let writers = (0..8).map(|writer| {
        let (port, chat) = (house.port, chat["id"].clone());
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
    house.close().await;
}

#[tokio::test]
async fn what_was_saved_is_there_after_a_restart() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await;
    client.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    let folder = house.close().await;
    let house = small(folder).await;
    let mut client = Client::connect(house.port).await;
    assert_eq!(client.call("chat:list", Value::Null).await, json!([chat]));
    assert_eq!(client.call("settings:get", json!({"key": "theme"})).await, "dark");
    house.close().await;
}

#[tokio::test]
async fn a_closed_database_refuses_politely() {
    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    house.backend.close().await;
    for (channel, payload) in [("chat:list", Value::Null), ("chat:create", Value::Null)] {
        let error = client.refuse(channel, payload).await;
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!("HANDLER_ERROR"), &json!("the database is closed"))
        );
    }
    house.backend.close().await;
    house.close().await;
}

#[tokio::test]
async fn the_server_tells_about_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = BackendConfig::new(folder.path().join("data"));
    config.heartbeat_interval = std::time::Duration::from_millis(1);
    let backend = Backend::open(config).unwrap();
    let server = Server::new(Config::default().port(0));
    register_all(&server, &backend);
    let port = server.start().await.unwrap();
    let mut client = Client::connect(port).await;
    let first = client.event("server:heartbeat").await["timestamp"].as_u64().unwrap();
    let second = client.event("server:heartbeat").await["timestamp"].as_u64().unwrap();
    assert!(second >= first);
    assert!(client.call("system:ping", Value::Null).await["timestamp"].as_u64().unwrap() >= second);
    client.refuse("no:such", Value::Null).await;
    let stats = client.call("system:stats", Value::Null).await;
    assert_eq!((&stats["clients"], &stats["errors"]["UNKNOWN_CHANNEL"]), (&json!(1), &json!(1)));
    assert!(stats["requests"].as_u64() >= Some(2) && stats["bytesIn"].as_u64() > Some(0));
    drop(client);
    server.stop().await;
    backend.close().await;
}

/// The specification's tables, as far as they are built, and what this registry adds.
const REQUESTS: &[&str] = &[
    "chat:list",
    "chat:create",
    "chat:get",
    "chat:update",
    "chat:delete",
    "chat:get-messages",
    "chat:add-message",
    "chat:search",
    "ai:chat",
    "ai:chat-stream",
    "ai:models",
    "ai:has-credentials",
    "code:list-sessions",
    "code:get-session",
    "code:get-transcript",
    "code:search-transcript",
    "code:list-restore-points",
    "code:restore",
    "imagegen:list-groups",
    "imagegen:create-group",
    "imagegen:list-entries",
    "imagegen:create-entry",
    "imagegen:cancel-entry",
    "imagegen:list-images",
    "settings:get-all",
    "settings:get",
    "settings:set",
    "settings:update",
    "settings:reset",
    "credentials:list",
    "credentials:get",
    "credentials:set",
    "credentials:delete",
    "artifact:list",
    "artifact:get",
    "artifact:install",
    "artifact:invoke",
    "artifact:enable",
    "artifact:disable",
    "artifact:remove",
    "analytics:dashboard",
    "analytics:lifetime-totals",
    "analytics:cost-summary",
    "analytics:cost-timeseries",
    "analytics:error-summary",
    "analytics:error-timeseries",
    "analytics:token-timeseries",
    "analytics:model-usage",
    "analytics:imagegen-timeseries",
    "analytics:tool-usage",
    "analytics:session-stats",
    "analytics:run-aggregation",
    "analytics:run-cleanup",
    "system:ping",
    "system:channels",
    "system:stats",
];
const EVENTS: &[&str] = &[
    "chat:created",
    "chat:updated",
    "chat:deleted",
    "chat:message-added",
    "ai:stream-chunk",
    "ai:stream-complete",
    "ai:stream-error",
    "imagegen:job-created",
    "imagegen:job-completed",
    "imagegen:batch-started",
    "imagegen:batch-completed",
    "settings:changed",
    "credentials:changed",
    "artifact:installed",
    "artifact:updated",
    "artifact:progress",
    "artifact:removed",
    "server:connected",
    "server:heartbeat",
    "server:shutdown",
];

#[test]
fn the_readme_lists_the_channels_as_they_are_declared() {
    let readme = include_str!("../../README.md");
    let tables = switchboard::backend::markdown();
    assert!(
        readme.contains(&format!("<!-- channels -->\n\n{tables}\n<!-- /channels -->\n")),
        "put these there:\n{tables}"
    );
}

#[tokio::test]
async fn the_registry_lists_every_channel_and_every_request_has_a_handler() {
    let channels = channels();
    let names = |direction: Direction| {
        let listed = channels.iter().filter(|channel| channel.direction == direction);
        listed.map(|channel| channel.name).collect::<Vec<_>>()
    };
    assert_eq!(names(Direction::Request), REQUESTS);
    assert_eq!(names(Direction::Event), EVENTS);

    let house = small(tempfile::tempdir().unwrap()).await;
    let mut client = Client::connect(house.port).await;
    let listed = client.call("system:channels", Value::Null).await;
    assert_eq!(pluck(&listed, "channel"), channels.iter().map(|channel| channel.name).collect::<Vec<_>>());
    for Channel { name, example, .. } in
        channels.iter().filter(|channel| channel.direction == Direction::Request)
    {
        let example: Value =
            if example.is_empty() { Value::Null } else { serde_json::from_str(example).unwrap() };
        let response = client.respond(name, example).await;
        // An example fits, but for its ids, which are nobody's, and for what this server has no option for.
        let unfit = ["an unknown id", "a server that was started without --artifact-source"];
        let fits =
            response.get("error").is_none_or(|error| unfit.iter().any(|got| error["details"]["got"] == *got));
        assert!(fits, "{name}: {response}");
    }
    house.close().await;
}
