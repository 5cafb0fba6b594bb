//! The server that is measured, with channels `echo`, `wait` and `broadcast`.
//!
//! `serve PORT [WORKERS]` (port 0 means any free port) prints `listening on PORT`. If `CHATS` is a folder, the server also has
//! the channels of the backend, with its database there.

use std::time::Duration;

use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, HandlerError, Payload, RequestContext, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or_default().parse()?;
    let workers = arguments.next().map_or(Ok(1), |workers| workers.parse())?;
    let mut runtime = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(workers).enable_all().build()?;
    runtime.block_on(run(port))
}

async fn run(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default().port(port);
    config.host = "127.0.0.1".into();
    config.max_connections = 20_000;
    config.limits.rate_max_requests = 100_000_000;
    let server = Server::new(config);
    server.on_request(
        "echo",
        |payload: Payload, _: RequestContext| async move { Ok::<_, HandlerError>(payload) },
    );
    server.on_request("wait", |payload: Payload, _: RequestContext| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, HandlerError>(payload)
    });
    server.on_request("broadcast", |payload: Payload, cx: RequestContext| async move {
        let server = cx.server();
        server.emit("tick", payload);
        Ok::<_, HandlerError>(serde_json::json!({ "sent": server.client_count() }))
    });
    let backend = match std::env::var_os("CHATS") {
        Some(folder) => Some(Backend::open(BackendConfig::new(folder))?),
        None => None,
    };
    backend.iter().for_each(|backend| register_all(&server, backend));
    let port = server.start().await?;
    println!("listening on {port}");
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    if let Some(backend) = backend {
        backend.close().await;
    }
    Ok(())
}
