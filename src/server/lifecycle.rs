//! The life of a server: start, serve, drain, stop, and requests of the embedder's own hyper server.

use std::io;
#[cfg(feature = "pages")]
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;

use super::admission::Peer;
use super::gate::Answer;
use super::listen;
use super::shared::Server;
use super::upgrade;

impl Server {
    /// Listens on the configured host and port, or on the next free port, and returns the port.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = Server::new(Config::default().port(0));
    /// let port = server.start().await?;
    /// assert_eq!(server.port(), Some(port));
    /// server.stop().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When every port tried is taken, the host cannot be resolved or bound, the server is already running, or a setting is
    /// invalid: an address that is not loopback without a token, unless [`Config::insecure`](super::Config::insecure).
    pub async fn start(&self) -> io::Result<u16> {
        self.shared.config.check()?;
        let bound = listen::bind(&self.shared.config, self.shared.authentication.is_set()).await?;
        let port = bound.port;
        listen::start(&self.shared, bound.listeners, port)?;
        Ok(port)
    }

    /// Serves a listener that the caller has bound. Returns when the server has stopped, and its clients have left. The rules for `Host` and `Origin` follow
    /// from its address.
    ///
    /// ```no_run
    /// use switchboard::{Config, Server};
    /// use tokio::net::TcpListener;
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let server = Server::new(Config::default());
    /// server.serve(TcpListener::bind("127.0.0.1:3001").await?).await?; // until server.stop() is called
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Server::start).
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.shared.config.check()?;
        let address = listener.local_addr()?;
        listen::check_exposure(&self.shared.config, self.shared.authentication.is_set(), &[address])?;
        let stopped = listen::start(&self.shared, vec![listener], address.port())?;
        // The semaphore never has a permit. It is closed when the server has stopped.
        let _ = stopped.acquire().await;
        Ok(())
    }

    /// Answers a request of the caller's own hyper server: upgrades it, or returns the response that says why not.
    ///
    /// The connection must be served `with_upgrades()`. `peer` is the address of its other end. Whether it came in on a
    /// loopback address decides the rules for `Host` and `Origin`; a `bool` that says only this is accepted too, but then
    /// limits by address do not apply.
    ///
    /// The response of an upgrade has the id of the connection, a [`ClientId`](super::ClientId), among its extensions. An
    /// authenticator that waits needs [`upgrade_async`](Server::upgrade_async).
    ///
    /// With feature `pages` it answers requests for built-in pages too, and `Server::answer` those for `Server::on_get`.
    ///
    /// ```no_run
    /// use hyper::server::conn::http1;
    /// use hyper::service::service_fn;
    /// use hyper_util::rt::TokioIo;
    /// use switchboard::{Config, Server};
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let server = Server::new(Config::default());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3001").await?;
    /// loop {
    ///     let (stream, peer) = listener.accept().await?;
    ///     let server = server.clone();
    ///     let service = service_fn(move |mut request| {
    ///         let response = server.upgrade(&mut request, peer);
    ///         async { Ok::<_, std::convert::Infallible>(response) }
    ///     });
    ///     tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    /// }
    /// # }
    /// ```
    pub fn upgrade<B>(
        &self,
        request: &mut hyper::Request<B>,
        peer: impl Into<Peer>,
    ) -> hyper::Response<String> {
        match upgrade::answer_at_once(&self.shared, request, peer.into()) {
            Answer::Ready(response) => response,
            #[cfg(feature = "pages")]
            Answer::Page(_) => super::http::refuse(crate::protocol::handshake::Refusal::NotAnUpgrade),
        }
    }

    /// Answers a request of the caller's own hyper server as [`upgrade`](Server::upgrade) does, and waits for the authenticator of
    /// [`authenticate`](Server::authenticate). `upgrade` can ask only one that never waits.
    ///
    /// The response of an upgrade has the id of the connection, a [`ClientId`](super::ClientId), among its extensions.
    ///
    /// ```no_run
    /// # async fn run(mut request: hyper::Request<hyper::body::Incoming>, peer: std::net::SocketAddr) {
    /// use switchboard::{Attempt, ClientId, Config, Identity, Refusal, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.authenticate(|attempt: Attempt| async move {
    ///     match attempt.header("x-user") {
    ///         Some(user) => Ok(Identity::new(user)),
    ///         None => Err(Refusal::Unauthorized),
    ///     }
    /// });
    /// // In the service of a hyper server, as in the example of `upgrade`:
    /// let response = server.upgrade_async(&mut request, peer).await;
    /// let client: Option<&ClientId> = response.extensions().get();
    /// # let _ = client; }
    /// ```
    pub async fn upgrade_async<B>(
        &self,
        request: &mut hyper::Request<B>,
        peer: impl Into<Peer>,
    ) -> hyper::Response<String> {
        match upgrade::answer_embedded(&self.shared, request, peer.into()).await {
            Answer::Ready(response) => response,
            #[cfg(feature = "pages")]
            Answer::Page(_) => super::http::refuse(crate::protocol::handshake::Refusal::NotAnUpgrade),
        }
    }

    /// Answers a request of the caller's own hyper server as [`upgrade_async`](Server::upgrade_async) does, and those for pages of
    /// [`on_get`](Server::on_get).
    ///
    /// ```no_run
    /// # async fn run(mut request: hyper::Request<hyper::body::Incoming>, peer: std::net::SocketAddr) {
    /// use switchboard::{Config, Page, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_get("/version", |_| async { Some(Page::new("text/plain", "1.0.0")) });
    /// // In the service of a hyper server, as in the example of `upgrade`:
    /// let response = server.answer(&mut request, peer).await;
    /// # let _ = response; }
    /// ```
    #[cfg(feature = "pages")]
    pub async fn answer<B>(
        &self,
        request: &mut hyper::Request<B>,
        peer: impl Into<Peer>,
    ) -> hyper::Response<super::content::Content> {
        let answer = upgrade::answer_embedded(&self.shared, request, peer.into()).await;
        let place = upgrade::page_place(&self.shared, &answer, Arc::default());
        let mut response = upgrade::finish(&self.shared, answer).await;
        response.body_mut().hold(place);
        response
    }

    /// Stops: accepts no new clients, and sends the connected ones `server:shutdown`, `CONNECTION_CLOSED` for each request
    /// in flight, and close 1001. Returns when all have left, at the latest one second after
    /// [`Limits::close_timeout`](crate::protocol::limits::Limits::close_timeout). Then the server can be started again.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = Server::new(Config::default().port(0));
    /// server.start().await?;
    /// server.stop().await;
    /// assert!(!server.is_running());
    /// # Ok(()) }
    /// ```
    pub async fn stop(&self) {
        // Everything is stopped before anything is waited for, so that a caller that stops waiting has stopped it too.
        let mut listening = self.shared.stop_listening();
        if let Some(listening) = &mut listening {
            listening.end().await;
        }
        self.wait_for_clients().await;
    }

    /// Stops, and lets requests in flight end first. It accepts no new clients, as [`stop`](Server::stop). The connected ones get
    /// `server:shutdown`, and each further request of theirs `CONNECTION_CLOSED`. A client that has no request in flight, and has
    /// got what waited for it, is closed with 1001. After `time` the rest is stopped. Returns when all have left.
    ///
    /// [`Connection::is_open`](super::Connection::is_open) stays true until a client is closed, so it gets the events that its
    /// requests emit, and all others. Clients that have not authenticated are closed at once.
    ///
    /// - No time at all is the same as [`stop`](Server::stop), and a `stop` meanwhile ends the drain.
    /// - Of several drains at the same time, the first one to end stops the server.
    /// - If the caller stops waiting, the drain is over: what is left is stopped at once.
    /// - Meanwhile [`start`](Server::start) and [`serve`](Server::serve) fail. A call of `serve` that runs returns at the end.
    /// - A handler that waits for the drain waits for itself: start a task for it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use switchboard::{Config, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = Server::new(Config::default().port(0));
    /// server.start().await?;
    /// server.drain(Duration::from_secs(10)).await; // at most that long, and as long as `stop` takes
    /// assert!(!server.is_running());
    /// # Ok(()) }
    /// ```
    pub async fn drain(&self, time: Duration) {
        if time.is_zero() {
            return self.stop().await;
        }
        let (mut listening, number) = self.shared.drain_listening();
        // A caller that stops waiting ends it.
        let drain = number.map(|number| Drain { server: self, number });
        if let Some(listening) = &mut listening {
            listening.end().await;
        }
        if let Some(drain) = &drain {
            let is_over = || self.has_no_clients() || !self.shared.hub.is_draining(drain.number);
            let _ = tokio::time::timeout(time, self.until(is_over)).await;
        }
        drop(drain);
        self.wait_for_clients().await;
    }

    /// Waits until all clients have left, as long as that can take.
    async fn wait_for_clients(&self) {
        let patience = self.shared.rules.limits.close_timeout + Duration::from_secs(1);
        // Tasks end themselves at the same deadline; one that is stuck in a handler's poll is not waited for.
        let _ = tokio::time::timeout(patience, self.until(|| self.has_no_clients())).await;
    }

    fn has_no_clients(&self) -> bool {
        self.shared.tasks.load(Ordering::Acquire) == 0
    }

    /// Waits for a condition that can change when a task ends.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let ended = self.shared.task_ended.notified();
            if is_so() {
                return;
            }
            ended.await;
        }
    }
}

/// A drain that goes on. Dropping it stops what is left.
struct Drain<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        self.server.shared.hub.end_drain(self.number);
        // Other callers may wait for the same drain.
        self.server.shared.task_ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Server};
    use super::listen;

    /// If `stop` released the lock between its two steps, a server that starts there would listen and send every client away.
    /// So between them no other task can see, or change, whether the server listens.
    #[test]
    fn stop_ends_listening_and_sends_clients_away_in_one_step() {
        let server = Server::new(Config::default());
        let shared = &server.shared;
        listen::start(shared, Vec::new(), 1).expect("it is not running");
        let is_seen_between = std::thread::scope(|scope| {
            let clients = shared.hub.freeze();
            let stopping = scope.spawn(|| drop(shared.stop_listening()));
            let mut times_locked = 0;
            let is_seen = loop {
                match shared.try_listening().map(|listening| listening.is_some()) {
                    Some(false) => break true,
                    // It has not begun yet.
                    Some(true) => times_locked = 0,
                    None if times_locked == 1000 => break false,
                    None => times_locked += 1,
                }
                std::thread::yield_now();
            };
            assert!(!stopping.is_finished());
            drop(clients);
            is_seen
        });
        assert!(!is_seen_between, "a server can start while another task stops it");
        assert!(!server.is_running());
    }
}
