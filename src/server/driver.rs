//! One client's task. In: a socket, the client's mailbox, a clock. Out: calls of handlers, and bytes. What any of it
//! means is decided by the [`Session`]; the driver only carries.
//!
//! While bytes wait for the client nothing is read from it, so that its requests cannot pile up answers. An idle
//! client owns no buffer: reads go to one that the worker thread's clients share, and answers are written from one.

mod handlers;
mod sending;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::protocol::connection::CloseCode;
use crate::protocol::outbox::Outbox;
use crate::protocol::session::{Action, Session, expired};
use crate::protocol::time::{Millis, Now};
use crate::protocol::uuid::Uuid;

use super::hub::Client;
use super::router::Lookup;
use super::{Shared, Ticket};
use handlers::Handler;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// Answers are written when this much has come together, or when the input is used up.
const WRITE_BYTES: usize = 256 << 10;
/// Frames handled before the other clients of this worker thread get their turn.
const FRAMES_PER_POLL: usize = 1024;
/// Reads before the other clients of this worker thread get their turn.
const READS_PER_POLL: usize = 8;

/// A client's task.
pub(super) struct Driver<Io> {
    io: Io,
    session: Session,
    client: Arc<Client>,
    stage: Stage,
    backlog: Option<Box<Backlog>>,
    /// How much of what waits answers what was read last. Nothing more is read until it is sent, so it has a limit of
    /// its own: `WRITE_BYTES` and one message.
    answer_bytes: usize,
    handlers: Vec<Option<Handler>>,
    waker: Option<Waker>,
    alarm: Option<Alarm>,
    _ticket: Ticket,
}

/// What could not be handled or sent at once. Few clients have any, so that the others need not own a place for it.
#[derive(Default)]
struct Backlog {
    /// Input that was read and could not be handled yet, from `input_at` on.
    input: Vec<u8>,
    input_at: usize,
    outbox: Outbox,
    /// Since when the client has taken nothing of what waits for it.
    stalled_since: Option<Millis>,
    /// Whether events were left in the mailbox because the socket was blocked.
    mail_left: bool,
}

impl Backlog {
    fn has_input(&self) -> bool {
        self.input_at < self.input.len()
    }

    fn is_over(&self) -> bool {
        !self.has_input() && self.outbox.is_empty() && !self.mail_left
    }
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// `server:connected` is to be sent, behind what is still to be sent of the answer to the upgrade.
    New { answer: Vec<u8> },
    /// Messages go both ways.
    Open,
    /// Nothing more is handled. What waits is written and the socket shut down. A client that has not said that it is
    /// done is read until it has seen that, so that no reset overtakes the close frame.
    Lingering { until: Millis, shut_down: bool },
}

struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Millis,
}

/// The connection is over.
struct Over;

/// Whether a step got anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// A client whose upgrade was accepted. `early` is what it sent behind its request, `answer` what is still to be sent
    /// before anything else.
    pub(super) fn new(
        shared: Arc<Shared>,
        ticket: Ticket,
        io: Io,
        early: Vec<u8>,
        answer: Vec<u8>,
        authenticated: bool,
    ) -> Driver<Io> {
        let now = shared.now();
        let id = Uuid::v4();
        let session = Session::new(shared.rules.clone(), id, authenticated, now.at);
        let client = Arc::new(Client::new(id, shared.clone(), now));
        shared.hub.join(&client);
        shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Driver {
            io,
            session,
            client,
            stage: Stage::New { answer },
            backlog: (!early.is_empty()).then(|| Box::new(Backlog { input: early, ..Backlog::default() })),
            answer_bytes: 0,
            handlers: Vec::new(),
            waker: None,
            alarm: None,
            _ticket: ticket,
        }
    }

    /// Does all that can be done now.
    fn advance(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), Over> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.client.set_waker(cx.waker());
            self.waker = Some(cx.waker().clone());
            self.alarm = None;
        }
        let now = self.client.shared.now();
        let out = &mut scratch.out;
        if let Stage::New { answer } = &mut self.stage {
            out.append(answer);
            self.session.open(now, out);
            self.stage = Stage::Open;
            if self.session.is_open() {
                self.become_member();
            }
        }
        self.handle_deadlines(now, out)?;
        let mut frames = FRAMES_PER_POLL;
        let mut reads = READS_PER_POLL;
        loop {
            let mut progress = self.flush(now, cx, out)?;
            if self.handle_mail(now, out) == Progress::Some {
                progress = Progress::Some;
            }
            if self.backlog.as_ref().is_some_and(|backlog| backlog.has_input()) {
                if self.handle_held_input(now, cx, &mut frames, out) == Progress::Some {
                    progress = Progress::Some;
                }
            } else if self.may_read() && reads > 0 {
                reads -= 1;
                if self.read(now, cx, &mut scratch.input, &mut frames, out)? == Progress::Some {
                    progress = Progress::Some;
                }
            }
            self.begin_lingering(now);
            self.write(now, cx, out)?;
            if progress == Progress::None {
                break;
            }
            if frames == 0 || reads == 0 {
                // Others first. The task comes back at once.
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.check_outbox(now, out);
        self.backlog.take_if(|backlog| backlog.is_over());
        self.publish();
        self.set_alarm(now, cx);
        Ok(())
    }

    fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_default()
    }

    /// Whether bytes wait for the client.
    fn is_blocked(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.outbox.is_empty())
    }

    fn become_member(&mut self) {
        if self.client.set_member(true) {
            self.client.shared.call_back(&self.client.shared.config.on_connection, self.client.id);
            self.client.tell_membership(self.client.shared.now().at);
        }
    }

    /// Whether the next bytes may be read: everything read before was handled, and nothing waits for the client.
    fn may_read(&self) -> bool {
        let lingering = matches!(self.stage, Stage::Lingering { .. });
        !self.is_blocked() && (lingering || self.session.wants_input())
    }

    fn handle_deadlines(&mut self, now: Now, out: &mut Vec<u8>) -> Result<(), Over> {
        if let Stage::Lingering { until, .. } = self.stage {
            return if now.at < until { Ok(()) } else { Err(Over) };
        }
        if now.at >= self.session.deadline() {
            while let Some(slot) = self.session.expire(now, out) {
                if let Some((started, channel)) = self.end_parked(slot.index()) {
                    let elapsed = started.elapsed();
                    self.client.tell_completed(Some(&channel), Some(&expired()), elapsed, now.unix_ms);
                }
                self.drop_handler(slot.index());
            }
            if !self.session.handle_deadline(now, out) {
                return Err(Over);
            }
            self.drop_orphans();
        }
        if self.stalled_until().is_some_and(|until| now.at >= until) {
            self.close_slow(now, out);
        }
        Ok(())
    }

    fn stalled_until(&self) -> Option<Millis> {
        let since = self.backlog.as_ref()?.stalled_since.filter(|_| self.session.is_open())?;
        Some(since + self.client.shared.rules.limits.send_timeout)
    }

    fn close_slow(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.session.is_open() {
            if let Some(backlog) = &mut self.backlog {
                backlog.outbox.keep_begun();
                backlog.stalled_since = None;
            }
            self.session.close(now.at, CloseCode::Policy, "slow consumer", out);
            self.handlers = Vec::new();
        }
    }

    /// What waits behind the message that is being written, apart from answers to what was read last.
    fn waiting_bytes(&self) -> usize {
        let waiting = self.backlog.as_ref().map_or(0, |backlog| backlog.outbox.waiting_bytes());
        waiting.saturating_sub(self.answer_bytes)
    }

    fn check_outbox(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.waiting_bytes() > self.client.shared.rules.limits.max_outbox_bytes {
            self.close_slow(now, out);
            self.backlog().outbox.push(out, 0);
            out.clear();
        }
    }

    /// Once the session has ended: the client is gone for everybody else, and only the farewell remains.
    fn begin_lingering(&mut self, now: Now) {
        if self.session.is_finished() && self.stage == Stage::Open {
            // A client that answers our close with something else gets no more time for it.
            let close_timeout = self.client.shared.rules.limits.close_timeout;
            let until = self.session.closing_until().unwrap_or(now.at + close_timeout);
            self.stage = Stage::Lingering { until, shut_down: false };
            if let Some(backlog) = &mut self.backlog {
                backlog.input = Vec::new();
                backlog.input_at = 0;
            }
            self.leave();
        }
    }

    /// Looks into the mailbox: events, handlers that can go on, orders.
    fn handle_mail(&mut self, now: Now, out: &mut Vec<u8>) -> Progress {
        // While the socket is blocked, events are better left where all clients share them.
        let mut progress = Progress::None;
        if !self.is_blocked() {
            if self.deliver_events(now, out) {
                progress = Progress::Some;
            }
        } else if self.client.has_mail() {
            self.backlog().mail_left = true;
        }
        let orders = self
            .client
            .collect(|mailbox| (std::mem::take(&mut mailbox.woken), mailbox.overflow, mailbox.stop));
        let Some((woken, overflow, stop)) = orders else { return progress };
        if self.stage != Stage::Open {
            return progress;
        }
        if overflow {
            self.close_slow(now, out);
        }
        for slot in woken {
            self.resume(now, slot, out);
        }
        if stop {
            self.deliver_events(now, out);
            self.session.shut_down(now, out);
            self.handlers = Vec::new();
        }
        Progress::Some
    }

    /// Appends the events that wait in the mailbox, so that what follows comes behind them. If some are lost, nothing may
    /// follow but the close frame. Says whether there was anything.
    fn deliver_events(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        let were_left = self.backlog.as_mut().is_some_and(|backlog| std::mem::take(&mut backlog.mail_left));
        if !were_left && !self.client.has_mail() {
            return false;
        }
        let Some(frames) = self.client.take_frames() else {
            self.close_slow(now, out);
            return true;
        };
        if self.session.is_open() {
            for frame in &frames {
                out.extend_from_slice(frame);
            }
        }
        !frames.is_empty()
    }

    fn handle_held_input(
        &mut self,
        now: Now,
        cx: &mut Context<'_>,
        frames: &mut usize,
        out: &mut Vec<u8>,
    ) -> Progress {
        if !self.may_read() {
            return Progress::None;
        }
        let backlog = self.backlog();
        let (mut input, begun) = (std::mem::take(&mut backlog.input), backlog.input_at);
        let used = self.handle_input(now, cx, input.get_mut(begun..).unwrap_or_default(), frames, out);
        let backlog = self.backlog();
        if begun + used < input.len() {
            backlog.input_at = begun + used;
            backlog.input = input;
        } else {
            backlog.input_at = 0;
        }
        if used > 0 { Progress::Some } else { Progress::None }
    }

    fn read(
        &mut self,
        now: Now,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        frames: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Over> {
        let mut read = ReadBuf::new(buffer);
        let count = match Pin::new(&mut self.io).poll_read(cx, &mut read) {
            Poll::Pending => return Ok(Progress::None),
            Poll::Ready(Err(_)) => return Err(Over),
            Poll::Ready(Ok(())) => read.filled().len(),
        };
        if count == 0 {
            return Err(Over);
        }
        if let Stage::Lingering { .. } = self.stage {
            return Ok(Progress::Some);
        }
        self.client.shared.metrics.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        let input = buffer.get_mut(..count).unwrap_or_default();
        let used = self.handle_input(now, cx, input, frames, out);
        if used < count {
            self.backlog().input.extend_from_slice(input.get(used..).unwrap_or_default());
        }
        Ok(Progress::Some)
    }

    /// Handles input until it is used up, the session wants no more, or others are to have their turn. Answers how
    /// much was used.
    fn handle_input(
        &mut self,
        now: Now,
        cx: &mut Context<'_>,
        input: &mut [u8],
        frames: &mut usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let routes = self.client.shared.router.snapshot();
        let mut routes = Lookup::new(&routes);
        let begun = out.len();
        let mut used = 0;
        // One look at the clock a request: where one ends the next begins.
        let mut clock = self.client.observers.start();
        while used < input.len() && *frames > 0 && out.len() < WRITE_BYTES && self.session.wants_input() {
            *frames -= 1;
            let rest = input.get_mut(used..).unwrap_or_default();
            let step = self.session.handle_input(now, rest, out);
            used += step.consumed;
            if let Some(error) = &step.refused {
                self.client.tell_completed(None, Some(error), Duration::ZERO, now.unix_ms);
            }
            match step.action {
                None => {}
                Some(Action::Authenticated) => self.become_member(),
                Some(Action::Request(request)) => {
                    self.dispatch(now, cx, &mut routes, request, &mut clock, out)
                }
            }
        }
        self.answer_bytes += out.len() - begun;
        used
    }

    fn publish(&mut self) {
        let tally = self.session.take_tally();
        self.client.shared.metrics.add(tally);
        let waiting_bytes = self.is_blocked().then(|| self.waiting_bytes());
        self.client.publish(&self.session, tally.requests.into(), waiting_bytes);
    }

    /// Sees to it that the task wakes at its next deadline. An alarm that is set too early is left: it costs less to
    /// wake once in vain than to move it with each message.
    fn set_alarm(&mut self, now: Now, cx: &mut Context<'_>) {
        let mut at = match self.stage {
            Stage::Lingering { until, .. } => until,
            _ => self.session.deadline(),
        };
        if let Some(until) = self.stalled_until() {
            at = at.min(until);
        }
        if self.alarm.as_ref().is_some_and(|alarm| now.at < alarm.at && alarm.at <= at) {
            return;
        }
        let when = tokio::time::Instant::now() + at.since(now.at);
        let alarm = match &mut self.alarm {
            Some(alarm) => {
                alarm.at = at;
                alarm.sleep.as_mut().reset(when);
                alarm
            }
            none => none.insert(Alarm { sleep: Box::pin(tokio::time::sleep_until(when)), at }),
        };
        if alarm.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<Io> Driver<Io> {
    /// Drops the handlers and tells everybody else, once.
    fn leave(&mut self) {
        self.handlers = Vec::new();
        self.client.shared.hub.leave(self.client.id);
        if self.client.set_member(false) {
            self.client.shared.call_back(&self.client.shared.config.on_disconnection, self.client.id);
            self.client.tell_membership(self.client.shared.now().at);
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Driver<Io> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Taken, not borrowed: a handler may run another driver inside this one.
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let result = self.advance(cx, &mut scratch);
        scratch.out.clear();
        scratch.out.shrink_to(2 * WRITE_BYTES);
        SCRATCH.set(Some(scratch));
        match result {
            Ok(()) => Poll::Pending,
            Err(Over) => {
                self.publish();
                self.leave();
                Poll::Ready(())
            }
        }
    }
}

impl<Io> Drop for Driver<Io> {
    /// A runtime that ends drops its tasks wherever they are.
    fn drop(&mut self) {
        self.leave();
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The buffers that the clients of a worker thread share.
struct Scratch {
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch { input: vec![0; READ_BYTES], out: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Tokio allocates for a task comes in steps of 128 bytes: with more than this, each client takes 640 instead of 512.
    #[test]
    fn a_client_is_small() {
        assert!(size_of::<Driver<tokio::net::TcpStream>>() <= 416);
    }
}
