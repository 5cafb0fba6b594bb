//! Whose turn it is where clients share places: that of an identity, with however many connections.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use switchboard::{Identity, Server};

use crate::support::client::Client;
use crate::support::host::Host;

/// Connections of the busy identity, each with one request.
const FLOOD: usize = 50;

/// How many searches of others are answered before that of a newcomer, which all of them precede. `flood` is the identity of each.
async fn turns_before(server: &Server, flood: impl Fn(usize) -> String) -> usize {
    let answered = Arc::new(Mutex::new(Vec::new()));
    let search = |identity: String, query: &str| {
        let call = server.call("chat:search", json!({ "query": query }));
        let call = call.identity(Identity::new(&*identity));
        let answered = answered.clone();
        Box::pin(async move {
            call.await.unwrap();
            answered.lock().unwrap_or_else(PoisonError::into_inner).push(identity);
        })
    };
    // The first one takes so long that all others wait for it.
    let mut asked = vec![search(flood(0), "word")];
    asked.extend((1..FLOOD).map(|number| search(flood(number), "absent")));
    asked.push(search("newcomer".to_owned(), "absent"));
    let mut waiting = Vec::new();
    for mut request in asked {
        if futures_util::poll!(&mut request).is_pending() {
            waiting.push(request);
        }
    }
    let tasks: Vec<_> = waiting.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(answered.len(), FLOOD + 1);
    answered.iter().position(|identity| identity == "newcomer").unwrap()
}

#[tokio::test]
async fn one_identity_with_many_connections_gets_the_turns_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::open(folder, |backend, _| backend.db.max_searches = 1).await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({})).await;
    let content = "word ".repeat(2_000);
    for _ in 0..20 {
        let message = json!({ "chatId": chat["id"], "role": "user", "content": content });
        client.call("chat:add-message", message).await;
    }
    let of_many = turns_before(&host.server, |number| format!("user {number}")).await;
    let of_one = turns_before(&host.server, |_| "busy".to_owned()).await;
    println!("after {of_many} turns of {FLOOD} users, after {of_one} of one user");
    // The search that runs, and the one whose turn came before the newcomer did. A machine that stops this thread adds a few.
    assert!(of_one <= 10, "{of_one} of {FLOOD} searches of one identity were answered first");
    assert!(of_many >= FLOOD - 1, "only {of_many} of {FLOOD} identities had their turn");
    host.close().await;
}
