//! UUID version 4 (RFC 9562, section 5.4). Input: 16 random bytes. Output: an id and its text.

use std::fmt;
use std::str::FromStr;

/// A UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// A version 4 UUID from random bytes; six of their bits are overwritten.
    pub const fn from_random(mut bytes: [u8; 16]) -> Uuid {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid(bytes)
    }

    /// A version 4 UUID from the system's randomness.
    ///
    /// # Panics
    /// When the system has no randomness: ids must not be guessable.
    pub fn v4() -> Uuid {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("system randomness is available");
        Uuid::from_random(bytes)
    }

    /// The 16 bytes, in the order of the text.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Uuid {
    /// 8-4-4-4-12 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

/// The error for a text that is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UuidError;

impl fmt::Display for UuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 36 characters: 8-4-4-4-12 hexadecimal digits")
    }
}

impl std::error::Error for UuidError {}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Uuid, UuidError> {
        let is_valid = |(at, byte): (usize, u8)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        if text.len() != 36 || !text.bytes().enumerate().all(is_valid) {
            return Err(UuidError);
        }
        let digits = text.chars().filter_map(|digit| digit.to_digit(16));
        Ok(Uuid(digits.fold(0_u128, |value, digit| value << 4 | u128::from(digit)).to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_become_version_4_variant_1() {
        assert_eq!(Uuid::from_random([0; 16]).to_string(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(Uuid::from_random([0xff; 16]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_ne!(Uuid::v4(), Uuid::v4());
    }

    #[test]
    fn a_parsed_uuid_prints_the_same_text() {
        let text = "550e8400-e29b-41d4-a716-446655440000";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        assert_eq!(text.to_uppercase().parse::<Uuid>().unwrap().to_string(), text);
        for wrong in
            ["", "550e8400", "550e8400-e29b-41d4-a716-44665544000g", "550e8400+e29b-41d4-a716-446655440000"]
        {
            assert_eq!(wrong.parse::<Uuid>(), Err(UuidError));
        }
        assert_eq!("é".repeat(18).parse::<Uuid>(), Err(UuidError));
    }
}
