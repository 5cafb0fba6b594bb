//! Sending to a client. Input: answers and events, as frames. Output: writes; the outbox keeps what the socket does not take.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::metrics::Limited;
use super::state::{Disconnected, Driver, Progress, Stage, Turn};

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Appends the events from the mailbox, so that what follows is sent after them. If some were lost, nothing but the
    /// close frame may follow. Returns whether there were any.
    pub(super) fn deliver_events(&mut self, turn: &mut Turn<'_, '_>) -> Progress {
        let were_left = self.backlog.as_mut().is_some_and(|backlog| std::mem::take(&mut backlog.mail_left));
        if !were_left && !self.client.has_mail() {
            return Progress::None;
        }
        let Some(frames) = self.client.take_frames() else {
            self.evict(turn, Limited::SlowConsumers);
            return Progress::Some;
        };
        if self.session.is_open() {
            for frame in &frames {
                turn.out.extend_from_slice(frame);
            }
        }
        if frames.is_empty() { Progress::None } else { Progress::Some }
    }

    /// Writes from the outbox. Returns whether the client took any of it.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_, '_>) -> Result<Progress, Disconnected> {
        let Some(mut backlog) = self.backlog.take_if(|backlog| !backlog.outbox.is_empty()) else {
            return Ok(Progress::None);
        };
        backlog.outbox.push(turn.out, 0);
        turn.out.clear();
        let mut progress = Progress::None;
        while !backlog.outbox.is_empty() {
            match self.try_write(turn.cx, backlog.outbox.unsent())? {
                0 => break,
                sent => {
                    backlog.outbox.advance(sent);
                    self.session.touch(turn.now.at);
                    progress = Progress::Some;
                }
            }
        }
        backlog.stalled_since = match (backlog.outbox.is_empty(), progress) {
            (true, _) => None,
            (false, Progress::Some) => Some(turn.now.at),
            (false, Progress::None) => backlog.stalled_since.or(Some(turn.now.at)),
        };
        if backlog.outbox.is_empty() {
            self.answer_bytes = 0;
        }
        self.backlog = Some(backlog);
        Ok(progress)
    }

    /// Writes the answers of this turn. What the socket does not take goes to the outbox.
    pub(super) fn write(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Disconnected> {
        if self.is_blocked() {
            self.backlog().outbox.push(turn.out, 0);
            turn.out.clear();
        }
        let mut sent = 0;
        while sent < turn.out.len() {
            match self.try_write(turn.cx, turn.out.get(sent..).unwrap_or_default())? {
                0 => break,
                count => sent += count,
            }
        }
        if sent < turn.out.len() {
            let backlog = self.backlog();
            backlog.outbox.push(turn.out, sent);
            backlog.stalled_since = Some(turn.now.at);
        }
        if !self.is_blocked() {
            self.answer_bytes = 0;
        }
        turn.out.clear();
        self.shut_down(turn)
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
