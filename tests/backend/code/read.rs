//! Pages of a transcript, search, and payloads that are refused.

use serde_json::{Value, json};

use super::setup::*;

#[tokio::test]
async fn pages_cover_a_transcript_in_both_directions() {
    let agent = Agent::new();
    // Many share a second, and the clock is set back in the middle.
    let ids: Vec<String> = (0..25).map(|n| format!("e{n}")).collect();
    let lines: Vec<String> = (0..25_usize)
        .map(|n| {
            let parent = n.checked_sub(1).and_then(|before| ids.get(before)).map(String::as_str);
            let seconds = if n < 15 { n as u64 / 4 } else { 0 };
            if n % 5 == 0 {
                user(&ids[n], parent, seconds, "q")
            } else {
                assistant(&ids[n], parent, seconds, "a")
            }
        })
        .collect();
    agent.write("p/s.jsonl", &lines);
    let mut reader = Reader::new(agent.folder).await;

    let mut read: Vec<String> = Vec::new();
    let mut query = json!({"sessionId": "s", "limit": 10});
    loop {
        let page = reader.call("code:get-transcript", query).await;
        assert_eq!(page["total"], 25);
        read.splice(0..0, pluck(&page["entries"], "id"));
        assert_eq!(page["hasMore"], json!(!page["nextBefore"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        query = json!({"sessionId": "s", "limit": 10, "before": page["nextBefore"]});
    }
    assert_eq!(read, ids);

    let mut read = vec!["e0".to_owned()];
    let mut query = json!({"sessionId": "s", "limit": 8, "after": "e0"});
    loop {
        let page = reader.call("code:get-transcript", query).await;
        read.extend(pluck(&page["entries"], "id"));
        assert!(page["nextBefore"].is_string());
        assert_eq!(page["hasMore"], json!(!page["nextAfter"].is_null()));
        if page["hasMore"] == false {
            break;
        }
        query = json!({"sessionId": "s", "limit": 8, "after": page["nextAfter"]});
    }
    assert_eq!(read, ids);
    assert!(reader.page(json!({"sessionId": "s", "after": "e24"})).await.is_empty());

    let page =
        reader.call("code:get-transcript", json!({"sessionId": "s", "roles": ["user"], "limit": 2})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["e15", "e20"]);
    assert_eq!((&page["total"], &page["nextBefore"]), (&json!(5), &json!("e15")));
    let page = json!({"sessionId": "s", "roles": ["user", "system"], "before": "e7"});
    assert_eq!(reader.page(page).await, ["e0", "e5"]);
    reader.close().await;
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_long_and_no_entry_blocks_the_next() {
    let agent = Agent::new();
    let lines = [
        user("a", None, 1, &"x".repeat(60_000)),
        user("b", None, 2, &"x".repeat(200_000)),
        user("c", None, 3, &"x".repeat(60_000)),
        user("d", None, 4, &"x".repeat(30_000)),
    ];
    agent.write("p/s.jsonl", &lines);
    let mut reader = Reader::new(agent.folder).await;
    let page = reader.call("code:get-transcript", json!({"sessionId": "s"})).await;
    assert_eq!(pluck(&page["entries"], "id"), ["b", "c", "d"]);
    assert_eq!(page["entries"][0]["content"], json!([{"type": "too_long", "bytes": lines[1].len()}]));
    assert_eq!(reader.page(json!({"sessionId": "s", "before": "b"})).await, ["a"]);
    reader.close().await;
}

#[tokio::test]
async fn search_finds_text_thoughts_and_tool_results() {
    let agent = Agent::new();
    agent
        .write("p/one.jsonl", &[
            user("u1", None, 1, "Where is the <b>needle</b>?"),
            json!({"type": "assistant", "uuid": "a1", "message": {"content": [
                {"type": "thinking", "thinking": "Haystacks", "signature": "c2lnbmF0dXJl"},
                {"type": "tool_use", "id": "tool-id", "name": "Grep", "input": {"pattern": "zebra"}}]}})
            .to_string(),
            json!({"type": "user", "uuid": "t1", "message": {"content": [{"type": "tool_result", "content": "needle on line 3"}]}}).to_string(),
        ])
        .write("p/two.jsonl", &[user("u1", None, 1, "Another needle")]);
    let mut reader = Reader::new(agent.folder).await;
    let found = reader.call("code:search-transcript", json!({"query": "needle", "sessionId": "one"})).await;
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
    let first = found.as_array().unwrap().iter().find(|hit| hit["entryId"] == "u1").unwrap();
    assert_eq!(first["snippet"], "Where is the &lt;b&gt;<mark>needle</mark>&lt;/b&gt;?");
    assert_eq!((&first["sessionId"], &first["role"]), (&json!("one"), &json!("user")));
    assert_eq!(first["createdAt"], NOON + 1000);
    for (query, hits) in [
        ("needle", 3),
        ("haystacks", 1),
        ("zebra", 1),
        ("grep zeb", 1),
        ("c2lnbmF0dXJl", 0),
        ("\"", 0),
        ("", 0),
    ] {
        let found = reader.call("code:search-transcript", json!({"query": query})).await;
        assert_eq!(found.as_array().unwrap().len(), hits, "{query}: {found}");
    }
    let limited = reader.call("code:search-transcript", json!({"query": "needle", "limit": 1})).await;
    assert_eq!(limited.as_array().unwrap().len(), 1);
    reader.close().await;
}

#[tokio::test]
async fn a_payload_of_the_wrong_shape_names_the_member_and_changes_nothing() {
    let agent = Agent::new();
    agent.backup("s", "aa@v1", "a").write(
        "p/s.jsonl",
        &[user("u1", None, 1, "Hi"), snapshot("u1", json!({"a": backup(Some("aa@v1"))}), false)],
    );
    let mut reader = Reader::new(agent.folder).await;
    let before = reader.call("code:list-sessions", Value::Null).await;
    let point = reader.call("code:list-restore-points", json!({"sessionId": "s"})).await[0]["id"].clone();
    for (channel, payload, path) in [
        ("code:list-sessions", json!([]), "payload"),
        ("code:list-sessions", json!({"limit": 0}), "limit"),
        ("code:list-sessions", json!({"limit": 501}), "limit"),
        ("code:list-sessions", json!({"limit": "5"}), "limit"),
        ("code:list-sessions", json!({"project": 1}), "project"),
        ("code:list-sessions", json!({"project": "x".repeat(256)}), "project"),
        ("code:get-session", Value::Null, "id"),
        ("code:get-session", json!({}), "id"),
        ("code:get-session", json!({"id": 7}), "id"),
        ("code:get-session", json!({"id": ""}), "id"),
        ("code:get-session", json!({"id": "x".repeat(129)}), "id"),
        ("code:get-transcript", json!({}), "sessionId"),
        ("code:get-transcript", json!({"sessionId": "unknown"}), "sessionId"),
        ("code:get-transcript", json!({"sessionId": "s", "limit": 501}), "limit"),
        ("code:get-transcript", json!({"sessionId": "s", "before": "unknown"}), "before"),
        ("code:get-transcript", json!({"sessionId": "s", "after": 1}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "after": "unknown"}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "before": "u1", "after": "u1"}), "after"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": "user"}), "roles"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": []}), "roles"),
        ("code:get-transcript", json!({"sessionId": "s", "roles": ["boss"]}), "roles"),
        ("code:search-transcript", json!({}), "query"),
        ("code:search-transcript", json!({"query": null}), "query"),
        ("code:search-transcript", json!({"query": "x".repeat(1025)}), "query"),
        ("code:search-transcript", json!({"query": "x", "limit": 101}), "limit"),
        ("code:search-transcript", json!({"query": "x", "sessionId": "unknown"}), "sessionId"),
        ("code:list-restore-points", json!({}), "sessionId"),
        ("code:list-restore-points", json!("s"), "payload"),
        ("code:list-restore-points", json!({"sessionId": []}), "sessionId"),
        ("code:list-restore-points", json!({"sessionId": "unknown"}), "sessionId"),
        ("code:list-restore-points", json!({"sessionId": ""}), "sessionId"),
        ("code:restore", json!({"targetDir": "t"}), "restorePointId"),
        ("code:restore", json!({"restorePointId": "unknown", "targetDir": "t"}), "restorePointId"),
        ("code:restore", json!({"restorePointId": point}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": 1}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "x".repeat(1025)}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "x".repeat(256)}), "targetDir"),
        ("code:restore", json!({"restorePointId": point, "targetDir": "t", "overwrite": "yes"}), "overwrite"),
    ] {
        reader.client.refuse_member(channel, payload, path).await;
    }
    assert_eq!(reader.call("code:list-sessions", Value::Null).await, before);
    assert!(!reader.host.folder.path().join("data/restored").exists());
    reader.close().await;
}
