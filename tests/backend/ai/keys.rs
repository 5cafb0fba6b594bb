//! Keys of providers, and the TLS that protects them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;
use switchboard::backend::credentials::Token;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::setup::*;
use crate::support::client::Client;
use crate::support::upstream::{Step, Upstream, play, status};
use crate::support::{certificate, program, skip};

#[tokio::test]
async fn a_key_can_be_configured_and_a_local_server_needs_none() {
    let done = sse(&[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})]);
    let upstream =
        Upstream::start(vec![vec![Step::Send(stream(&done))], vec![Step::Send(stream(&done))]]).await;
    for (keys, has) in [(vec![("openai".to_owned(), Token::new("sk-env"))], true), (vec![], false)] {
        let host = host_with(AiConfig { api_keys: keys.into_iter().collect(), ..AiConfig::default() }).await;
        let mut client = Client::connect(host.port).await;
        point_at(&mut client, "openai", &upstream.url).await;
        assert_eq!(client.call("ai:has-credentials", json!({"provider": "openai"})).await, has);
        client.call("ai:chat", question("openai", "m", "x")).await;
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.contains("authorization: Bearer sk-env"), has);
        assert_eq!(request.contains("authorization"), has);
        host.close().await;
    }
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
    client.call("credentials:set", json!({"key": "anthropic", "token": TOKEN})).await;
    client.event("credentials:changed").await;
    point_at(&mut client, "anthropic", &format!("https://localhost:{upstream}")).await;
    let error = client.refuse("ai:chat", ask()).await;
    assert!(error["message"].as_str().unwrap().contains("no connection: "), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
    host.close().await;
}
