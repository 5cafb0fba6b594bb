//! What a client has not accepted yet. Input: whole frames, how many bytes the transport accepted, and the time. Output: the
//! bytes to write next, and when the client counts as slow. An event is in the outboxes of all its clients as one
//! allocation. An empty outbox owns no memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::rest_of_current;
use super::limits::Limits;
use super::time::Millis;

/// Short frames are copied together into one write of this size, in bytes. Longer ones are written from where they are.
pub const GATHER_BYTES: usize = 64 << 10;

/// Frames that wait for the transport.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// How many bytes of the first piece were sent.
    sent: usize,
    /// The index in the first piece after the frame that is being written.
    current_end: usize,
    unsent_bytes: usize,
    /// How many of these, from the first on, are not waiting bytes.
    exempt_bytes: usize,
    owned_bytes: usize,
    /// When the transport last accepted bytes; `None` until the first [`slow_at`](Outbox::slow_at) after it did.
    progress_at: Option<Millis>,
    /// Since when more than the soft limit waits, and how many bytes were sent since.
    over_soft_limit: Option<(Millis, usize)>,
}

/// Whole frames, one after the other.
#[derive(Debug)]
enum Piece {
    Owned(Vec<u8>),
    /// One frame.
    Shared(Arc<[u8]>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Owned(frames) => frames,
            Piece::Shared(frame) => frame,
        }
    }
}

impl Outbox {
    /// Appends whole, unmasked frames of which the transport has already accepted the first `sent` bytes. `sent` must be 0
    /// unless the outbox is empty.
    pub fn push(&mut self, frames: &[u8], sent: usize) {
        debug_assert!(sent == 0 || self.is_empty(), "frames go out in order");
        debug_assert!(sent <= frames.len(), "the transport accepts only what it is given");
        let unsent = frames.get(sent..).unwrap_or_default();
        if unsent.is_empty() {
            return;
        }
        let rest = if sent == 0 { 0 } else { rest_of_current(frames, sent) };
        match self.pieces.back_mut() {
            // Few allocations for many short answers, and none that grows for as long as the client is slow.
            Some(Piece::Owned(last)) if last.len() + unsent.len() <= GATHER_BYTES => {
                self.owned_bytes -= last.capacity();
                last.extend_from_slice(unsent);
                self.owned_bytes += last.capacity();
                self.unsent_bytes += unsent.len();
            }
            _ => self.append(Piece::Owned(unsent.to_vec()), rest),
        }
    }

    /// Appends an event's frame, which other outboxes share.
    pub fn push_shared(&mut self, frame: Arc<[u8]>) {
        if !frame.is_empty() {
            self.append(Piece::Shared(frame), 0);
        }
    }

    fn append(&mut self, piece: Piece, rest_of_current: usize) {
        if self.is_empty() {
            self.current_end = rest_of_current;
        }
        self.unsent_bytes += piece.bytes().len();
        if let Piece::Owned(frames) = &piece {
            self.owned_bytes += frames.capacity();
        }
        self.pieces.push_back(piece);
    }

    /// The bytes to send next: the first of the [`unsent_bytes`](Outbox::unsent_bytes), some at least. They are in the
    /// outbox, or copied to `scratch`.
    pub fn next<'a>(&'a self, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let first = self.first_unsent();
        if first.len() >= GATHER_BYTES || self.pieces.len() < 2 {
            return first;
        }
        scratch.clear();
        scratch.extend_from_slice(first);
        for piece in self.pieces.iter().skip(1) {
            let room = GATHER_BYTES - scratch.len();
            if room == 0 {
                break;
            }
            let bytes = piece.bytes();
            scratch.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
        scratch
    }

    fn first_unsent(&self) -> &[u8] {
        let first = self.pieces.front().map_or(&[] as &[u8], Piece::bytes);
        debug_assert!(self.sent <= first.len(), "only queued bytes are sent");
        first.get(self.sent..).unwrap_or_default()
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.unsent_bytes == 0
    }

    /// Records that the transport accepted `bytes`, at least one, of those that [`next`](Outbox::next) returned.
    pub fn advance(&mut self, mut bytes: usize) {
        self.progress_at = None;
        if let Some((_, sent)) = &mut self.over_soft_limit {
            *sent = sent.saturating_add(bytes);
        }
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        self.exempt_bytes = self.exempt_bytes.saturating_sub(bytes);
        if self.is_empty() {
            *self = Outbox::default();
            return;
        }
        while bytes >= self.first_unsent().len()
            && let Some(piece) = self.pieces.pop_front()
        {
            bytes -= piece.bytes().len() - self.sent;
            if let Piece::Owned(frames) = piece {
                self.owned_bytes -= frames.capacity();
            }
            (self.sent, self.current_end) = (0, 0);
        }
        self.sent += bytes;
        if self.sent > self.current_end {
            let first = self.pieces.front().map_or(&[] as &[u8], Piece::bytes);
            debug_assert!(self.current_end <= first.len(), "the current frame is queued");
            let ahead = first.get(self.current_end..).unwrap_or_default();
            self.current_end = self.sent + rest_of_current(ahead, self.sent - self.current_end);
        }
    }

    /// How many bytes are queued.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// Makes what is queued now, at most this many bytes of it, not count as waiting.
    pub fn exempt(&mut self, most: usize) {
        self.exempt_bytes = self.unsent_bytes.min(most);
    }

    /// How many bytes are queued after the message that is being written, without exempt ones.
    pub fn waiting_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        // Between two frames, the next one counts as being written.
        let current = match self.current_end > self.sent {
            true => self.current_end - self.sent,
            false => 1 + rest_of_current(self.first_unsent(), 1),
        };
        self.unsent_bytes.saturating_sub(current.max(self.exempt_bytes))
    }

    /// From when on the client counts as slow if it accepts nothing more; `None` if nothing waits. Call it after each change,
    /// and when that time has come.
    ///
    /// Slow is a client that accepts nothing for [`Limits::send_timeout`]; for which more than [`Limits::soft_outbox_bytes`]
    /// wait, and that accepts fewer than these in [`Limits::soft_outbox_timeout`]; or for which more than
    /// [`Limits::max_outbox_bytes`] wait.
    pub fn slow_at(&mut self, now: Millis, limits: &Limits) -> Option<Millis> {
        if self.is_empty() {
            return None;
        }
        let stalled_at = *self.progress_at.get_or_insert(now) + limits.send_timeout;
        let waiting = self.waiting_bytes();
        if waiting > limits.max_outbox_bytes {
            return Some(now);
        }
        if waiting <= limits.soft_outbox_bytes {
            self.over_soft_limit = None;
            return Some(stalled_at);
        }
        let since = match self.over_soft_limit {
            Some((since, sent)) if sent < limits.soft_outbox_bytes => since,
            _ => {
                self.over_soft_limit = Some((now, 0));
                now
            }
        };
        Some(stalled_at.min(since + limits.soft_outbox_timeout))
    }

    /// Whether more than [`Limits::soft_outbox_bytes`] waited at the last [`slow_at`](Outbox::slow_at).
    pub fn is_over_soft_limit(&self) -> bool {
        self.over_soft_limit.is_some()
    }

    /// When the transport last accepted bytes, or since when the first of them wait; `None` if nothing waits.
    pub fn progress_at(&self) -> Option<Millis> {
        self.progress_at
    }

    /// Drops the events of which nothing was sent and that no answer follows. A client that reads gets its answers, and
    /// everything before them.
    pub fn drop_events(&mut self) {
        while let Some(Piece::Shared(frame)) = self.pieces.back()
            && (self.pieces.len() > 1 || self.sent == 0)
        {
            self.unsent_bytes -= frame.len();
            self.pieces.pop_back();
        }
        if self.is_empty() {
            *self = Outbox::default();
        }
    }

    /// Memory that this outbox holds alone, in bytes.
    pub fn owned_bytes(&self) -> usize {
        self.owned_bytes + self.pieces.capacity() * size_of::<Piece>()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::frame::write_text;
    use super::*;

    fn frames(lengths: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        for &length in lengths {
            write_text(&mut out, None, &[&"x".repeat(length)]);
        }
        out
    }

    /// Takes everything, at most `step` bytes at a time.
    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut scratch = Vec::new();
        while !outbox.is_empty() {
            let next = outbox.next(&mut scratch);
            let next = &next[..next.len().min(step)];
            taken.extend_from_slice(next);
            let sent = next.len();
            outbox.advance(sent);
        }
        taken
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let (small, large) = ([3, 0, 200, 1].as_slice(), [3, 0, 200, 70_000, 1].as_slice());
        for (sizes, step) in [(small, 1), (small, 7), (large, 1000), (large, 80_000)] {
            let all = frames(sizes);
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for part in [&all[..5], &all[5..7], &all[7..]] {
                outbox.push(part, 0);
                outbox.push_shared(all.as_slice().into());
                expected.extend_from_slice(part);
                expected.extend_from_slice(&all);
            }
            assert_eq!(drain(&mut outbox, step), expected);
            assert_eq!(outbox.owned_bytes(), 0);
        }
    }

    #[test]
    fn a_shared_frame_is_neither_copied_nor_counted_as_owned() {
        let frame: Arc<[u8]> = frames(&[GATHER_BYTES]).into();
        let mut outbox = Outbox::default();
        outbox.push(&frames(&[10]), 0);
        outbox.push_shared(frame.clone());
        outbox.push_shared(frame.clone());
        assert_eq!(Arc::strong_count(&frame), 3);
        assert!(outbox.owned_bytes() < 1000, "{}", outbox.owned_bytes());
        outbox.advance(12);
        let mut scratch = Vec::new();
        assert_eq!(outbox.next(&mut scratch).as_ptr(), frame.as_ptr());
        outbox.advance(frame.len());
        assert_eq!(Arc::strong_count(&frame), 2);
    }

    #[test]
    fn short_frames_are_written_together() {
        let mut outbox = Outbox::default();
        for _ in 0..3 * GATHER_BYTES / 100 {
            outbox.push_shared(frames(&[98]).into());
        }
        assert_eq!(outbox.next(&mut Vec::new()).len(), GATHER_BYTES);
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
    fn exempt_bytes_count_once_they_are_sent() {
        let mut outbox = Outbox::default();
        outbox.push(&frames(&[10, 20]), 0);
        outbox.exempt(30);
        outbox.push_shared(frames(&[30]).into());
        for (sent, waiting) in [(0, 36), (11, 36), (12, 32), (33, 32), (34, 0)] {
            outbox.advance(sent + outbox.unsent_bytes() - 66);
            assert_eq!(outbox.waiting_bytes(), waiting, "after {sent} bytes");
        }
    }

    #[test]
    fn answers_are_kept_with_all_that_is_before_them() {
        let [answer, event]: [Arc<[u8]>; 2] = [frames(&[10]).into(), frames(&[20]).into()];
        // Events are 22 bytes, answers 12.
        for (pieces, sent, kept) in
            [("eee", 0, 0), ("eee", 1, 21), ("aee", 0, 12), ("eae", 0, 34), ("eaee", 30, 4), ("eaee", 34, 0)]
        {
            let mut outbox = Outbox::default();
            for piece in pieces.chars() {
                match piece {
                    'e' => outbox.push_shared(event.clone()),
                    _ => outbox.push(&answer, 0),
                }
            }
            outbox.advance(sent);
            outbox.drop_events();
            assert_eq!(outbox.unsent_bytes(), kept, "{pieces} of which {sent} bytes are sent");
            assert_eq!(drain(&mut outbox, 1).len(), kept);
        }
    }

    /// A client for which frames of 1000 bytes wait: `counts` of them at each second, of which it takes `bytes` in each.
    fn check(limits: &Limits, steps: &[(u64, usize, usize)], slow_at: Option<u64>) {
        let mut outbox = Outbox::default();
        let mut found = None;
        for &(at, count, bytes) in steps {
            for _ in 0..count {
                outbox.push_shared(frames(&[996]).into());
            }
            if bytes > 0 {
                outbox.advance(bytes);
            }
            found = outbox.slow_at(Millis(at), limits).map(|at| at.0);
        }
        assert_eq!(found, slow_at, "{steps:?}");
    }

    #[test]
    fn a_client_is_slow_over_time_or_over_the_hard_limit() {
        let limits = Limits {
            max_outbox_bytes: 10_000,
            soft_outbox_bytes: 5_000,
            soft_outbox_timeout: Duration::from_millis(50),
            send_timeout: Duration::from_millis(30),
            ..Limits::default()
        };
        // One message is being written, and the others wait.
        check(&limits, &[(7, 1, 0)], Some(37));
        check(&limits, &[(7, 1, 0), (20, 1, 0)], Some(37));
        check(&limits, &[(7, 2, 0), (20, 0, 1)], Some(50));
        check(&limits, &[(7, 1, 0), (20, 0, 1000)], None);
        check(&limits, &[(7, 6, 0), (30, 0, 1)], Some(60));
        check(&limits, &[(7, 7, 0), (30, 0, 1)], Some(57));
        // It takes less, and as much as the soft limit in the time.
        check(&limits, &[(7, 11, 0), (30, 4, 4_999), (50, 0, 1)], Some(80));
        check(&limits, &[(7, 11, 0), (30, 4, 4_998), (50, 0, 1)], Some(57));
        // Below the soft limit the time starts anew.
        check(&limits, &[(7, 7, 0), (30, 0, 1_000), (40, 1, 1)], Some(70));
        check(&limits, &[(7, 11, 0)], Some(37));
        check(&limits, &[(7, 12, 0)], Some(7));
    }
}
