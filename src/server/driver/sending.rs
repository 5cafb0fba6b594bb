//! What goes to a client. In: answers and events, as frames. Out: writes; what the socket does not take waits in the outbox.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::time::Now;

use super::{Driver, Over, Progress, Stage};

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Sends what waits. Answers whether the client took any.
    pub(super) fn flush(
        &mut self,
        now: Now,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Over> {
        let Some(mut backlog) = self.backlog.take_if(|backlog| !backlog.outbox.is_empty()) else {
            return Ok(Progress::None);
        };
        backlog.outbox.push(out, 0);
        out.clear();
        let mut progress = Progress::None;
        while !backlog.outbox.is_empty() {
            match self.try_write(cx, backlog.outbox.unsent())? {
                0 => break,
                sent => {
                    backlog.outbox.advance(sent);
                    self.session.touch(now.at);
                    progress = Progress::Some;
                }
            }
        }
        backlog.stalled_since = match (backlog.outbox.is_empty(), progress) {
            (true, _) => None,
            (false, Progress::Some) => Some(now.at),
            (false, Progress::None) => backlog.stalled_since.or(Some(now.at)),
        };
        if backlog.outbox.is_empty() {
            self.answer_bytes = 0;
        }
        self.backlog = Some(backlog);
        Ok(progress)
    }

    /// Sends what has come together; what the socket does not take goes to the outbox.
    pub(super) fn write(&mut self, now: Now, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Result<(), Over> {
        if self.is_blocked() {
            self.backlog().outbox.push(out, 0);
            out.clear();
        }
        let mut sent = 0;
        while sent < out.len() {
            match self.try_write(cx, out.get(sent..).unwrap_or_default())? {
                0 => break,
                count => sent += count,
            }
        }
        if sent < out.len() {
            let backlog = self.backlog();
            backlog.outbox.push(out, sent);
            backlog.stalled_since = Some(now.at);
        }
        if !self.is_blocked() {
            self.answer_bytes = 0;
        }
        out.clear();
        self.shut_down(cx)
    }

    /// The socket's answer to some bytes: how many it took, 0 if it is full.
    fn try_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Over> {
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Pending => Ok(0),
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Err(Over),
            Poll::Ready(Ok(sent)) => {
                self.client.shared.metrics.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                Ok(sent)
            }
        }
    }

    /// Ends our half of the socket once the farewell is written.
    fn shut_down(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let Stage::Lingering { until, shut_down: false } = self.stage else { return Ok(()) };
        if self.is_blocked() {
            return Ok(());
        }
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) if !self.session.is_failed() => Err(Over),
            Poll::Ready(Ok(())) => {
                self.stage = Stage::Lingering { until, shut_down: true };
                Ok(())
            }
            Poll::Ready(Err(_)) => Err(Over),
        }
    }
}
