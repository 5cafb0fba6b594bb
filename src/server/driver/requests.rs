//! Receiving from a client. Input: bytes, and wakes of handlers that wait. Output: calls of handlers, and their answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::session::{Action, Request, Slot};
use crate::protocol::time::Millis;

use super::super::config::ServerError;
use super::super::memory::Share;
use super::super::router::Running;
use super::super::shared::{Lookup, RequestContext};
use super::decoding::Decoding;
use super::in_flight::{InFlight, internal_error};
use super::state::{Disconnected, Driver, Progress, Stage, Turn, WRITE_BYTES};

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Handles input that was read before.
    pub(super) fn handle_held_input(&mut self, turn: &mut Turn<'_, '_>) -> Progress {
        if !self.may_read() {
            return Progress::None;
        }
        let backlog = self.backlog();
        let (mut input, start) = (std::mem::take(&mut backlog.input), backlog.input_at);
        debug_assert!(start <= input.len(), "only input that was read is handled");
        let used = self.handle_input(turn, input.get_mut(start..).unwrap_or_default());
        let backlog = self.backlog();
        if start + used < input.len() {
            backlog.input_at = start + used;
            backlog.input = input;
        } else {
            backlog.input_at = 0;
        }
        if used > 0 { Progress::Some } else { Progress::None }
    }

    /// Reserves room for what the client holds, before more is read. Returns whether there is.
    pub(super) fn reserve(&mut self, turn: &mut Turn<'_, '_>) -> bool {
        let mut held_bytes = self.session.held_bytes();
        let mut share = None;
        if let Some(backlog) = &mut self.backlog {
            held_bytes = held_bytes.saturating_add(backlog.outbox.owned_bytes());
            share = backlog.share.take();
        }
        let Some(mut share) = share.or_else(|| Share::new(&self.client.shared.memory, held_bytes)) else {
            return true;
        };
        // A client that is not read because of its own limits has no need to wait.
        let waits = !self.is_blocked() && self.session.wants_input();
        let has_room = share.reserve(held_bytes, turn.now.at, waits.then_some(&mut *turn.cx));
        share.note_receiving(self.session.is_receiving(), turn.now.at);
        if share.waiting_since().is_some() {
            // Silence is not the client's fault.
            self.session.touch(turn.now.at);
        }
        self.backlog().share = Some(share);
        has_room
    }

    pub(super) fn read(
        &mut self,
        turn: &mut Turn<'_, '_>,
        buffer: &mut [u8],
    ) -> Result<Progress, Disconnected> {
        let mut read = ReadBuf::new(buffer);
        let count = match Pin::new(&mut self.io).poll_read(turn.cx, &mut read) {
            Poll::Pending => return Ok(Progress::None),
            Poll::Ready(Err(_)) => return Err(Disconnected),
            Poll::Ready(Ok(())) => read.filled().len(),
        };
        if count == 0 {
            return Err(Disconnected);
        }
        if let Stage::Lingering { .. } = self.stage {
            return Ok(Progress::Some);
        }
        self.client.shared.metrics.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        let input = buffer.get_mut(..count).unwrap_or_default();
        let used = self.handle_input(turn, input);
        if used < count {
            self.backlog().input.extend_from_slice(input.get(used..).unwrap_or_default());
        }
        Ok(Progress::Some)
    }

    /// Handles input until it is used up, the session wants no more, or it is the turn of other clients. Returns how much
    /// was used.
    fn handle_input(&mut self, turn: &mut Turn<'_, '_>, input: &mut [u8]) -> usize {
        let routes = self.client.shared.router.snapshot();
        let mut routes = Lookup::new(&routes);
        let mut used = 0;
        // The clock is read once per request: one ends where the next starts.
        let mut clock = self.client.observers.start();
        while used < input.len()
            && turn.frames > 0
            && turn.out.len() < WRITE_BYTES
            && !self.is_blocked()
            && self.session.wants_input()
        {
            self.check_pause(turn);
            turn.frames -= 1;
            debug_assert!(used <= input.len(), "a step uses only its input");
            let rest = input.get_mut(used..).unwrap_or_default();
            let step = self.session.handle_input(turn.now, rest, turn.out);
            used += step.consumed;
            self.perform(turn, &mut routes, step.action, &mut clock);
        }
        self.has_answered |= used > 0;
        used
    }

    /// Does what a message asks for.
    #[inline]
    pub(super) fn perform(
        &mut self,
        turn: &mut Turn<'_, '_>,
        routes: &mut Lookup<'_>,
        action: Option<Action>,
        clock: &mut Option<Instant>,
    ) {
        match action {
            None => {
                self.count_wrong_tokens(turn);
                self.complete_unhandled(turn.now.unix_ms);
            }
            Some(Action::Authenticated) => self.handle_authenticated(turn),
            Some(Action::Authenticate(request)) => self.start_asking(turn, request),
            Some(Action::Request(request)) => self.dispatch(turn, routes, request, clock),
            // It is polled in the same turn, because handling the message was progress.
            Some(Action::Decode(message)) => {
                self.backlog().decoding = Some(Decoding::new(&self.client, message));
            }
        }
    }

    /// Continues with a large message once it is decoded. It is polled even while the client takes nothing, so that it cannot
    /// keep a place that it does not use.
    pub(super) fn handle_decoded(&mut self, turn: &mut Turn<'_, '_>) -> Result<Progress, Disconnected> {
        let Some(backlog) = &mut self.backlog else { return Ok(Progress::None) };
        let decoding = backlog.decoding.as_mut().filter(|_| self.session.is_decoding());
        let polled = decoding.map(|decoding| decoding.poll(turn.cx));
        if let Some(Poll::Pending) = polled {
            return Ok(Progress::None);
        }
        backlog.decoding = None;
        let Some(Poll::Ready(decoded)) = polled else { return Ok(Progress::None) };
        let routes = self.client.shared.router.snapshot();
        let mut clock = self.client.observers.start();
        let action = self.session.handle_decoded(turn.now, decoded.ok_or(Disconnected)?, turn.out);
        self.perform(turn, &mut Lookup::new(&routes), action, &mut clock);
        self.has_answered = true;
        Ok(Progress::Some)
    }

    /// Calls the handler of a request. One that is ready at once is answered at once.
    fn dispatch(
        &mut self,
        turn: &mut Turn<'_, '_>,
        routes: &mut Lookup<'_>,
        request: Request,
        clock: &mut Option<Instant>,
    ) {
        let Some((channel, route)) = routes.find(&request) else {
            let channel = request.channel();
            let channel = channel.as_deref().unwrap_or(request.raw_channel());
            let message = format!("No handler for: {channel}");
            let error = WireError::with_code(ErrorCode::UnknownChannel, message);
            self.session.answer(turn.now, request, Err(error), turn.out);
            return self.complete_unhandled(turn.now.unix_ms);
        };
        // The handler can ask for it.
        self.publish_activity(turn);
        let context = RequestContext::new(self.client.clone(), request.id());
        let payload = request.payload();
        let started = catch_unwind(AssertUnwindSafe(|| {
            let mut running = route.call(payload, context);
            match running.as_mut().poll(turn.cx) {
                Poll::Ready(result) => Ok(result),
                Poll::Pending => Err(running),
            }
        }));
        let result = match started {
            Ok(Ok(result)) => result,
            Ok(Err(running)) => {
                let timeout = route.timeout.unwrap_or(self.client.shared.rules.limits.handler_timeout);
                let started = std::mem::replace(clock, self.client.observers.start());
                return self.park(turn, request, running, started, turn.now.at + timeout);
            }
            Err(_) => {
                self.client.report(ServerError::HandlerPanicked { channel: channel.to_owned() });
                Err(internal_error())
            }
        };
        self.deliver_events(turn);
        self.session.answer(turn.now, request, result, turn.out);
        if let Some(started) = clock {
            let ended = Instant::now();
            let elapsed = ended - std::mem::replace(started, ended);
            let error = self.session.take_error();
            self.client.completed(Some(channel), error.as_deref(), elapsed, turn.now.unix_ms);
        }
    }

    /// Notifies the observers of a message that was answered with an error before it got to a handler.
    fn complete_unhandled(&mut self, at_unix_ms: u64) {
        if let Some(error) = self.session.take_error() {
            self.client.completed(None, Some(&error), Duration::ZERO, at_unix_ms);
        }
    }

    /// Keeps a handler that waits. It is polled once more with its own waker, which its first poll did not have.
    fn park(
        &mut self,
        turn: &mut Turn<'_, '_>,
        request: Request,
        running: Running,
        started: Option<Instant>,
        until: Millis,
    ) {
        let channel = Box::from(request.channel().unwrap_or_default().as_ref());
        let client = self.client.clone();
        let new = |slot| InFlight::new(client, slot, channel, running, started);
        let slot = self.session.park(request, until, new);
        self.resume(turn, slot);
    }

    /// Polls a handler that waits.
    pub(super) fn resume(&mut self, turn: &mut Turn<'_, '_>, slot: Slot) {
        let Some(handler) = self.session.handler_mut(slot) else { return };
        let Poll::Ready(result) = handler.poll() else { return };
        // What it emits while it is dropped is sent before its answer, too.
        handler.cancel();
        self.deliver_events(turn);
        if let Some(mut handler) = self.session.answer_parked(turn.now, slot, result, turn.out) {
            handler.complete(self.session.take_error().as_deref());
        }
    }
}
