//! The registry of clients. Input: clients that connect and disconnect, and events. Output: each event, encoded once, in the
//! queue of every client.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};
use uuid::Uuid;

use crate::client::Client;
use crate::{MAX_EVENTS_WAITING, wire};

/// All clients, each with a queue of events. `M` is a text that is cheap to clone.
#[derive(Debug)]
pub struct Hub<M> {
    /// Locked when a client connects or disconnects, and for broadcasts; never for a request.
    clients: Mutex<HashMap<Uuid, Sender<M>>>,
}

impl<M> Default for Hub<M> {
    fn default() -> Self {
        Hub { clients: Mutex::default() }
    }
}

impl<M: Clone + From<String>> Hub<M> {
    /// Adds a client, with `server:connected` in its queue. The queue is closed if the client is too slow.
    pub fn join(&self) -> (Client, Receiver<M>) {
        let client = Client::new(Uuid::new_v4());
        let (events, queue) = mpsc::channel(MAX_EVENTS_WAITING);
        let hello =
            serde_json::json!({ "clientId": client.id.to_string(), "serverTime": client.connected_at });
        let _ = events.try_send(wire::event("server:connected", &hello).into());
        self.clients().insert(client.id, events);
        (client, queue)
    }

    /// Removes a client.
    pub fn leave(&self, client: &Client) {
        self.clients().remove(&client.id);
    }

    /// Sends an event to all clients. Returns how many.
    pub fn broadcast(&self, event: String) -> usize {
        let event = M::from(event);
        let mut clients = self.clients();
        clients.retain(|_, events| events.try_send(event.clone()).is_ok());
        clients.len()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Uuid, Sender<M>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
