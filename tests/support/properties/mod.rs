//! What must hold of the protocol for any bytes at all. In: the bytes of a fuzzer, a seed, or a random run; they decide
//! everything, cuts and clock ticks too. Out: nothing, or a panic that says what does not hold.
//!
//! Each property computes what the protocol answers and hands it to a function that judges it. A canary hands those
//! functions wrong answers, and so shows that they can refuse.

// Each fuzz target and each test program uses a part of what stands here.
#![allow(dead_code, unused_imports)]

#[cfg(feature = "client")]
pub mod caller;
pub mod connection;
pub mod envelope;
pub mod frames;
pub mod json;
pub mod session;
#[cfg(feature = "backend")]
pub mod sse;
#[cfg(feature = "backend")]
pub mod tar;
#[cfg(feature = "backend")]
pub mod transcript;
pub mod upgrade;

#[cfg(feature = "client")]
pub use self::caller::caller;
pub use self::connection::connection;
pub use self::envelope::envelope;
pub use self::frames::frames;
pub use self::json::json;
pub use self::session::session;
#[cfg(feature = "backend")]
pub use self::sse::sse;
#[cfg(feature = "backend")]
pub use self::tar::tar;
#[cfg(feature = "backend")]
pub use self::transcript::transcript;
pub use self::upgrade::upgrade;

/// Turns bytes into choices. Used up, it goes on choosing zero.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(data: &'a [u8]) -> Choices<'a> {
        Choices { rest: data }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[usize::from(self.byte()) % options.len()]
    }

    /// Four bytes, filled up with zeros.
    pub fn word(&mut self) -> [u8; 4] {
        [self.byte(), self.byte(), self.byte(), self.byte()]
    }

    /// The next bytes; fewer if there are not so many.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Cuts a stream into pieces of these lengths, over and over. A length of zero stands for all that is left.
pub fn cut<'a>(stream: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut left = stream;
    let mut lengths = lengths.iter().cycle();
    while !left.is_empty() {
        let length = match lengths.next() {
            None | Some(0) => left.len(),
            Some(&length) => left.len().min(usize::from(length)),
        };
        let (piece, rest) = left.split_at(length);
        pieces.push(piece);
        left = rest;
    }
    pieces
}

/// Where a part of a text begins in it.
pub fn offset(text: &str, part: &str) -> usize {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    assert!(offset <= text.len() && part.len() <= text.len() - offset, "{part:?} is no part of {text:?}");
    offset
}
