//! What a connection collects of messages and control frames that arrive in pieces. Input: unmasked bytes. Output: whole texts,
//! which are checked as they arrive, and payloads. Nothing is reserved for bytes that were only announced.

use super::frame;

/// A text that cannot be UTF-8.
pub(super) struct NotUtf8;

#[derive(Debug)]
pub(super) enum Assembly {
    Text(TextAssembly),
    Binary(Vec<u8>),
}

/// The payload of a control frame.
#[derive(Debug)]
pub(super) struct Control {
    payload: [u8; frame::MAX_CONTROL_BYTES],
    bytes: usize,
}

impl Default for Control {
    fn default() -> Control {
        Control { payload: [0; frame::MAX_CONTROL_BYTES], bytes: 0 }
    }
}

impl Control {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        debug_assert!(self.bytes + chunk.len() <= self.payload.len(), "a header has announced its length");
        for (place, byte) in self.payload.iter_mut().skip(self.bytes).zip(chunk) {
            *place = *byte;
            self.bytes += 1;
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.payload.get(..self.bytes).unwrap_or_default()
    }
}

/// All checks of text pass through here, so that a test can count the checked bytes.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, std::str::Utf8Error> {
    #[cfg(test)]
    CHECKED.set(CHECKED.get() + bytes.len());
    std::str::from_utf8(bytes)
}

impl Assembly {
    pub(super) fn capacity(&self) -> usize {
        match self {
            Assembly::Text(text) => text.text.capacity(),
            Assembly::Binary(bytes) => bytes.capacity(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Assembly::Text(text) => text.text.len() + usize::from(text.cut_bytes),
            Assembly::Binary(bytes) => bytes.len(),
        }
    }

    /// Adds a piece to a message that has at most `most` bytes.
    pub(super) fn push(&mut self, chunk: &[u8], most: usize) -> Result<(), NotUtf8> {
        let needed = self.len() + chunk.len();
        match self {
            Assembly::Text(text) => {
                let room = room_for(needed, text.text.capacity(), most);
                text.text.reserve_exact(room - text.text.len());
                text.push(chunk)
            }
            Assembly::Binary(bytes) => {
                bytes.reserve_exact(room_for(needed, bytes.capacity(), most) - bytes.len());
                bytes.extend_from_slice(chunk);
                Ok(())
            }
        }
    }
}

/// The capacity to reserve. Doubles like a `Vec`, so that each byte moves only a few times, but not past the most that a
/// message can have.
fn room_for(needed: usize, capacity: usize, most: usize) -> usize {
    if needed <= capacity {
        return capacity;
    }
    needed.max(capacity.saturating_mul(2).min(most))
}

/// Text that arrives in pieces and is checked as it arrives: the first byte that cannot be UTF-8 is refused at once.
#[derive(Debug, Default)]
pub(super) struct TextAssembly {
    text: String,
    /// The start of a character whose rest has not arrived.
    cut: [u8; 4],
    cut_bytes: u8,
}

impl TextAssembly {
    fn push(&mut self, mut chunk: &[u8]) -> Result<(), NotUtf8> {
        while self.cut_bytes > 0 {
            let [first, rest @ ..] = chunk else { return Ok(()) };
            chunk = rest;
            let held = usize::from(self.cut_bytes);
            debug_assert!(held < self.cut.len(), "no character has more than four bytes");
            if let Some(place) = self.cut.get_mut(held) {
                *place = *first;
            }
            match utf8(self.cut.get(..=held).unwrap_or_default()) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_bytes = 0;
                }
                Err(error) if error.error_len().is_none() => self.cut_bytes += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        match utf8(chunk) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_none() => {
                let (valid, cut) = chunk.split_at(error.valid_up_to());
                self.text.push_str(utf8(valid).map_err(|_| NotUtf8)?);
                for (place, byte) in self.cut.iter_mut().zip(cut) {
                    *place = *byte;
                }
                self.cut_bytes = cut.len() as u8;
            }
            Err(_) => return Err(NotUtf8),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<String, NotUtf8> {
        if self.cut_bytes > 0 { Err(NotUtf8) } else { Ok(self.text) }
    }
}

#[cfg(test)]
thread_local! {
    /// Bytes of text checked on this thread, each check counted.
    pub(super) static CHECKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
