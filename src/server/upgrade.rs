//! The HTTP phase of a connection, on hyper. In: a connection. Out: a driver for it, or an ordinary answer.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::protocol::handshake::{self, Accepted, AccessRules, Head, Refusal};

use super::driver::Driver;
use super::pages::{self, Answer};
use super::{Shared, Ticket, http};

/// Serves one request, and goes on as a WebSocket if it was an upgrade.
pub(super) async fn serve<Io>(shared: Arc<Shared>, io: Io, loopback: bool)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let accepted = Mutex::new(None);
    let is_page = AtomicBool::new(false);
    let service = service_fn(|request| {
        let (answer, upgrade) = answer(&shared, &request, loopback);
        *accepted.lock().unwrap_or_else(PoisonError::into_inner) = upgrade;
        is_page.store(matches!(answer, Answer::Page(_)), Ordering::Relaxed);
        let shared = &shared;
        async move { Ok::<_, Infallible>(answer.finish(shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.handshake_timeout)
        .max_buf_size(shared.config.max_head_bytes)
        .serve_connection(TokioIo::new(Cork { io, upgrade: &accepted, held: Vec::new() }), service);
    let mut connection = pin!(connection.without_shutdown());
    let mut done = tokio::time::timeout(shared.config.handshake_timeout, &mut connection).await;
    if done.is_err() && is_page.load(Ordering::Relaxed) {
        // Once for its handler, once for sending it.
        let limit = shared.config.page_timeout.saturating_mul(2);
        done = tokio::time::timeout(limit, connection).await;
    }
    // Whoever is too slow, or sends what is not HTTP, has had its answer from hyper, or gets none.
    let Ok(Ok(parts)) = done else { return };
    let upgrade = accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((accepted, ticket)) = upgrade {
        let early = parts.read_buf.to_vec();
        let Cork { io, held, .. } = parts.io.into_inner();
        tokio::spawn(Driver::new(shared.clone(), ticket, io, early, held, accepted.authenticated));
    }
}

/// A connection that keeps the answer to an upgrade back: it goes out with `server:connected`, in one write.
struct Cork<'a, Io> {
    io: Io,
    upgrade: &'a Mutex<Option<(Accepted, Ticket)>>,
    held: Vec<u8>,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Cork<'_, Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Cork<'_, Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.upgrade.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        }
        let before = this.held.len();
        slices.iter().for_each(|slice| this.held.extend_from_slice(slice));
        Poll::Ready(Ok(this.held.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// The same for a request of somebody else's hyper server.
pub(super) fn answer_embedded<B>(shared: &Arc<Shared>, request: &mut Request<B>, loopback: bool) -> Answer {
    let (answer, upgrade) = answer(shared, request, loopback);
    if let Some((accepted, ticket)) = upgrade {
        let upgraded = hyper::upgrade::on(request);
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Ok(upgraded) = upgraded.await {
                let io = TokioIo::new(upgraded);
                Driver::new(shared, ticket, io, Vec::new(), Vec::new(), accepted.authenticated).await;
            }
        });
    }
    answer
}

/// The answer to a request, and what to do after it.
fn answer<B>(
    shared: &Arc<Shared>,
    request: &Request<B>,
    loopback: bool,
) -> (Answer, Option<(Accepted, Ticket)>) {
    let head = Head {
        method: request.method().as_str(),
        http_1_1: request.version() == Version::HTTP_11,
        query: request.uri().query(),
        headers: request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    };
    let config = &shared.config;
    let rules = AccessRules {
        loopback,
        allow_hosts: &config.allow_hosts,
        allow_origins: &config.allow_origins,
        token: config.token.as_deref(),
    };
    match handshake::check(&head, &rules) {
        Ok(accepted) => match shared.ticket() {
            Some(ticket) => (Answer::Text(switch_protocols(&accepted)), Some((accepted, ticket))),
            None => (Answer::Text(http::text(StatusCode::SERVICE_UNAVAILABLE, "Too many clients")), None),
        },
        Err(Refusal::NotAnUpgrade) => (pages::answer(shared, &head, request.uri().path(), &rules), None),
        Err(refusal) => (Answer::Text(http::refuse(refusal)), None),
    }
}

fn switch_protocols(accepted: &Accepted) -> Response<String> {
    let mut response = http::text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&accepted.accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(subprotocol) = accepted.subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{self, UnboundedSender};

    use super::super::{Config, Server};
    use super::*;

    /// A client that asks and then says nothing, and shows each write.
    struct Silent {
        request: &'static [u8],
        writes: UnboundedSender<Vec<u8>>,
    }

    impl AsyncRead for Silent {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let request = std::mem::take(&mut self.request);
            buffer.put_slice(request);
            if request.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
    }

    impl AsyncWrite for Silent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.send(bytes.to_vec()).expect("somebody looks");
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn first_write(request: &'static [u8]) -> String {
        let server = Server::new(Config::default());
        let (writes, mut seen) = mpsc::unbounded_channel();
        serve(server.shared.clone(), Silent { request, writes }, true).await;
        String::from_utf8_lossy(&seen.recv().await.expect("an answer")).into_owned()
    }

    #[tokio::test]
    async fn the_answer_to_an_upgrade_and_the_first_event_are_one_write() {
        let written = first_write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
        let (head, event) = written.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(event.contains("server:connected"), "{event}");
    }

    #[tokio::test]
    async fn any_other_answer_is_not_kept_back() {
        let written = first_write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(written.starts_with("HTTP/1.1 426 "), "{written}");
    }
}
