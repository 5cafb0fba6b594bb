//! Groups of connections: [`Group`], and what a [`Connection`] does with groups. Input: names, events. Output: frames in the mailboxes
//! of the members.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use crate::protocol::groups::JoinError;
use crate::protocol::payload::Payload;

use super::config::ClientId;
use super::connection::Connection;
use super::shared::Server;

/// A group of connections, by its name. It need not exist: one without members has no memory, and nothing is sent to it.
///
/// ```
/// use serde_json::json;
/// use switchboard::{Config, Payload, RequestContext, Server};
///
/// let server = Server::new(Config::default());
/// server.on_request("room:join", |payload: Payload, cx: RequestContext| async move {
///     let room = payload.read(serde_json::from_str::<String>)?;
///     cx.connection().join(&room)?;
///     cx.server().group(&room).emit("room:joined", json!({ "who": cx.client_id.to_string() }));
///     Ok(json!({ "members": cx.server().group(&room).count() }))
/// });
/// ```
#[derive(Clone)]
pub struct Group {
    server: Server,
    name: Arc<str>,
}

impl Server {
    /// A group of connections, which join with [`Connection::join`].
    pub fn group(&self, name: &str) -> Group {
        Group { server: self.clone(), name: name.into() }
    }
}

impl Group {
    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends an event to every member. It is encoded once, and costs in proportion to the members, not to all clients. Clients that get
    /// it and other events get all of them in the same order.
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        self.send(None, channel, payload.into());
    }

    /// Sends an event to every member but one, such as the one whose message it is.
    ///
    /// ```
    /// # use switchboard::{Config, Payload, RequestContext, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_request("room:say", |payload: Payload, cx: RequestContext| async move {
    ///     cx.server().group("room:42").emit_except(&cx.connection(), "room:said", payload);
    ///     Ok(())
    /// });
    /// ```
    pub fn emit_except(&self, connection: &Connection, channel: &str, payload: impl Into<Payload>) {
        self.send(Some(connection.id()), channel, payload.into());
    }

    fn send(&self, except: Option<ClientId>, channel: &str, payload: Payload) {
        let shared = &self.server.shared;
        if shared.hub.group_is_empty(&self.name) {
            return;
        }
        if let Some(frame) = shared.encode(channel, &payload) {
            let sent = shared.hub.post_to_group(&self.name, except, &frame);
            shared.metrics.events_sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
    }

    /// The number of members.
    pub fn count(&self) -> usize {
        self.server.shared.hub.group(&self.name).len()
    }

    /// The members, in no particular order.
    pub fn connections(&self) -> Vec<Connection> {
        self.server.shared.hub.group(&self.name).into_iter().map(Connection::new).collect()
    }

    /// Closes the connection of each member, as [`Connection::close`] does.
    pub fn close(&self, code: u16, reason: &str) {
        for connection in self.connections() {
            connection.close(code, reason);
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Connection {
    /// Joins a group. It leaves all its groups when it ends. Does nothing if it is in the group, or has ended.
    ///
    /// ```
    /// # use switchboard::{Config, Server};
    /// # let server = Server::new(Config::default());
    /// server.on_connection(|connection| {
    ///     if let Err(error) = connection.join("lobby") {
    ///         eprintln!("{error}");
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// When the name is empty or longer than 256 bytes, when the connection is in
    /// [`Config::max_groups_per_connection`](super::Config::max_groups_per_connection) groups, or when there are
    /// [`Config::max_groups`](super::Config::max_groups) groups.
    pub fn join(&self, group: &str) -> Result<(), JoinError> {
        self.client.shared.hub.join_group(group, &self.client)
    }

    /// Leaves a group, and returns whether it was in it. Events that were emitted before still arrive.
    pub fn leave(&self, group: &str) -> bool {
        self.client.shared.hub.leave_group(group, self.client.id)
    }

    /// The names of the groups that it is in, sorted. In [`Server::on_disconnection`] they can still be read, although no group
    /// counts the connection as a member.
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.client.shared.hub.groups_of(self.client.id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::super::Config;
    use super::super::shared::RequestContext;
    use super::*;

    /// The table of clients is locked meanwhile: an emit that looked through it would wait. Only a hang reaches the timeout.
    #[tokio::test]
    async fn an_emit_to_a_group_does_not_look_through_all_clients() {
        let server = Server::new(Config::default());
        server.on_request("say", |payload: Payload, cx: RequestContext| async move {
            cx.connection().join("room")?;
            let server = cx.server();
            let (sender, done) = mpsc::channel();
            let table = server.shared.hub.lock_clients();
            let group = server.group("room");
            thread::spawn(move || {
                group.emit("said", payload);
                sender.send(()).unwrap_or_default();
            });
            let emitted = done.recv_timeout(Duration::from_secs(60));
            drop(table);
            emitted.expect("the emit needs the table of clients");
            Ok(())
        });
        let called = server.call("say", Payload::none()).outcome().await;
        assert!(called.result.is_ok(), "{:?}", called.result);
        assert_eq!(called.events.len(), 1);
    }
}
