//! What holds for all channels: their list, their documentation, restarts, a closed database; and the family `system`.

use serde_json::{Value, json};
use switchboard::backend::registry::{Channel, Direction};
use switchboard::backend::{Backend, BackendConfig, channels, register_all};
use switchboard::{Config, Server};

use crate::support::client::{Client, pluck};
use crate::support::host::Host;

#[tokio::test]
async fn chats_and_settings_survive_a_restart() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let chat = client.call("chat:create", json!({"title": "kept"})).await;
    client.call("settings:set", json!({"key": "theme", "value": "dark"})).await;
    let folder = host.close().await;
    let host = Host::open(folder, |_, _| {}).await;
    let mut client = Client::connect(host.port).await;
    assert_eq!(client.call("chat:list", Value::Null).await, json!([chat]));
    assert_eq!(client.call("settings:get", json!({"key": "theme"})).await, "dark");
    host.close().await;
}

#[tokio::test]
async fn a_closed_database_is_an_error_response() {
    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    host.backend.close().await;
    for (channel, payload) in [("chat:list", Value::Null), ("chat:create", Value::Null)] {
        let error = client.refuse(channel, payload).await;
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!("HANDLER_ERROR"), &json!("the database is closed"))
        );
    }
    host.backend.close().await;
    host.close().await;
}

#[tokio::test]
async fn heartbeat_ping_and_stats_describe_the_server() {
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

/// The channels of the specification that are implemented, and those that this registry adds.
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

/// The page of each family. Events of `server:` belong to the family `system`.
const PAGES: [(&str, &str); 9] = [
    ("chat", include_str!("../../src/backend/families/chat/README.md")),
    ("ai", include_str!("../../src/backend/families/ai/README.md")),
    ("code", include_str!("../../src/backend/families/code/README.md")),
    ("imagegen", include_str!("../../src/backend/families/imagegen/README.md")),
    ("settings", include_str!("../../src/backend/families/settings/README.md")),
    ("credentials", include_str!("../../src/backend/families/credentials/README.md")),
    ("artifact", include_str!("../../src/backend/families/artifact/README.md")),
    ("analytics", include_str!("../../src/backend/families/analytics/README.md")),
    ("system", include_str!("../../src/backend/families/system/README.md")),
];

#[test]
fn the_page_of_each_family_lists_its_channels_as_they_are_declared() {
    let family_of = |channel: &Channel| match channel.name.split_once(':') {
        Some(("server", _)) => "system",
        Some((family, _)) => family,
        None => "",
    };
    let mut listed = 0;
    for (family, page) in PAGES {
        let own: Vec<Channel> =
            channels().into_iter().filter(|channel| family_of(channel) == family).collect();
        let tables = switchboard::backend::registry::markdown(&own);
        assert!(
            page.contains(&format!("<!-- channels -->\n\n{tables}\n<!-- /channels -->\n")),
            "expected in families/{family}/README.md:\n{tables}"
        );
        listed += own.len();
    }
    assert_eq!(listed, channels().len(), "every channel is on one page");
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

    let host = Host::new().await;
    let mut client = Client::connect(host.port).await;
    let listed = client.call("system:channels", Value::Null).await;
    assert_eq!(pluck(&listed, "channel"), channels.iter().map(|channel| channel.name).collect::<Vec<_>>());
    for Channel { name, example, .. } in
        channels.iter().filter(|channel| channel.direction == Direction::Request)
    {
        let example: Value =
            if example.is_empty() { Value::Null } else { serde_json::from_str(example).unwrap() };
        let response = client.respond(name, example).await;
        // An example fits, except for unknown ids and for options that this server was started without.
        let unfit = ["an unknown id", "a server that was started without --artifact-source"];
        let fits =
            response.get("error").is_none_or(|error| unfit.iter().any(|got| error["details"]["got"] == *got));
        assert!(fits, "{name}: {response}");
    }
    host.close().await;
}

/// The handlers of the server have the database, and the database emits to the server: neither keeps the other alive.
#[tokio::test]
async fn a_dropped_backend_releases_its_database() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::open(BackendConfig::new(folder.path())).unwrap();
    let server = Server::new(Config::default());
    register_all(&server, &backend);
    drop((server, backend));
    let started = std::time::Instant::now();
    // The tasks of the backend end when the runtime polls them next.
    while let Err(error) = Backend::open(BackendConfig::new(folder.path())) {
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{error}");
        tokio::task::yield_now().await;
    }
}
