//! The HTTP phase of a connection, on hyper. Input: a connection. Output: a driver for it, or an ordinary response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::protocol::handshake::Accepted;

use super::admission::{Peer, Place};
#[cfg(feature = "pages")]
use super::content::Content;
use super::driver::Driver;
use super::gate::{Answer, Decided, Source, decide, settle};
use super::http::text;
use super::metrics::Limited;
use super::same_user::Ends;
use super::shared::Shared;
use super::ticket::Ticket;

/// What the service has done with the one request of a connection.
struct Outcome {
    upgrade: Option<(Accepted, Ticket)>,
    /// How long its answer may take after [`Config::handshake_timeout`](super::Config::handshake_timeout).
    patience: Duration,
    /// Its place, among the requests that are not answered yet or, later, among the pages.
    _place: Place<Notify>,
}

/// A connection whose head is to be read.
pub(super) struct Arrival {
    peer: Peer,
    /// Both ends, if the user of the other one counts.
    pub(super) ends: Option<Box<Ends>>,
    place: Place<Notify>,
    /// Notified when the place is lost.
    cut: Arc<Notify>,
}

impl Arrival {
    /// Gives a new connection its place. Returns also whether another one has lost its own for it.
    pub(super) fn new(shared: &Shared, peer: Peer) -> (Arrival, bool) {
        let cut = Arc::new(Notify::new());
        let (place, is_crowded) = shared.admission.heads.enter(peer.address.map(Into::into), cut.clone());
        if is_crowded {
            shared.metrics.limited(Limited::Handshakes);
        }
        (Arrival { peer, ends: None, place, cut }, is_crowded)
    }
}

/// A connection: one request, and then the WebSocket if that was an upgrade. Both are one task, which has room for the WebSocket's
/// part only: the other one is larger, and short.
#[expect(clippy::large_enum_variant, reason = "the larger one is the one that stays")]
pub(super) enum Connection<Io> {
    Request(Pin<Box<dyn Future<Output = Option<Driver<Io>>> + Send>>),
    Client(Driver<Io>),
}

impl<Io> Connection<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn new(shared: Arc<Shared>, io: Io, arrival: Arrival) -> Connection<Io> {
        Connection::Request(Box::pin(serve(shared, io, arrival)))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Connection<Io> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Connection::Request(request) = &mut *self {
            match ready!(request.as_mut().poll(cx)) {
                Some(driver) => *self = Connection::Client(driver),
                None => return Poll::Ready(()),
            }
        }
        match &mut *self {
            Connection::Client(driver) => Pin::new(driver).poll(cx),
            Connection::Request(_) => Poll::Ready(()),
        }
    }
}

/// Serves one request, and returns a driver if that was an upgrade. A connection that loses its place is cut.
async fn serve<Io>(shared: Arc<Shared>, io: Io, arrival: Arrival) -> Option<Driver<Io>>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Arrival { peer, ends, place, cut } = arrival;
    let outcome = Mutex::new(Outcome { upgrade: None, patience: Duration::ZERO, _place: place });
    let service = service_fn(|request: Request<Incoming>| {
        let decided = decide(&shared, &request, peer);
        let is_asked = matches!(decided, Decided::Ask(_));
        let is_private =
            request.uri().path() == "/metrics" || !matches!(decided, Decided::Answer(Answer::Ready(_)));
        // The request keeps hyper's buffer, so it is dropped where it is not needed any more.
        let foreign = ends.as_deref().filter(|_| is_private && !is_asked).map(|ends| (*ends, request));
        let (shared, outcome) = (&shared, &outcome);
        #[cfg(feature = "pages")]
        let cut = &cut;
        Box::pin(async move {
            let decided = match foreign {
                Some((ends, request)) if !is_own(shared, ends).await => {
                    let source = Source { headers: request.headers(), address: peer.address };
                    source.report(
                        shared,
                        403,
                        "another user of the machine",
                        Some("--any-user allows others"),
                    );
                    Decided::Answer(Answer::Ready(foreign_user()))
                }
                _ => decided,
            };
            if is_asked {
                lock(outcome).patience = shared.config.handshake_timeout;
            }
            // hyper writes nothing for an error: the driver sends the 101 in one write with `server:connected`.
            let answer = settle(shared, decided).await.map_err(|upgrade| {
                lock(outcome).upgrade = Some(upgrade);
                "upgraded"
            })?;
            #[cfg(feature = "pages")]
            if let Some(place) = page_place(shared, &answer, cut.clone()) {
                let mut outcome = lock(outcome);
                // Once for its handler, once for sending it.
                outcome.patience = shared.config.page_timeout.saturating_mul(2);
                outcome._place = place;
            }
            Ok::<_, &str>(finish(shared, answer).await)
        })
    });
    let mut connection = http1::Builder::new()
        // hyper would judge before it has read what arrived while the process was stopped.
        .header_read_timeout(None)
        .max_buf_size(shared.config.max_head_bytes)
        .serve_connection(TokioIo::new(io), service);
    let mut lost = pin!(cut.notified());
    let mut served = poll_fn(|cx| match lost.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => connection.poll_without_shutdown(cx),
    });
    let mut done = within(&shared, shared.config.handshake_timeout, &mut served).await;
    let patience = lock(&outcome).patience;
    if done.is_none() && !patience.is_zero() {
        done = within(&shared, patience, &mut served).await;
    }
    // A client that is too slow, or does not speak HTTP, has had its response from hyper, or gets none. One that has left
    // ends hyper's part with another error than the service's.
    let upgrade = lock(&outcome).upgrade.take();
    if let (Some(Err(error)), Some((accepted, ticket))) = (done, upgrade)
        && error.is_user()
    {
        let parts = connection.into_parts();
        let (io, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
        let answer = encode_head(&switch_protocols(&accepted));
        return Some(Driver::new(shared.clone(), ticket, io, early, answer, &accepted));
    }
    None
}

/// Runs a future until its time has passed. If that is noticed late, the process was stopped, and the future gets time to read
/// what arrived meanwhile.
async fn within<F: Future + Unpin>(shared: &Shared, limit: Duration, future: &mut F) -> Option<F::Output> {
    let deadline = shared.clock.at() + limit;
    let mut wait = limit;
    loop {
        if let Ok(done) = tokio::time::timeout(wait, &mut *future).await {
            return Some(done);
        }
        let now = shared.clock.at();
        let from = shared.pauses.judge(now, deadline);
        if now >= from.max(deadline) {
            return None;
        }
        wait = from.max(deadline).since(now);
    }
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the other end of a connection is of a user who may connect.
async fn is_own(shared: &Shared, ends: Ends) -> bool {
    match &shared.admission.same_user {
        Some(users) => users.allows(ends).await,
        None => true,
    }
}

fn foreign_user() -> Response<String> {
    text(
        StatusCode::FORBIDDEN,
        "Only the user who runs this server may connect without a token (same_user; --any-user allows others)",
    )
}

/// A place for a page, which is being made from now on.
#[cfg(feature = "pages")]
pub(super) fn page_place(shared: &Shared, answer: &Answer, cut: Arc<Notify>) -> Option<Place<Notify>> {
    let Answer::Page(call) = answer else { return None };
    let (place, is_crowded) = shared.admission.open_pages.enter(call.key, cut);
    if is_crowded {
        shared.metrics.limited(Limited::Pages);
    }
    Some(place)
}

/// Answers a request of the embedder's own hyper server, and upgrades it if possible.
pub(super) async fn answer_embedded<B>(shared: &Arc<Shared>, request: &mut Request<B>, peer: Peer) -> Answer {
    let settled = settle(shared, decide(shared, request, peer)).await;
    settled.unwrap_or_else(|(accepted, ticket)| upgrade_embedded(shared, request, accepted, ticket))
}

/// As [`answer_embedded`], without waiting: an authenticator that has to wait cannot be asked.
pub(super) fn answer_at_once<B>(shared: &Arc<Shared>, request: &mut Request<B>, peer: Peer) -> Answer {
    let settled = {
        let mut settling = pin!(settle(shared, decide(shared, request, peer)));
        settling.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    match settled {
        Poll::Ready(settled) => {
            settled.unwrap_or_else(|(accepted, ticket)| upgrade_embedded(shared, request, accepted, ticket))
        }
        Poll::Pending => {
            let message = "The authenticator waits: the server must call upgrade_async";
            Answer::Ready(text(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

fn upgrade_embedded<B>(
    shared: &Arc<Shared>,
    request: &mut Request<B>,
    accepted: Accepted,
    ticket: Ticket,
) -> Answer {
    let mut response = switch_protocols(&accepted);
    response.extensions_mut().insert(ticket.id);
    let upgraded = hyper::upgrade::on(request);
    let shared = shared.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let io = TokioIo::new(upgraded);
            Driver::new(shared, ticket, io, Vec::new(), Vec::new(), &accepted).await;
        }
    });
    Answer::Ready(response)
}

/// Completes an answer.
#[cfg(not(feature = "pages"))]
async fn finish(_: &Shared, Answer::Ready(response): Answer) -> Response<String> {
    response
}

/// Completes an answer: calls the handler of a page.
#[cfg(feature = "pages")]
pub(super) async fn finish(shared: &Shared, answer: Answer) -> Response<Content> {
    match answer {
        Answer::Ready(response) => response.map(Content::from),
        Answer::Page(call) => shared.pages.finish(call, |error| shared.observers().failed(error)).await,
    }
}

fn switch_protocols(accepted: &Accepted) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
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

/// The head of the answer to an upgrade, as it is sent.
fn encode_head(response: &Response<String>) -> Vec<u8> {
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    for (name, value) in response.headers() {
        head.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;
    use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

    use super::super::{Config, Server};
    use super::*;

    const UPGRADE: &[u8] =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    /// A client that sends one request, and records each write of the server.
    struct Silent {
        request: &'static [u8],
        writes: UnboundedSender<Vec<u8>>,
        /// Whether nothing can follow the request.
        ends: bool,
        /// Most bytes that it takes at a time.
        room: usize,
        is_full: bool,
    }

    impl AsyncRead for Silent {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let request = std::mem::take(&mut self.request);
            buffer.put_slice(request);
            if request.is_empty() && !self.ends { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
    }

    impl AsyncWrite for Silent {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if std::mem::take(&mut self.is_full) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = bytes.len().min(self.room);
            self.is_full = count < bytes.len();
            self.writes.send(bytes.iter().take(count).copied().collect()).expect("the test receives it");
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn served(request: &'static [u8], ends: bool, room: usize) -> (Server, UnboundedReceiver<Vec<u8>>) {
        let server = Server::new(Config::default());
        let (writes, seen) = mpsc::unbounded_channel();
        let client = Silent { request, writes, ends, room, is_full: false };
        let arrival = Arrival::new(&server.shared, Peer::from(true)).0;
        tokio::spawn(Connection::new(server.shared.clone(), client, arrival));
        (server, seen)
    }

    async fn first_write(request: &'static [u8]) -> String {
        let (_server, mut seen) = served(request, false, usize::MAX).await;
        String::from_utf8_lossy(&seen.recv().await.expect("an answer")).into_owned()
    }

    /// Tokio allocates tasks in steps of 128 bytes: with more than this, each client takes 640 instead of 512.
    #[test]
    fn the_task_of_a_connection_is_small() {
        let bytes = size_of::<Connection<tokio::net::TcpStream>>();
        assert!(bytes <= 416, "{bytes} bytes");
    }

    #[tokio::test]
    async fn the_answer_to_an_upgrade_and_the_first_event_are_one_write() {
        let written = first_write(UPGRADE).await;
        let (head, event) = written.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(event.contains("server:connected"), "{event}");
    }

    #[tokio::test]
    async fn an_answer_that_the_socket_takes_in_pieces_arrives_whole() {
        for room in [1, 50, 200] {
            let (_server, mut seen) = served(UPGRADE, false, room).await;
            let mut written = Vec::new();
            while !written.ends_with(b"}") {
                written.extend(seen.recv().await.expect("the rest of the answer"));
            }
            let written = String::from_utf8_lossy(&written);
            assert!(written.starts_with("HTTP/1.1 101 ") && written.contains("serverTime"), "{written}");
        }
    }

    #[tokio::test]
    async fn a_client_that_has_ended_before_its_answer_never_connects() {
        let (server, mut seen) = served(UPGRADE, true, usize::MAX).await;
        assert_eq!(seen.recv().await, None);
        assert_eq!(server.stats().connections, 0);
    }

    #[tokio::test]
    async fn any_other_answer_is_not_kept_back() {
        let written = first_write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(written.starts_with("HTTP/1.1 426 "), "{written}");
    }

    /// The process is stopped for longer than the deadline, and what arrives meanwhile is reported after the timer.
    #[tokio::test(start_paused = true)]
    async fn what_arrives_while_the_process_is_stopped_counts_before_the_deadline() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let pause = Duration::from_secs(60);
        for (before, is_answered) in [(0, true), (40, true), (UPGRADE.len() - 1, true), (40, false)] {
            let server = Server::new(Config::default());
            let (mut near, far) = tokio::io::duplex(64 << 10);
            let arrival = Arrival::new(&server.shared, Peer::from(true)).0;
            let served = tokio::spawn(Connection::new(server.shared.clone(), far, arrival));
            let (head, rest) = UPGRADE.split_at(before);
            near.write_all(head).await.expect("the server reads");
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::time::advance(pause).await;
            // The task is polled because of its timer, before there is anything to read.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(!served.is_finished(), "{before} bytes before the pause");
            if is_answered {
                near.write_all(rest).await.expect("the server reads");
            }
            let mut answer = [0; 12];
            let answered = near.read_exact(&mut answer).await.is_ok();
            assert_eq!((answered, answered && answer.ends_with(b" 101")), (is_answered, is_answered));
        }
    }
}
