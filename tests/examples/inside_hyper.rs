//! Switchboard beside the pages of a plain hyper server. `cargo run --example inside_hyper`, then connect to `ws://localhost:3000/ws`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use switchboard::{ClientId, Config, HandlerError, Payload, RequestContext, Server};
use tokio::net::{TcpListener, TcpStream};

async fn respond(server: Server, mut request: Request<Incoming>, peer: SocketAddr) -> Response<String> {
    match request.uri().path() {
        "/ws" => {
            let response = server.upgrade_async(&mut request, peer).await;
            if let Some(client) = response.extensions().get::<ClientId>() {
                eprintln!("{peer} is client {client}");
            }
            response
        }
        "/" => Response::new(format!("{} clients are connected\n", server.client_count())),
        _ => {
            let mut response = Response::new("not found\n".to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

async fn serve_connection(server: Server, stream: TcpStream, peer: SocketAddr) {
    let service = service_fn(move |request| {
        let response = respond(server.clone(), request, peer);
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        eprintln!("{peer}: {error}");
    }
}

/// Serves connections.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let server = Server::new(Config::default());
    server.on_request("echo", |payload: Payload, _: RequestContext| async { Ok::<_, HandlerError>(payload) });
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(serve_connection(server.clone(), stream, peer));
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    serve(TcpListener::bind("127.0.0.1:3000").await?).await
}
