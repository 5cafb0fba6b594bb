//! Sending to a client. Input: answers and events, as frames. Output: writes; the outbox keeps what the socket does not take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::metrics::Limited;
use super::state::{Disconnected, Driver, Progress, Stage, Turn, WRITE_BYTES};

/// Most bytes of events that are copied for one client, in one turn.
const COPIED_EVENT_BYTES: usize = 16 << 10;

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Appends the events from the mailbox, so that what follows is sent after them. If some were lost, nothing but the
    /// close frame may follow. Returns whether there were any.
    pub(super) fn deliver_events(&mut self, turn: &mut Turn<'_, '_>) -> Progress {
        if !self.client.has_mail() {
            return Progress::None;
        }
        let Some(frames) = self.client.take_frames() else {
            self.evict(turn, Limited::SlowConsumers);
            return Progress::Some;
        };
        if frames.is_empty() {
            return Progress::None;
        }
        if self.session.is_open() {
            for frame in frames {
                self.deliver_event(turn, frame);
            }
        }
        Progress::Some
    }

    /// Short events are copied together while the socket takes them. The others are shared by all clients for which they
    /// wait.
    fn deliver_event(&mut self, turn: &mut Turn<'_, '_>, frame: Arc<[u8]>) {
        if !self.is_blocked() && turn.out.len() + frame.len() <= COPIED_EVENT_BYTES {
            turn.out.extend_from_slice(&frame);
        } else {
            let outbox = &mut self.backlog().outbox;
            outbox.push(turn.out, 0);
            turn.out.clear();
            outbox.push_shared(frame);
        }
    }

    /// Writes what waits, then the answers of this turn. What the socket does not take goes to the outbox. Returns whether
    /// the client took anything for which it had let the server wait.
    pub(super) fn write(&mut self, turn: &mut Turn<'_, '_>) -> Result<Progress, Disconnected> {
        let mut sent = 0;
        if !self.is_blocked() {
            while sent < turn.out.len() {
                match self.try_write(turn.cx, turn.out.get(sent..).unwrap_or_default())? {
                    0 => break,
                    count => sent += count,
                }
            }
        }
        if sent < turn.out.len() {
            self.backlog().outbox.push(turn.out, sent);
        }
        turn.out.clear();
        if std::mem::take(&mut self.has_answered)
            && let Some(backlog) = &mut self.backlog
        {
            backlog.outbox.exempt(WRITE_BYTES + self.client.shared.rules.limits.max_message_bytes);
        }
        let progress = self.flush(turn)?;
        self.shut_down(turn)?;
        Ok(progress)
    }

    /// Writes from the outbox.
    fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<Progress, Disconnected> {
        let Some(mut backlog) = self.backlog.take_if(|backlog| !backlog.outbox.is_empty()) else {
            return Ok(Progress::None);
        };
        let mut progress = Progress::None;
        while !backlog.outbox.is_empty() {
            match self.try_write(turn.cx, backlog.outbox.next(turn.out))? {
                0 => break,
                sent => {
                    backlog.outbox.advance(sent);
                    self.session.touch(turn.now.at);
                    progress = Progress::Some;
                }
            }
        }
        turn.out.clear();
        self.backlog = Some(backlog);
        Ok(progress)
    }

    /// Writes once. Returns how many bytes the socket took, 0 if it is full.
    fn try_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Disconnected> {
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Pending => Ok(0),
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Err(Disconnected),
            Poll::Ready(Ok(sent)) => {
                self.client.shared.metrics.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                Ok(sent)
            }
        }
    }

    /// Ends our half of the socket once everything is written.
    fn shut_down(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Disconnected> {
        let Stage::Lingering { until, shut_down: false } = self.stage else { return Ok(()) };
        if self.is_blocked() {
            return Ok(());
        }
        match Pin::new(&mut self.io).poll_shutdown(turn.cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) if !self.session.is_failed() => Err(Disconnected),
            Poll::Ready(Ok(())) => {
                self.stage = Stage::Lingering { until, shut_down: true };
                Ok(())
            }
            Poll::Ready(Err(_)) => Err(Disconnected),
        }
    }
}
