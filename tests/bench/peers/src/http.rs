//! The HTTP server for the peers with fastwebsockets: every request is an upgrade.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use fastwebsockets::upgrade::{self, UpgradeFut};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::{Options, listen};

/// Accepts connections forever, and runs each in a task.
pub async fn serve<F, R>(options: Options, client: F) -> io::Result<()>
where
    F: Fn(UpgradeFut) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = listen(options).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let client = client.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| std::future::ready(answer(request, &client)));
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

fn answer<F, R>(mut request: Request<Incoming>, client: &F) -> Result<Response<Empty<Bytes>>, Infallible>
where
    F: Fn(UpgradeFut) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    match upgrade::upgrade(&mut request) {
        Ok((response, upgraded)) if upgrade::is_upgrade_request(&request) => {
            tokio::spawn(client(upgraded));
            Ok(response)
        }
        _ => {
            let mut response = Response::new(Empty::new());
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            Ok(response)
        }
    }
}
