//! A handler that waits. Input: polls, and wakes from whatever it waits for. Output: its result.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::protocol::session::Slot;

use super::super::client::HandlerWaker;
use super::super::clock::unix_ms;
use super::super::config::ServerError;
use super::super::router::Running;
use super::super::shared::{Client, Shared};

/// A handler that waits, and its waker.
pub(super) struct InFlight {
    channel: Box<str>,
    /// Taken when the request ends; `None` from the start if requests are not observed.
    started: Option<Instant>,
    /// Taken when it is dropped.
    running: Option<Running>,
    wake: Arc<HandlerWaker<Arc<Shared>>>,
    waker: Waker,
}

impl InFlight {
    pub(super) fn new(
        client: Arc<Client>,
        slot: Slot,
        channel: Box<str>,
        running: Running,
        started: Option<Instant>,
    ) -> InFlight {
        let wake = Arc::new(HandlerWaker { client, slot, queued: AtomicBool::new(false) });
        InFlight { channel, started, running: Some(running), waker: Waker::from(wake.clone()), wake }
    }

    /// Polls the handler. A panic in it is reported, and is its result.
    pub(super) fn poll(&mut self) -> Poll<Result<Payload, WireError>> {
        self.wake.queued.store(false, Ordering::Release);
        let Some(running) = &mut self.running else { return Poll::Pending };
        let mut context = Context::from_waker(&self.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context)));
        polled.unwrap_or_else(|_| {
            self.report_panic();
            Poll::Ready(Err(internal_error()))
        })
    }

    /// Drops the future. It may panic then, too; two panics at once would end the program.
    pub(super) fn cancel(&mut self) {
        let running = self.running.take();
        if catch_unwind(AssertUnwindSafe(|| drop(running))).is_err() {
            self.report_panic();
        }
    }

    /// Notifies the observers of the request's end, once.
    pub(super) fn complete(&mut self, error: Option<&WireError>) {
        if let Some(started) = self.started.take() {
            self.wake.client.completed(Some(&self.channel), error, started.elapsed(), unix_ms());
        }
    }

    fn report_panic(&self) {
        self.wake.client.report(ServerError::HandlerPanicked { channel: self.channel.to_string() });
    }
}

impl Drop for InFlight {
    /// A handler that is dropped before its end has lost its connection.
    fn drop(&mut self) {
        self.cancel();
        let error = WireError::with_code(ErrorCode::ConnectionClosed, "The connection has ended");
        self.complete(Some(&error));
    }
}

/// The error of a request whose handler panicked.
pub(super) fn internal_error() -> WireError {
    WireError::new("Internal error")
}
