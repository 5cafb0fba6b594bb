//! The handle to a client's connection: [`Connection`], for the embedder. Input: calls from any thread. Output: what belongs to
//! the client, and what its task finds in its mailbox.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::payload::Payload;
use crate::protocol::session::Ending;

use super::authentication::{Attempt, Refusal};
use super::config::ClientId;
use super::identity::Identity;
#[cfg(feature = "backend")]
use super::identity::Party;
use super::shared::{Client, RequestContext, Server};

/// A client's connection. A clone is another handle to the same connection.
///
/// A handler gets it from [`RequestContext::connection`], everything else from [`Server::on_connection`] or
/// [`Server::connection`]. It can be kept: after the end of the connection its methods do nothing.
///
/// ```
/// use serde_json::json;
/// use switchboard::{Config, Payload, RequestContext, Server};
///
/// struct Nickname(String);
///
/// let server = Server::new(Config::default());
/// server.on_request("nickname", |payload: Payload, cx: RequestContext| async move {
///     let name = payload.parse()?.as_str().unwrap_or("anonymous").to_owned();
///     cx.connection().set_data(Nickname(name));
///     Ok(())
/// });
/// server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
///     let name = cx.connection().data::<Nickname>();
///     Ok(json!(name.map(|name| name.0.clone())))
/// });
/// ```
#[derive(Clone)]
pub struct Connection {
    pub(super) client: Arc<Client>,
}

impl Connection {
    pub(super) fn new(client: Arc<Client>) -> Connection {
        Connection { client }
    }

    /// The client's id.
    pub fn id(&self) -> ClientId {
        self.client.id
    }

    /// Who the client is; `None` without an authenticator.
    pub fn identity(&self) -> Option<Identity> {
        self.client.identity()
    }

    /// The client's address: that of the other end of the connection, or the one that a proxy of
    /// [`Config::trusted_proxies`](super::Config::trusted_proxies) names. `None` if the embedder has passed none.
    pub fn peer(&self) -> Option<IpAddr> {
        self.client.peer
    }

    /// When it connected, in Unix ms.
    pub fn connected_at_unix_ms(&self) -> u64 {
        self.client.connected_at_unix_ms()
    }

    /// Whether the connection is open and the client is ready for events.
    pub fn is_open(&self) -> bool {
        self.client.is_member()
    }

    /// The value of this type that belongs to the connection, if one was set.
    pub fn data<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.client.belongings()?.data()
    }

    /// Stores a value until the connection ends, one of each type. It replaces an earlier one.
    ///
    /// It is dropped after [`Server::on_disconnection`]; after the end of the connection nothing is stored.
    pub fn set_data<T: Send + Sync + 'static>(&self, value: T) {
        let is_open = || self.client.is_member();
        if is_open() {
            self.client.belongings_mut().set_data(Arc::new(value), is_open);
        }
    }

    /// Sends an event to this client.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_connection(|connection| {
    ///     connection.emit("welcome", serde_json::json!({ "id": connection.id().to_string() }));
    /// });
    /// ```
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        if self.client.is_member() {
            self.client.shared.emit_to(std::slice::from_ref(&self.client), channel, &payload.into());
        }
    }

    /// Closes the connection with a code and a reason, after the events that were emitted before. Requests in flight are
    /// dropped. A code that a server cannot send (RFC 6455, section 7.4) is sent as 1000, and the reason is cut to 123 bytes.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("sign-out", |_: Payload, cx: RequestContext| async move {
    ///     cx.connection().close(4000, "signed out"); // after this response
    ///     Ok(())
    /// });
    /// ```
    pub fn close(&self, code: u16, reason: &str) {
        self.client.request_close(code, reason);
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Eq for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl RequestContext {
    /// The connection of the client that asked.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("address", |_: Payload, cx: RequestContext| async move {
    ///     Ok(serde_json::json!(cx.connection().peer().map(|peer| peer.to_string())))
    /// });
    /// ```
    pub fn connection(&self) -> Connection {
        Connection::new(self.client.clone())
    }

    /// Who asks; `None` without an authenticator.
    pub fn identity(&self) -> Option<Identity> {
        self.client.identity()
    }

    /// Who takes turns while the request waits for something that many share.
    #[cfg(feature = "backend")]
    pub(crate) fn party(&self) -> Party {
        self.client.party()
    }

    /// The data of who asks, as [`Identity::data`] set it; `None` if there is none of this type.
    ///
    /// ```
    /// # use switchboard::{Config, HandlerError, Payload, RequestContext, Server};
    /// struct User { name: String }
    ///
    /// # let server = Server::new(Config::default());
    /// server.on_request("name", |_: Payload, cx: RequestContext| async move {
    ///     let user = cx.data::<User>().ok_or(HandlerError::new("not signed in"))?;
    ///     Ok(serde_json::json!(user.name))
    /// });
    /// ```
    pub fn data<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.client.identity()?.shared_data()
    }
}

impl Server {
    /// Sets the function that decides who a client is, and whether it may connect. It replaces
    /// [`Config::token`](super::Config::token) and an earlier function.
    ///
    /// It is called after the checks of `Host` and `Origin` and before the answer to an upgrade, and for pages that need a token.
    /// At most [`Config::max_authentications`](super::Config::max_authentications) calls run at the same time, each for at most
    /// [`Config::handshake_timeout`](super::Config::handshake_timeout). A client that leaves cancels its call, and a panic in one
    /// is contained: the client gets 500, and observers a [`ServerError`](super::ServerError).
    ///
    /// Shortly before the credential expires, a client that offered `switchboard.v1` gets the event `auth:expiring`. It can then
    /// send a new one on channel `auth`, for which the function is called too: what the client sends after it is handled after
    /// the decision. At [`Identity::expires_at`] the connection closes with 4401.
    ///
    /// An address that sends many wrong credentials has to wait, as for the token: see
    /// [`Config::max_wrong_tokens`](super::Config::max_wrong_tokens).
    ///
    /// ```
    /// use switchboard::{Attempt, Config, Identity, Refusal, Server};
    ///
    /// struct User { name: String }
    ///
    /// async fn verify(token: &str) -> Result<User, Refusal> {
    ///     match token {
    ///         "a token of Ada" => Ok(User { name: "Ada".to_owned() }),
    ///         _ => Err(Refusal::unauthorized("token is not valid")),
    ///     }
    /// }
    ///
    /// let server = Server::new(Config::default());
    /// server.authenticate(|attempt: Attempt| async move {
    ///     let user = verify(attempt.bearer().ok_or(Refusal::Unauthorized)?).await?;
    ///     Ok(Identity::new(&*user.name).expires_at_unix_ms(1_900_000_000_000).data(user))
    /// });
    /// ```
    pub fn authenticate<F, Fut>(&self, authenticator: F)
    where
        F: Fn(Attempt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, Refusal>> + Send + 'static,
    {
        self.shared.authentication.set(authenticator);
    }

    /// Sends an event to each client of an identity. It is encoded once.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// server.emit_to_identity("user:7", "mail", serde_json::json!({ "unread": 3 }));
    /// ```
    pub fn emit_to_identity(&self, identity: &str, channel: &str, payload: impl Into<Payload>) {
        self.shared.emit_to(&self.shared.hub.members_of(identity), channel, &payload.into());
    }

    /// Closes each connection of an identity, as [`Connection::close`] does, and returns their number. First make the
    /// authenticator refuse the identity: one that is being let in at this moment is not closed.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// let closed = server.disconnect_identity("user:7", 4403, "account is suspended");
    /// # assert_eq!(closed, 0);
    /// ```
    pub fn disconnect_identity(&self, identity: &str, code: u16, reason: &str) -> usize {
        let members = self.shared.hub.members_of(identity);
        members.iter().for_each(|client| client.request_close(code, reason));
        members.len()
    }

    /// Calls a function with the connection of each client that is ready for requests and events, before any of its requests.
    /// There may be several. It applies to clients that connect from now on, and must not block.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_connection(|connection| println!("{} from {:?}", connection.id(), connection.peer()));
    /// server.on_disconnection(|connection, ending| println!("{} has left: {ending}", connection.id()));
    /// ```
    pub fn on_connection(&self, callback: impl Fn(Connection) + Send + Sync + 'static) {
        let callback = move |client: &Arc<Client>| callback(Connection::new(client.clone()));
        self.shared.change_observers(|observers| observers.add_on_connection(Arc::new(callback)));
    }

    /// Calls a function once for each client that [`on_connection`](Server::on_connection) is called with, after the end of
    /// its connection. The data of the connection can still be read.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_disconnection(|connection, ending| {
    ///     if ending.code == 1008 {
    ///         eprintln!("{} was closed: {}", connection.id(), ending.reason);
    ///     }
    /// });
    /// ```
    pub fn on_disconnection(&self, callback: impl Fn(Connection, &Ending) + Send + Sync + 'static) {
        let callback =
            move |client: &Arc<Client>, ending: &Ending| callback(Connection::new(client.clone()), ending);
        self.shared.change_observers(|observers| observers.add_on_disconnection(Arc::new(callback)));
    }

    /// A client's connection; `None` if it is not connected.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// for connection in server.client_ids().into_iter().filter_map(|id| server.connection(id)) {
    ///     connection.close(1001, "maintenance");
    /// }
    /// ```
    pub fn connection(&self, client: ClientId) -> Option<Connection> {
        self.shared.hub.member(client).map(Connection::new)
    }
}
