//! A family's channels with their handlers. In: rows, the state of the family, a server. Out: registered handlers.

use std::pin::Pin;
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{RequestContext, Server};

use super::db::{Change, Db, View};
use super::registry::{Channel, Direction};
use super::validate::Fields;

/// A channel and its handler, which is the only place where a channel is declared. See [`Channel`] for the other fields.
pub(crate) struct Row<S: 'static> {
    pub(crate) name: &'static str,
    pub(crate) payload: &'static str,
    pub(crate) response: &'static str,
    pub(crate) description: &'static str,
    pub(crate) example: &'static str,
    pub(crate) handler: Handler<S>,
}

/// The handler of a channel, in a family whose handlers share the state `S`.
pub(crate) enum Handler<S: 'static> {
    /// None: the server sends events on this channel.
    Event,
    /// Reads a few rows from the database by key.
    Read(Reading),
    /// Reads many rows from the database. It does not delay the reads by key.
    Search(Reading),
    /// Writes to the database, in one transaction.
    Write(fn(&mut Change<'_>, &Fields<'_>) -> Result<Payload, WireError>),
    /// Does anything else.
    Own(Own<S>),
    /// Does anything else, with its own deadline.
    OwnWithin(fn(&S) -> Duration, Own<S>),
}

type Reading = fn(&View<'_>, &Fields<'_>) -> Result<Payload, WireError>;
type Own<S> = fn(S, Payload, RequestContext) -> Answer;

/// A handler at work.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Payload, WireError>> + Send>>;

impl<S> Row<S> {
    pub(crate) const fn event(
        name: &'static str,
        payload: &'static str,
        description: &'static str,
    ) -> Row<S> {
        Row { name, payload, response: "-", description, example: "", handler: Handler::Event }
    }

    const fn channel(&self) -> Channel {
        let direction = match self.handler {
            Handler::Event => Direction::Event,
            _ => Direction::Request,
        };
        Channel {
            name: self.name,
            direction,
            payload: self.payload,
            response: self.response,
            description: self.description,
            example: self.example,
        }
    }
}

/// Returns the registry entries of rows. `N` is their number.
pub(crate) const fn channels<S, const N: usize>(rows: &[Row<S>]) -> [Channel; N] {
    assert!(rows.len() == N);
    let none = Channel {
        name: "",
        direction: Direction::Event,
        payload: "",
        response: "",
        description: "",
        example: "",
    };
    let mut channels = [none; N];
    let mut at = 0;
    while at < N {
        channels[at] = rows[at].channel();
        at += 1;
    }
    channels
}

/// Registers the handlers of a family.
///
/// # Panics
/// When a row reads or writes and `db` is `None`.
pub(crate) fn register<S>(server: &Server, db: Option<&Db>, state: &S, rows: &[Row<S>])
where
    S: Clone + Send + Sync + 'static,
{
    if let Some(db) = db {
        db.emit_to(server);
    }
    let db = || db.expect("a family that reads or writes has a database").clone();
    for row in rows {
        match row.handler {
            Handler::Event => {}
            Handler::Read(handler) => {
                let db = db();
                server.on_request(row.name, move |payload: Payload, cx| {
                    let db = db.on_behalf_of(cx.party());
                    async move { db.read(move |view| handler(view, &Fields::decode(&payload)?)).await }
                });
            }
            Handler::Search(handler) => {
                let db = db();
                server.on_request(row.name, move |payload: Payload, cx| {
                    let db = db.on_behalf_of(cx.party());
                    async move { db.search(move |view| handler(view, &Fields::decode(&payload)?)).await }
                });
            }
            Handler::Write(handler) => {
                let db = db();
                server.on_request(row.name, move |payload: Payload, cx| {
                    let db = db.on_behalf_of(cx.party());
                    async move {
                        let room = db.room_for(payload.as_str().map_or(0, str::len)).await;
                        let write = db.write(move |change| {
                            let _until_it_is_done = room;
                            handler(change, &Fields::decode(&payload)?)
                        });
                        write.await
                    }
                });
            }
            Handler::Own(handler) => {
                let state = state.clone();
                server.on_request(row.name, move |payload, cx| handler(state.clone(), payload, cx));
            }
            Handler::OwnWithin(deadline, handler) => {
                let (deadline, state) = (deadline(state), state.clone());
                server.on_request_within(row.name, deadline, move |payload, cx| {
                    handler(state.clone(), payload, cx)
                });
            }
        }
    }
}
