//! Whose reads and writes take turns.

use crate::server::Party;

/// Whom a read or a write is done for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// Work in the background, which yields to the writes of clients.
    Server,
    Client(Party),
}
