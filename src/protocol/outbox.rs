//! Bytes that a client has not accepted yet. Input: whole frames, and how many bytes the transport accepted. Output: the
//! bytes to write next, and how many are queued after the message being written. An empty outbox owns no memory.

use super::frame::rest_of_current;

/// Frames that wait for the transport.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: Vec<u8>,
    sent: usize,
    /// The index after the frame that is being written.
    current_end: usize,
}

impl Outbox {
    /// Appends whole, unmasked frames of which the transport has already accepted the first `sent` bytes. `sent` must be 0
    /// unless the outbox is empty.
    pub fn push(&mut self, frames: &[u8], sent: usize) {
        debug_assert!(sent == 0 || self.is_empty(), "frames go out in order");
        if sent == frames.len() {
            return;
        }
        // Sent bytes are dropped once they are more than half, so that each byte moves at most once.
        if self.sent > self.frames.len() / 2 {
            self.frames.drain(..self.sent);
            self.current_end -= self.sent;
            self.sent = 0;
        }
        if self.is_empty() {
            self.current_end = rest_of_current(frames, sent);
        }
        debug_assert!(sent <= frames.len(), "the transport accepts only what it is given");
        self.frames.extend_from_slice(frames.get(sent..).unwrap_or_default());
    }

    /// The bytes to send next.
    pub fn unsent(&self) -> &[u8] {
        debug_assert!(self.sent <= self.frames.len(), "only queued bytes are sent");
        self.frames.get(self.sent..).unwrap_or_default()
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.frames.len()
    }

    /// Records that the transport accepted `bytes` of [`unsent`](Outbox::unsent).
    pub fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(self.frames.len());
        if self.is_empty() {
            *self = Outbox::default();
            return;
        }
        if self.sent > self.current_end {
            debug_assert!(self.current_end <= self.frames.len(), "the current frame is queued");
            let ahead = self.frames.get(self.current_end..).unwrap_or_default();
            self.current_end = self.sent + rest_of_current(ahead, self.sent - self.current_end);
        }
    }

    /// How many bytes are queued after the message that is being written.
    pub fn waiting_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        // Between two frames, the next one counts as being written.
        let current_end = match self.current_end > self.sent || self.is_empty() {
            true => self.current_end,
            false => self.sent + 1 + rest_of_current(self.unsent(), 1),
        };
        self.frames.len().saturating_sub(current_end)
    }

    /// Drops all frames of which nothing was sent. The rest of the current frame is kept: without it the stream breaks.
    pub fn keep_begun(&mut self) {
        self.frames.truncate(self.current_end.max(self.sent));
        if self.is_empty() {
            *self = Outbox::default();
        }
    }

    /// Memory held, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.frames.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::write_text;
    use super::*;

    fn frames(lengths: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        for &length in lengths {
            write_text(&mut out, None, &[&"x".repeat(length)]);
        }
        out
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let all = frames(&[3, 0, 200, 70_000, 1]);
        for step in [1, 7, 1000, 80_000] {
            let mut outbox = Outbox::default();
            let mut taken = Vec::new();
            for part in [&all[..5], &all[5..7], &all[7..]] {
                outbox.push(part, 0);
                let now: Vec<u8> = outbox.unsent().iter().copied().take(step).collect();
                outbox.advance(now.len());
                taken.extend(now);
            }
            while !outbox.is_empty() {
                let now: Vec<u8> = outbox.unsent().iter().copied().take(step).collect();
                outbox.advance(now.len());
                taken.extend(now);
            }
            assert_eq!(taken, all);
            assert_eq!(outbox.buffered_bytes(), 0);
        }
    }

    #[test]
    fn the_message_being_written_does_not_count() {
        let mut outbox = Outbox::default();
        outbox.push(&frames(&[10, 20, 30]), 0);
        // Frames of 12, 22 and 32 bytes.
        let waiting: Vec<usize> = (0..66)
            .map(|_| {
                let waiting = outbox.waiting_bytes();
                outbox.advance(1);
                waiting
            })
            .collect();
        assert_eq!(waiting[0], 54);
        assert_eq!(waiting[11], 54);
        assert_eq!(waiting[12], 32);
        assert_eq!(waiting[33], 32);
        assert_eq!(waiting[34], 0);
        assert_eq!(waiting[65], 0);
    }

    #[test]
    fn a_started_frame_is_kept_whole() {
        for sent in 0..66 {
            let mut outbox = Outbox::default();
            let all = frames(&[10, 20, 30]);
            outbox.push(&all, sent);
            outbox.keep_begun();
            let kept = outbox.unsent().len();
            let end = [0, 12, 34, 66].into_iter().find(|end| *end >= sent).unwrap();
            assert_eq!(kept, end - sent, "sent {sent}");
        }
    }
}
