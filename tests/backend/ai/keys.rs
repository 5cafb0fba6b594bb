//! Keys of providers, and the TLS that protects them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;
use switchboard::backend::credentials::{Origin, Token};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::setup::*;
use crate::support::client::Client;
use crate::support::upstream::{Step, Upstream, play, status};
use crate::support::{certificate, program, skip};

/// A complete answer of `openai`.
fn done() -> Vec<Step> {
    vec![Step::Send(stream(&sse(&[
        json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}),
    ])))]
}

#[tokio::test]
async fn a_configured_key_goes_to_named_origins_only_and_a_local_server_needs_none() {
    let upstream = Upstream::start(vec![done(), done(), done()]).await;
    let origin = upstream.url.parse::<Origin>().unwrap();
    let other = "http://127.0.0.1:1".parse::<Origin>().unwrap();
    for (key, origins, has) in
        [(true, vec![other.clone(), origin], true), (true, vec![other], false), (false, vec![], false)]
    {
        let api_keys = key.then(|| ("openai".to_owned(), Token::new("sk-env"))).into_iter().collect();
        let host = host_with(AiConfig { api_keys, key_origins: origins, ..AiConfig::default() }).await;
        let mut client = Client::connect(host.port).await;
        assert_eq!(client.call("ai:has-credentials", json!({"provider": "openai"})).await, key);
        point_at(&mut client, "openai", &format!("{}/v1", upstream.url)).await;
        assert_eq!(client.call("ai:has-credentials", json!({"provider": "openai"})).await, has);
        client.call("ai:chat", question("openai", "m", "x")).await;
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.contains("authorization: Bearer sk-env"), has);
        assert_eq!(request.contains("authorization"), has);
        host.close().await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_a_request_without_the_configured_key_gets_no_hint_of_it() {
    let refuse = || vec![Step::Send(status("401 No", "", TOKEN))];
    let upstream = Upstream::start(vec![refuse(), refuse(), refuse()]).await;
    let api_keys = [("openai".to_owned(), Token::new(TOKEN))].into();
    let host = host_with(AiConfig { api_keys, ..AiConfig::default() }).await;
    let mut client = Client::connect(host.port).await;
    for (provider, says) in
        [("openai", "https://api.openai.com; to send it"), ("anthropic", "no key was sent")]
    {
        point_at(&mut client, provider, &upstream.url).await;
        let error = client.refuse("ai:chat", question(provider, "m", "x")).await;
        let error = error["message"].as_str().unwrap();
        assert!(error.contains(says) && error.contains(&format!("the credential \"{provider}\"")), "{error}");
        assert!(!error.contains(TOKEN));
    }
    assert!(client.respond("ai:models", json!({"provider": "openai"})).await.get("error").is_some());
    let requests = upstream.requests();
    assert!(requests.len() == 3 && !requests.concat().contains(TOKEN), "{requests:?}");
    host.close().await;
}

/// Asks every channel that reaches the provider, and returns the errors.
async fn refusals(client: &mut Client) -> Vec<String> {
    let mut errors = Vec::new();
    for (channel, payload) in [
        ("ai:chat", question("openai", "m", "x")),
        ("ai:chat-stream", question("openai", "m", "x")),
        ("ai:models", json!({"provider": "openai"})),
    ] {
        let error = client.refuse(channel, payload).await;
        errors.push(error["message"].as_str().unwrap().to_owned());
    }
    client.event("ai:stream-error").await;
    errors
}

#[tokio::test]
async fn a_stored_key_is_sent_only_to_the_origin_it_was_given_for() {
    let ours = Upstream::start(vec![done(), done(), done()]).await;
    let theirs = Upstream::start(vec![done()]).await;
    let host = new_host().await;
    let mut client = client_of(&host, "openai", &ours).await;
    let has = json!({"provider": "openai"});
    client.call("ai:chat", question("openai", "m", "x")).await;
    // Another port of the same host, then another host and scheme.
    for url in
        [&*theirs.url, &ours.url.replace("127.0.0.1", "localhost"), &ours.url.replace("http:", "https:")]
    {
        point_at(&mut client, "openai", url).await;
        assert_eq!(client.call("ai:has-credentials", has.clone()).await, json!(false));
        for error in refusals(&mut client).await {
            for part in [
                "openai: ",
                &format!("given for {} and https://api.openai.com", ours.url),
                url,
                "set the credential",
            ] {
                assert!(error.contains(part) && !error.contains(TOKEN), "{part}: {error}");
            }
        }
    }
    assert_eq!(
        (theirs.requests().len(), ours.requests().len()),
        (0, 1),
        "a refused request opens no connection"
    );
    // Back again, at another path and in another spelling.
    point_at(&mut client, "openai", &format!("{}/v2/", ours.url.replace("http:", "HTTP:"))).await;
    assert_eq!(client.call("ai:has-credentials", has.clone()).await, json!(true));
    client.call("ai:chat", question("openai", "m", "x")).await;
    // The key is given again: it now belongs to the new address and no longer to the old one.
    point_at(&mut client, "openai", &theirs.url).await;
    client.call("credentials:set", json!({"key": "openai", "token": "sk-theirs"})).await;
    client.event("credentials:changed").await;
    client.call("ai:chat", question("openai", "m", "x")).await;
    point_at(&mut client, "openai", &ours.url).await;
    assert!(refusals(&mut client).await[0].contains(&format!("given for {}", theirs.url)));
    let (ours, theirs) = (ours.requests(), theirs.requests());
    assert!(
        ours.len() == 2 && ours.iter().all(|request| request.contains(&format!("Bearer {TOKEN}"))),
        "{ours:?}"
    );
    assert!(theirs.len() == 1 && theirs[0].contains("Bearer sk-theirs"), "{theirs:?}");
    host.close().await;
}

#[tokio::test]
async fn a_credential_belongs_to_the_base_urls_of_both_families_that_use_it() {
    let (chats, images) = (Upstream::start(vec![done(), done()]).await, Upstream::start(vec![]).await);
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    let urls = json!({"ai.openai.baseUrl": chats.url, "imagegen.openai.baseUrl": images.url});
    client.call("settings:update", urls).await;
    client.call("credentials:set", json!({"key": "openai", "token": TOKEN})).await;
    client.call("ai:chat", question("openai", "m", "x")).await;
    client.call("imagegen:create-entry", json!({"prompt": "x", "provider": "openai"})).await;
    while images.requests().is_empty() {
        client.call("system:ping", Value::Null).await;
    }
    for requests in [chats.requests(), images.requests()] {
        assert!(requests.len() == 1 && requests[0].contains(&format!("Bearer {TOKEN}")), "{requests:?}");
    }
    host.close().await;
}

#[tokio::test]
async fn a_key_that_names_its_origin_belongs_to_it_whatever_is_set() {
    let (ours, theirs) = (Upstream::start(vec![done()]).await, Upstream::start(vec![]).await);
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "openai", &theirs.url).await;
    let given = json!({"key": "openai", "token": TOKEN, "origin": format!("{}/v1", ours.url)});
    client.call("credentials:set", given).await;
    client.event("credentials:changed").await;
    assert!(
        refusals(&mut client).await[0]
            .contains(&format!("given for {}, and is not sent to {}", ours.url, theirs.url))
    );
    point_at(&mut client, "openai", &ours.url).await;
    client.call("ai:chat", question("openai", "m", "x")).await;
    client.call("settings:reset", json!({"key": "ai.openai.baseUrl"})).await;
    client.event("settings:changed").await;
    assert!(refusals(&mut client).await[0].contains("is not sent to https://api.openai.com"));
    assert!(ours.requests().len() == 1 && ours.requests()[0].contains(TOKEN) && theirs.requests().is_empty());
    host.close().await;
}

/// Whatever the order of the changes, a server receives a key only if it was given while the base URL was that server's.
#[tokio::test]
async fn a_key_given_while_the_base_url_changes_goes_to_one_of_the_two_only() {
    let scripts = || (0..64).map(|_| done()).collect();
    let (ours, theirs) = (Upstream::start(scripts()).await, Upstream::start(scripts()).await);
    let host = new_host().await;
    let (mut a, mut b) = (client_of(&host, "openai", &ours).await, Client::connect(host.port).await);
    for round in 0..16 {
        let url = if round % 2 == 0 { &theirs.url } else { &ours.url };
        let setting = b.send("settings:set", json!({"key": "ai.openai.baseUrl", "value": url})).await;
        let mut chats = Vec::new();
        for n in 0..2 {
            // The token names the round, not an address: which one it belongs to is decided by the order of the writes.
            a.send("credentials:set", json!({"key": "openai", "token": format!("sk-{round}-{n}")})).await;
            chats.push(a.send("ai:chat", question("openai", "m", "x")).await);
        }
        while a.next().await.unwrap()["id"] != chats[1].as_str() {}
        while b.next().await.unwrap()["id"] != setting.as_str() {}
    }
    let keys = |upstream: &Upstream| -> std::collections::BTreeSet<String> {
        let requests = upstream.requests();
        let key = |request: &String| {
            request.split("Bearer ").nth(1).map(|rest| rest.lines().next().unwrap().to_owned())
        };
        requests.iter().filter_map(key).collect()
    };
    let (ours, theirs) = (keys(&ours), keys(&theirs));
    assert!(!ours.is_empty() || !theirs.is_empty());
    assert!(ours.is_disjoint(&theirs), "{ours:?} {theirs:?}");
    host.close().await;
}

#[tokio::test]
async fn only_the_provider_receives_the_key() {
    let host = new_host().await;
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
    let mut client = client_of(&host, "anthropic", &upstream).await;
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
    seen += &format!("{:?} {:?}", host.backend, host.server);
    assert!(!seen.contains(TOKEN), "{seen}");
    assert!(seen.contains("bad ***"));
    assert!(upstream.requests().iter().all(|request| request.contains(TOKEN)));
    // A key is not sent over a connection that others can read.
    point_at(&mut client, "anthropic", "http://anthropic.example").await;
    client.call("credentials:set", json!({"key": "anthropic", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    let error = client.refuse("ai:chat", ask()).await;
    assert!(error["message"].as_str().unwrap().contains("http://"), "{error}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_trusts_only_the_certificates_of_the_system() {
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
    for host in ["127.0.0.1", "localhost"] {
        command.args(["--key-origin", &format!("https://{host}:{upstream}")]);
    }
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
    let host = new_host().await;
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, "anthropic", &format!("https://localhost:{upstream}")).await;
    client.call("credentials:set", json!({"key": "anthropic", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    let error = client.refuse("ai:chat", ask()).await;
    assert!(error["message"].as_str().unwrap().contains("no connection: "), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
    host.close().await;
}
