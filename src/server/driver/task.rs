//! The run loop of a client's task. Input: wakes. Output: everything that can be done without waiting, and an alarm for the next
//! deadline.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::protocol::connection::CloseCode;
use crate::protocol::outbox::Outbox;
use crate::protocol::session::Due;
use crate::protocol::time::Millis;

use super::super::memory::LOOK_INTERVAL;
use super::super::metrics::Limited;
use super::state::{Alarm, Disconnected, Driver, Progress, Stage, Turn, WRITE_BYTES};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// Frames handled before the other clients of this worker thread get their turn.
const FRAMES_PER_POLL: usize = 1024;
/// Reads before the other clients of this worker thread get their turn.
const READS_PER_POLL: usize = 8;

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Makes as much progress as possible without blocking.
    fn advance(&mut self, turn: &mut Turn<'_, '_>, buffer: &mut [u8]) -> Result<(), Disconnected> {
        self.keep_waker(turn.cx);
        self.open(turn);
        loop {
            let mut progress = Progress::None;
            let mut note = |step| {
                if step == Progress::Some {
                    progress = Progress::Some;
                }
            };
            note(self.handle_mail(turn)?);
            note(self.handle_decoded(turn)?);
            note(self.handle_verdict(turn));
            let has_room = self.reserve(turn);
            if self.backlog.as_ref().is_some_and(|backlog| backlog.has_input()) {
                if has_room {
                    note(self.handle_held_input(turn));
                }
            } else if has_room && self.may_read() && turn.reads > 0 {
                turn.reads -= 1;
                note(self.read(turn, buffer)?);
            }
            self.start_lingering(turn);
            note(self.write(turn)?);
            if progress == Progress::None {
                break;
            }
            if turn.frames == 0 || turn.reads == 0 {
                // It is the turn of other clients. The task comes back at once.
                turn.cx.waker().wake_by_ref();
                break;
            }
        }
        // Only now: the process may have been stopped, and what arrived meanwhile counts.
        if self.handle_deadlines(turn)? {
            self.write(turn)?;
            // A place for another request may be free.
            turn.cx.waker().wake_by_ref();
        }
        if self.session.is_draining() {
            self.close_drained(turn)?;
        }
        self.check_outbox(turn)?;
        self.check_room(turn)?;
        self.backlog.take_if(|backlog| backlog.is_done());
        self.publish(turn);
        self.set_alarm(turn);
        Ok(())
    }

    fn keep_waker(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.client.set_waker(cx.waker());
            self.waker = Some(cx.waker().clone());
            self.alarm = None;
        }
    }

    fn open(&mut self, turn: &mut Turn<'_, '_>) {
        if let Stage::New { answer } = &mut self.stage {
            turn.out.append(answer);
            // A client that is not let in is closed already.
            if self.session.closing_until().is_none() {
                self.session.open(turn.now, turn.out);
            }
            self.stage = Stage::Open;
            if self.session.is_open() {
                self.become_member(turn.now);
            }
        }
    }

    /// Returns whether anything is to be sent for it.
    fn handle_deadlines(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool, Disconnected> {
        let now = turn.now;
        if let Stage::Lingering { until, .. } = self.stage {
            return if now.at < until { Ok(false) } else { Err(Disconnected) };
        }
        let deadline = self.session.deadline();
        if now.at < deadline || now.at < self.client.shared.pauses.judge(now.at, deadline) {
            return Ok(false);
        }
        while let Some(due) = self.session.handle_deadline(now, turn.out) {
            match due {
                Due::Expired(mut handler) => handler.complete(self.session.take_error().as_deref()),
                Due::Cut => return Err(Disconnected),
            }
        }
        Ok(!turn.out.is_empty())
    }

    /// Closes a client of a server that stops, once it has got everything: what has arrived is answered, and nothing waits.
    fn close_drained(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Disconnected> {
        let has_input = self.backlog.as_ref().is_some_and(|backlog| backlog.has_input());
        if turn.frames > 0 && turn.reads > 0 && !has_input && !self.is_blocked() && !self.client.has_mail() {
            self.session.close_drained(turn.now, turn.out);
            self.write(turn)?;
        }
        Ok(())
    }

    /// Closes a client that is too slow. It is judged after it was written to: the process may have been stopped, and not
    /// the client.
    fn check_outbox(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Disconnected> {
        let is_open = self.session.is_open();
        let Some(backlog) = &mut self.backlog else { return Ok(()) };
        let limits = &self.client.shared.rules.limits;
        backlog.slow_at = backlog.outbox.slow_at(turn.now.at, limits).filter(|_| is_open);
        if is_open && !backlog.is_slow && backlog.outbox.is_over_soft_limit() {
            backlog.is_slow = true;
            self.client.notify_slow(backlog.outbox.waiting_bytes(), false);
        }
        let is_late =
            |at| turn.now.at >= at && turn.now.at >= self.client.shared.pauses.judge(turn.now.at, at);
        if backlog.slow_at.is_some_and(is_late) {
            backlog.slow_at = None;
            self.evict(turn, Limited::SlowConsumers);
            self.write(turn)?;
        }
        Ok(())
    }

    /// Closes a client that has waited too long for room, and cuts one whose answers find none. Of those that do not use their
    /// room while others wait for some, one that sends is closed, and one that does not read is cut: only that frees its
    /// answers.
    fn check_room(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Disconnected> {
        let has_room = self.reserve(turn);
        let now = turn.now.at;
        let is_closing = self.session.closing_until().is_some();
        let Some(backlog) = &mut self.backlog else { return Ok(()) };
        backlog.room_at = None;
        let Some(share) = backlog.share.as_ref().filter(|_| !is_closing) else { return Ok(()) };
        let is_over =
            !has_room && backlog.outbox.owned_bytes() > self.client.shared.rules.limits.soft_outbox_bytes;
        let waits_until = share.waiting_since().map(|since| since + self.client.shared.config.memory_timeout);
        let takes_until = share.must_take_until(backlog.outbox.progress_at());
        let sends_until = share.must_send_until(self.session.last_byte());
        let others_wait = share.others_wait();
        let look_at = takes_until.into_iter().chain(sends_until).map(|until| until.max(now + LOOK_INTERVAL));
        backlog.room_at = waits_until.into_iter().chain(look_at).min();
        let is_past = |until: Option<Millis>| until.is_some_and(|until| now >= until);
        if is_over || (others_wait && is_past(takes_until)) {
            self.client.shared.metrics.limited(Limited::Memory);
            return Err(Disconnected);
        }
        if is_past(waits_until) {
            self.evict(turn, Limited::Memory);
        } else if others_wait && is_past(sends_until) {
            self.close_limited(
                turn,
                Limited::Memory,
                CloseCode::Policy,
                "message too slow while others wait",
            );
        } else {
            return Ok(());
        }
        self.write(turn)?;
        self.reserve(turn);
        Ok(())
    }

    /// Once the session has ended, removes the client from the hub; only the close handshake is left.
    fn start_lingering(&mut self, turn: &mut Turn<'_, '_>) {
        if self.session.is_finished() && self.stage == Stage::Open {
            // A client that answers our close with something else gets no more time for it.
            let close_timeout = self.client.shared.rules.limits.close_timeout;
            let until = self.session.closing_until().unwrap_or(turn.now.at + close_timeout);
            self.stage = Stage::Lingering { until, shut_down: false };
            if let Some(backlog) = &mut self.backlog {
                backlog.input = Vec::new();
                backlog.input_at = 0;
            }
            self.publish_activity(turn);
            self.leave();
        }
    }

    /// Drains the mailbox: events, woken handlers, the flags for stop and eviction.
    fn handle_mail(&mut self, turn: &mut Turn<'_, '_>) -> Result<Progress, Disconnected> {
        let progress = self.deliver_events(turn);
        let mail = self.client.collect(|mailbox| {
            (
                std::mem::take(&mut mailbox.woken),
                mailbox.evict,
                mailbox.close.take(),
                (mailbox.drain, mailbox.stop),
            )
        });
        let Some((woken, evict, close, (drain, stop))) = mail else { return Ok(progress) };
        if self.stage != Stage::Open {
            return Ok(progress);
        }
        if let Some(limit) = evict {
            self.evict(turn, limit);
        }
        for slot in woken {
            self.resume(turn, slot);
            if turn.out.len() >= WRITE_BYTES {
                self.write(turn)?;
            }
        }
        if let Some(close) = close {
            self.deliver_events(turn);
            self.session.close(turn.now.at, close.0, &close.1, turn.out);
        }
        if drain && !self.session.is_draining() {
            self.deliver_events(turn);
            self.session.drain(turn.now, turn.out);
        }
        if stop {
            self.deliver_events(turn);
            self.session.shut_down(turn.now, turn.out);
            // The observers were notified when the handlers were dropped.
            self.session.take_error();
        }
        Ok(Progress::Some)
    }

    /// Makes the task wake at its next deadline. An alarm that is too early stays: waking once in vain costs less than
    /// moving it with each message.
    fn set_alarm(&mut self, turn: &mut Turn<'_, '_>) {
        let mut at = match self.stage {
            Stage::Lingering { until, .. } => until,
            _ => self.session.deadline(),
        };
        if let Some(backlog) = &self.backlog {
            at = [backlog.slow_at, backlog.room_at].into_iter().flatten().fold(at, Millis::min);
        }
        let now = turn.now.at;
        if at <= now {
            at = at.max(self.client.shared.pauses.judged_from());
        }
        if self.alarm.as_ref().is_some_and(|alarm| now < alarm.at && alarm.at <= at) {
            return;
        }
        let when = Instant::now() + at.since(now);
        let alarm = match &mut self.alarm {
            Some(alarm) => {
                alarm.at = at;
                alarm.sleep.as_mut().reset(when);
                alarm
            }
            none => none.insert(Alarm { sleep: Box::pin(sleep_until(when)), at }),
        };
        if alarm.sleep.as_mut().poll(turn.cx).is_ready() {
            turn.cx.waker().wake_by_ref();
        }
    }
}

impl<Io> Driver<Io> {
    /// Publishes the counters of this turn.
    fn publish(&mut self, turn: &mut Turn<'_, '_>) {
        self.publish_activity(turn);
        turn.published = 0;
        let tally = self.session.take_tally();
        self.client.shared.metrics.add(tally);
        let outbox = self.backlog.as_ref().map(|backlog| &backlog.outbox).filter(|outbox| !outbox.is_empty());
        let waiting_bytes = outbox.map(Outbox::waiting_bytes);
        self.client.publish_waiting(waiting_bytes);
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for Driver<Io> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Taken, not borrowed: a handler may poll another driver inside this one.
        let mut scratch = SCRATCH.take().unwrap_or_default();
        let Scratch { input, out } = &mut *scratch;
        let now = self.client.shared.clock.now();
        let mut turn = Turn { now, cx, out, frames: FRAMES_PER_POLL, reads: READS_PER_POLL, published: 0 };
        let result = self.advance(&mut turn, input);
        if result.is_err() {
            self.publish(&mut turn);
        }
        scratch.out.clear();
        scratch.out.shrink_to(2 * WRITE_BYTES);
        SCRATCH.set(Some(scratch));
        match result {
            Ok(()) => Poll::Pending,
            Err(Disconnected) => {
                self.leave();
                Poll::Ready(())
            }
        }
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
