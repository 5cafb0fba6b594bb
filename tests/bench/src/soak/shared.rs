//! The state that all clients share: counters, and what they know about the server's chats.

use std::cell::{Cell, RefCell};

use super::order::Order;

/// The state that all clients share.
pub struct Soak {
    pub port: u16,
    pub clients: usize,
    pub connected: Cell<usize>,
    pub answered: Cell<u64>,
    pub events: Cell<u64>,
    pub rate_limited: Cell<u64>,
    pub invalid: Cell<u64>,
    /// Requests about a chat that another client deleted.
    pub gone: Cell<u64>,
    pub left: Cell<u64>,
    pub unexpected: Cell<u64>,
    pub ending: Cell<bool>,
    /// The existing chats, which the first client tracks from the events.
    pub chats: RefCell<Vec<String>>,
    pub order: RefCell<Order>,
}

pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Soak {
    pub fn unexpected(&self, what: &str) {
        count(&self.unexpected);
        if self.unexpected.get() <= 50 {
            eprintln!("unexpected: {what}");
        }
    }
}
