//! The outbox, compared with a plain list of frames and of what was seen of it.

use std::collections::VecDeque;
use std::time::Duration;

use switchboard::protocol::frame;
use switchboard::protocol::limits::Limits;
use switchboard::protocol::outbox::{GATHER_BYTES, Outbox};
use switchboard::protocol::time::Millis;

use super::Choices;

/// The bytes that go into an outbox come out of it, in order and in any portions. Its counts are those of a list of frames. A
/// client counts as slow exactly by the rules of [`Limits`]. The memory that it owns is bounded by what waits.
///
/// The bytes: the limits, then steps. A step is what to do, and how much.
pub fn outbox(data: &[u8]) {
    let mut choices = Choices::new(data);
    let limits = Limits {
        send_timeout: Duration::from_millis(choices.pick(&[0, 10, 50])),
        soft_outbox_timeout: Duration::from_millis(choices.pick(&[0, 10, 30, 100])),
        soft_outbox_bytes: choices.pick(&[0, 5, 100, 400]),
        max_outbox_bytes: choices.pick(&[0, 100, 1000, 100_000]),
        ..Limits::default()
    };
    let mut outbox = Outbox::default();
    let mut naive = NaiveOutbox::default();
    let mut now = Millis(7);
    while !choices.is_empty() {
        match choices.byte() % 8 {
            step @ (0 | 1) => push(step == 1, &mut choices, &mut outbox, &mut naive),
            2 => {
                outbox.drop_events();
                naive.drop_events();
            }
            step @ (3 | 4) => {
                let bytes = usize::from(choices.byte()) * if step == 3 { 1 } else { 7 };
                let bytes = bytes.min(outbox.unsent_bytes());
                if bytes > 0 {
                    outbox.advance(bytes);
                    naive.advance(bytes);
                }
            }
            5 => {
                let most = usize::from(choices.byte()) * 5;
                outbox.exempt(most);
                naive.exempt = most.min(naive.unsent().len());
            }
            _ => now = now + Duration::from_millis(choices.byte().into()),
        }
        naive.is_mirrored_by(&outbox);
        let expected = naive.slow_at(now, &limits);
        slow_at_is_right(expected, outbox.slow_at(now, &limits));
        if !naive.frames.is_empty() && naive.waiting() <= limits.max_outbox_bytes {
            assert_eq!(outbox.is_over_soft_limit(), naive.waiting() > limits.soft_outbox_bytes);
        }
        assert_eq!(outbox.progress_at(), naive.stalled_since);
    }
}

/// Queues up to three frames.
fn push(shared: bool, choices: &mut Choices<'_>, outbox: &mut Outbox, naive: &mut NaiveOutbox) {
    let mut frames = Vec::new();
    for _ in 0..choices.byte() % 4 {
        // Few are long, because all that is queued is compared after each step.
        let length = match choices.byte() {
            250.. => GATHER_BYTES + 7,
            244.. => GATHER_BYTES / 2,
            byte => [0, 1, 5, 125, 126, 300][usize::from(byte) % 6],
        };
        naive.serial = naive.serial.wrapping_add(1);
        let mut out = Vec::new();
        frame::write(&mut out, frame::BINARY, None, [[naive.serial].repeat(length).as_slice()]);
        frames.push(out);
    }
    if shared {
        frames.iter().for_each(|frame| outbox.push_shared(frame.as_slice().into()));
        naive.frames.extend(frames.into_iter().map(|frame| (true, frame)));
        return;
    }
    let bytes = frames.concat();
    // Only an empty outbox accepts frames that were partly sent.
    let already_sent = usize::from(choices.byte()).min(bytes.len());
    let sent = if outbox.is_empty() { already_sent } else { 0 };
    outbox.push(&bytes, sent);
    naive.frames.extend(frames.into_iter().map(|frame| (false, frame)));
    naive.skip(sent);
}

pub fn slow_at_is_right(expected: Option<Millis>, slow_at: Option<Millis>) {
    assert_eq!(slow_at, expected, "when the client counts as slow");
}

/// The queued frames, one by one, how many bytes of the first were sent, and what was seen since the soft limit was passed.
#[derive(Default)]
pub struct NaiveOutbox {
    /// Whether it is shared, and its bytes.
    frames: VecDeque<(bool, Vec<u8>)>,
    sent: usize,
    exempt: usize,
    serial: u8,
    stalled_since: Option<Millis>,
    /// Each moment at which more than the soft limit waited, with the bytes that were sent after the one before.
    over: Vec<(Millis, usize)>,
    sent_since: usize,
}

impl NaiveOutbox {
    fn unsent(&self) -> Vec<u8> {
        self.frames.iter().flat_map(|(_, frame)| frame).skip(self.sent).copied().collect()
    }

    fn advance(&mut self, bytes: usize) {
        self.skip(bytes);
        self.exempt = self.exempt.saturating_sub(bytes);
        self.sent_since += bytes;
        self.stalled_since = None;
    }

    fn skip(&mut self, bytes: usize) {
        self.sent += bytes;
        while let Some(frame) = self.frames.front()
            && frame.1.len() <= self.sent
        {
            self.sent -= frame.1.len();
            self.frames.pop_front();
        }
    }

    /// Drops what a client that is too slow does not get.
    fn drop_events(&mut self) {
        let is_dropped = |frames: &VecDeque<(bool, Vec<u8>)>, sent| {
            frames.back().is_some_and(|(shared, _)| *shared) && (frames.len() > 1 || sent == 0)
        };
        while is_dropped(&self.frames, self.sent) {
            self.frames.pop_back();
        }
    }

    /// What is queued after the frame that is being written and after the exempt bytes.
    fn waiting(&self) -> usize {
        let all: usize = self.frames.iter().map(|(_, frame)| frame.len()).sum();
        let current = self.frames.front().map_or(0, |(_, frame)| frame.len() - self.sent);
        (all - self.sent).saturating_sub(current.max(self.exempt))
    }

    /// The earliest of: the bytes stop, the soft limit, the hard limit.
    fn slow_at(&mut self, now: Millis, limits: &Limits) -> Option<Millis> {
        let sent = std::mem::take(&mut self.sent_since);
        if self.frames.is_empty() {
            let serial = self.serial;
            *self = NaiveOutbox { serial, ..NaiveOutbox::default() };
            return None;
        }
        let stalled = *self.stalled_since.get_or_insert(now) + limits.send_timeout;
        let waiting = self.waiting();
        if waiting > limits.max_outbox_bytes {
            // The client is closed now. If the caller goes on, this moment does not count, but its bytes do.
            self.sent_since = sent;
            return Some(now);
        }
        if waiting <= limits.soft_outbox_bytes {
            self.over.clear();
            return Some(stalled);
        }
        self.over.push((now, sent));
        // A client that takes as much as the soft limit begins anew.
        let (mut since, mut taken) = (None, 0);
        for &(at, sent) in &self.over {
            taken += sent;
            if since.is_none() || taken >= limits.soft_outbox_bytes {
                (since, taken) = (Some(at), 0);
            }
        }
        since.map(|since| stalled.min(since + limits.soft_outbox_timeout))
    }

    pub fn is_mirrored_by(&mut self, outbox: &Outbox) {
        let unsent = self.unsent();
        let mut scratch = Vec::new();
        let next = outbox.next(&mut scratch);
        assert!(unsent.starts_with(next), "the bytes that come out are not those that went in");
        assert!(next.len() >= unsent.len().min(GATHER_BYTES), "only {} bytes at once", next.len());
        assert_eq!(outbox.unsent_bytes(), unsent.len());
        assert_eq!(outbox.is_empty(), unsent.is_empty());
        assert_eq!(outbox.waiting_bytes(), self.waiting(), "bytes queued after the message being written");
        // Sent bytes are kept until their piece is sent, and a `Vec` doubles when it grows.
        let owned: usize =
            self.frames.iter().filter(|(shared, _)| !shared).map(|(_, frame)| frame.len()).sum();
        let allowed =
            if unsent.is_empty() { 0 } else { 2 * (owned + GATHER_BYTES) + 100 * self.frames.len() + 400 };
        assert!(outbox.owned_bytes() <= allowed, "{} bytes held", outbox.owned_bytes());
    }
}
