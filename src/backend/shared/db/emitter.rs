//! Sending the events of writes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::payload::Payload;
use crate::server::Server;

type Emit = Arc<dyn Fn(&str, Payload) + Send + Sync>;

/// Sends events to every client of a server, once one is set. It does not keep the server alive.
#[derive(Clone, Default)]
pub(super) struct Emitter(Arc<Mutex<Option<Emit>>>);

impl Emitter {
    /// Sets the server. It replaces an earlier one.
    pub(super) fn set(&self, server: &Server) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(server.emitter()));
    }

    pub(super) fn emit(&self, channel: &str, payload: Payload) {
        let emit = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(emit) = emit {
            emit(channel, payload);
        }
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Emitter(..)")
    }
}
