//! The smallest server: `cargo run --release --example echo`, then send
//! `{"type":"request","id":"1","channel":"echo","payload":"hello"}` to ws://localhost:3001.

use switchboard::{Config, HandlerError, Payload, RequestContext, Server};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut config = Config::default();
    if let Some(port) = std::env::args().nth(1) {
        config.port = port.parse().map_err(|_| std::io::Error::other("expected a port"))?;
    }
    config.limits.rate_max_requests = u32::MAX;
    let server = Server::new(config);
    server.on_request("echo", |payload: Payload, _cx: RequestContext| async move {
        Ok::<_, HandlerError>(payload)
    });
    let port = server.start().await?;
    println!("listening on ws://localhost:{port}");
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
