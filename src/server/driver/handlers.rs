//! A client's handlers. In: requests, and wakes of handlers that wait. Out: answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::session::{Request, Slot};
use crate::protocol::time::{Millis, Now};

use super::super::ServerError;
use super::super::hub::HandlerWaker;
use super::super::router::{Lookup, RequestContext, Running};
use super::Driver;

/// A handler that waits, and how it says that it can go on.
pub(super) struct Handler {
    slot: Slot,
    channel: Box<str>,
    /// Taken when the request comes to its end; `None` from the beginning if nobody observes.
    started: Option<Instant>,
    /// Taken when it is dropped.
    running: Option<Running>,
    bell: Arc<HandlerWaker>,
    waker: Waker,
}

impl Drop for Handler {
    /// A handler may panic while it is dropped, too. Two such at once would end the whole program.
    fn drop(&mut self) {
        let running = self.running.take();
        if catch_unwind(AssertUnwindSafe(|| drop(running))).is_err() {
            let channel = self.channel.to_string();
            self.bell.client.report(ServerError::HandlerPanicked { channel });
        }
        if let Some(started) = self.started.take() {
            let error = WireError::with_code(ErrorCode::ConnectionClosed, "The connection has ended");
            let client = &self.bell.client;
            client.tell_completed(Some(&self.channel), Some(&error), started.elapsed(), client.unix_ms());
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Starts a handler. One that is ready at once is answered at once.
    pub(super) fn dispatch(
        &mut self,
        now: Now,
        cx: &mut Context<'_>,
        routes: &mut Lookup<'_>,
        request: Request,
        clock: &mut Option<Instant>,
        out: &mut Vec<u8>,
    ) {
        let Some((channel, route)) = routes.find(&request) else {
            let channel = request.channel();
            let channel = channel.as_deref().unwrap_or(request.raw_channel());
            let message = format!("No handler for: {channel}");
            let error = WireError::with_code(ErrorCode::UnknownChannel, message);
            let error = self.session.answer(now, request, Err(error), out);
            return self.client.tell_completed(None, error.as_ref(), Duration::ZERO, now.unix_ms);
        };
        let context = RequestContext::new(self.client.clone(), request.id());
        let payload = request.payload();
        let started = catch_unwind(AssertUnwindSafe(|| {
            let mut running = route.call(payload, context);
            match running.as_mut().poll(cx) {
                Poll::Ready(result) => Ok(result),
                Poll::Pending => Err(running),
            }
        }));
        let result = match started {
            Ok(Ok(result)) => result,
            Ok(Err(running)) => {
                let timeout = route.timeout.unwrap_or(self.client.shared.rules.limits.handler_timeout);
                let begun = std::mem::replace(clock, self.client.observers.start());
                return self.park(now, request, running, begun, now.at + timeout, out);
            }
            Err(_) => Err(self.panicked(&request)),
        };
        self.deliver_events(now, out);
        let error = self.session.answer(now, request, result, out);
        if let Some(begun) = clock {
            let ended = Instant::now();
            let elapsed = ended - std::mem::replace(begun, ended);
            self.client.tell_completed(Some(channel), error.as_ref(), elapsed, now.unix_ms);
        }
    }

    /// Keeps a handler that waits. It is polled once more, since what it waits for must ring its own bell.
    fn park(
        &mut self,
        now: Now,
        request: Request,
        running: Running,
        started: Option<Instant>,
        until: Millis,
        out: &mut Vec<u8>,
    ) {
        let slot = self.session.park(request, until);
        let index = slot.index();
        let bell = HandlerWaker { client: self.client.clone(), index, queued: AtomicBool::new(false) };
        let bell = Arc::new(bell);
        let channel = self.session.parked(slot).and_then(Request::channel).unwrap_or_default();
        let channel = Box::from(channel.as_ref());
        let handler = Handler {
            slot,
            channel,
            started,
            running: Some(running),
            waker: Waker::from(bell.clone()),
            bell,
        };
        if self.handlers.len() <= index {
            self.handlers.resize_with(index + 1, || None);
        }
        if let Some(place) = self.handlers.get_mut(index) {
            *place = Some(handler);
        }
        self.resume(now, index, out);
    }

    /// Polls a handler that waits.
    pub(super) fn resume(&mut self, now: Now, index: usize, out: &mut Vec<u8>) {
        let Some(Some(handler)) = self.handlers.get_mut(index) else { return };
        let slot = handler.slot;
        handler.bell.queued.store(false, Ordering::Release);
        let Some(running) = &mut handler.running else { return };
        let mut context = Context::from_waker(&handler.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(&mut context)));
        let result = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(result)) => result,
            Err(_) => {
                Err(self.session.parked(slot).map_or_else(internal_error, |request| self.panicked(request)))
            }
        };
        let ended = self.end_parked(index);
        self.drop_handler(index);
        self.deliver_events(now, out);
        let error = self.session.answer_parked(now, slot, result, out);
        if let Some((started, channel)) = ended {
            let at_unix_ms = self.client.unix_ms();
            self.client.tell_completed(Some(&channel), error.as_ref(), started.elapsed(), at_unix_ms);
        }
        self.drop_orphans();
    }

    fn panicked(&self, request: &Request) -> WireError {
        let channel = request.channel().map(String::from).unwrap_or_default();
        self.client.report(ServerError::HandlerPanicked { channel });
        internal_error()
    }

    /// When a handler that has ended began, and its channel, for those who observe.
    pub(super) fn end_parked(&mut self, index: usize) -> Option<(Instant, Box<str>)> {
        let handler = self.handlers.get_mut(index)?.as_mut()?;
        handler.started.take().map(|started| (started, handler.channel.clone()))
    }

    pub(super) fn drop_handler(&mut self, index: usize) {
        if let Some(handler) = self.handlers.get_mut(index) {
            *handler = None;
        }
    }

    /// A session that has ended has no more requests: their handlers go.
    pub(super) fn drop_orphans(&mut self) {
        if self.session.in_flight() == 0 && !self.handlers.is_empty() {
            self.handlers = Vec::new();
        }
    }
}

fn internal_error() -> WireError {
    WireError::new("Internal error")
}
