//! The registry of clients. In: who comes and goes, and an event. Out: the event, encoded once, in every client's queue.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, Receiver, Sender};
use uuid::Uuid;

use crate::client::Client;
use crate::{MAX_EVENTS_WAITING, wire};

/// Everyone who is connected, each with the queue of its events. `M` is a text that is cheap to clone.
#[derive(Debug)]
pub struct Hub<M> {
    /// Locked when somebody comes or goes, and for broadcasts; never for a request.
    clients: Mutex<HashMap<Uuid, Sender<M>>>,
}

impl<M> Default for Hub<M> {
    fn default() -> Self {
        Hub { clients: Mutex::default() }
    }
}

impl<M: Clone + From<String>> Hub<M> {
    /// Takes up a client, whose queue has `server:connected` in it. The queue ends when the client is too slow for it.
    pub fn join(&self) -> (Client, Receiver<M>) {
        let client = Client::new(Uuid::new_v4());
        let (events, queue) = mpsc::channel(MAX_EVENTS_WAITING);
        let hello =
            serde_json::json!({ "clientId": client.id.to_string(), "serverTime": client.connected_at });
        let _ = events.try_send(wire::event("server:connected", &hello).into());
        self.clients().insert(client.id, events);
        (client, queue)
    }

    /// Forgets a client.
    pub fn leave(&self, client: &Client) {
        self.clients().remove(&client.id);
    }

    /// Sends an event to everyone, and answers to how many.
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
