//! The upgrade's SHA-1 and base64 against well-known crates.

use data_encoding::BASE64;
use sha1::{Digest, Sha1};
use switchboard::protocol::handshake::{accept_key, base64, sha1};

/// Bytes without a period of 64 or 3, which could hide errors.
fn message(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * at * 31 + at * 7 + length) as u8).collect()
}

/// Lengths around the boundaries of SHA-1 blocks, with each remainder of a base64 group.
const LENGTHS: std::ops::RangeInclusive<usize> = 0..=300;

#[test]
fn sha1_agrees_with_the_sha1_crate() {
    for message in LENGTHS.map(message) {
        assert_eq!(sha1(&message), <[u8; 20]>::from(Sha1::digest(&message)), "{} bytes", message.len());
    }
}

#[test]
fn base64_agrees_with_the_data_encoding_crate() {
    for message in LENGTHS.map(message) {
        assert_eq!(base64(&message), BASE64.encode(&message), "{} bytes", message.len());
    }
    for byte in 0..=255 {
        assert_eq!(base64(&[byte]), BASE64.encode(&[byte]));
    }
}

#[test]
fn the_accept_key_agrees_with_the_crates() {
    for key in LENGTHS.map(message) {
        let mut hash = Sha1::new();
        hash.update(&key);
        hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        assert_eq!(accept_key(&key), BASE64.encode(&hash.finalize()), "{} bytes", key.len());
    }
}

/// RFC 6455, section 1.3.
#[test]
fn the_accept_key_of_the_rfc_is_computed() {
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
