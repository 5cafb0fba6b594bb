//! Frames as bytes, written without the code under test. Masks are zero, so that a dump shows the payload.

use switchboard::protocol::frame::Role;

// The first byte of a frame.
pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A header for this end that announces `length` bytes, in its shortest form.
pub fn header_to(to: Role, first: u8, length: u64) -> Vec<u8> {
    let masked = if to == Role::Server { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(masked | length as u8),
        126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    if to == Role::Server {
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

pub fn frame_to(to: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header_to(to, first, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// A client's frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_to(Role::Server, first, payload)
}

/// A client's message in one frame.
pub fn text_frame(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}
