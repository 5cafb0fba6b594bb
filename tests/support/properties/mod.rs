//! Properties of the protocol that hold for any bytes. Input: the bytes of a fuzzer, a seed, or a random run; they decide
//! everything, including cuts and clock ticks. Output: nothing, or a panic that names the broken property.
//!
//! Each property runs the protocol and passes the result to a function that checks it. A canary in `tests/seeds.rs` passes
//! wrong results to those functions, to show that they can fail.

// Each fuzz target and each test program uses a part of this module.
#![allow(dead_code, unused_imports)]

pub mod access;
pub mod admission;
#[cfg(feature = "client")]
pub mod caller;
pub mod connection;
pub mod envelope;
pub mod fair;
pub mod frames;
pub mod groups;
pub mod json;
#[cfg(feature = "backend")]
pub mod origin;
pub mod outbox;
#[cfg(feature = "client")]
pub mod race;
pub mod session;
#[cfg(feature = "backend")]
pub mod sse;
#[cfg(feature = "backend")]
pub mod tar;
#[cfg(feature = "backend")]
pub mod transcript;
pub mod upgrade;

pub use self::access::access;
pub use self::admission::admission;
#[cfg(feature = "client")]
pub use self::caller::caller;
pub use self::connection::connection;
pub use self::envelope::envelope;
pub use self::fair::fair;
pub use self::frames::frames;
pub use self::groups::groups;
pub use self::json::json;
#[cfg(feature = "backend")]
pub use self::origin::origin;
pub use self::outbox::outbox;
#[cfg(feature = "client")]
pub use self::race::race;
pub use self::session::session;
#[cfg(feature = "backend")]
pub use self::sse::sse;
#[cfg(feature = "backend")]
pub use self::tar::tar;
#[cfg(feature = "backend")]
pub use self::transcript::transcript;
pub use self::upgrade::upgrade;

/// Turns bytes into choices. When the bytes are used up, every choice is zero.
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

    pub fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[usize::from(self.byte()) % options.len()].clone()
    }

    /// Four bytes, padded with zeros.
    pub fn word(&mut self) -> [u8; 4] {
        [self.byte(), self.byte(), self.byte(), self.byte()]
    }

    /// The next bytes; fewer at the end.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Cuts a stream into pieces of these lengths, repeated as needed. A length of zero means the whole rest.
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

/// The index at which a part of a text begins.
pub fn offset(text: &str, part: &str) -> usize {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    assert!(offset <= text.len() && part.len() <= text.len() - offset, "{part:?} is not a part of {text:?}");
    offset
}
