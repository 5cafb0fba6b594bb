//! Frames, compared with `tungstenite` and a naive implementation of RFC 6455, section 5.

use std::io::Cursor;

use switchboard::protocol::frame::{self, FrameError, Header, Role};
#[cfg(feature = "client")]
use switchboard::protocol::handshake::{self, FirstFrame};
use tungstenite::protocol::frame::coding::{Control, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use super::Choices;

/// A header is refused only for a rule that it breaks, at the byte that shows it, and otherwise decoded as `tungstenite` decodes it. A written frame
/// is the one that `tungstenite` writes, and decodes again. A mask undoes itself wherever it is cut. A client takes for a refusal what
/// `tungstenite` reads as a close frame.
pub fn frames(data: &[u8]) {
    for role in [Role::Server, Role::Client] {
        header_is_right(role, data, Header::decode(role, data));
    }
    #[cfg(feature = "client")]
    first_frame_is_right(data, handshake::first_frame(data));
    let mut choices = Choices::new(data);
    match choices.byte() % 2 {
        0 => written_frames_decode_again(choices),
        _ => masks_undo_themselves(choices),
    }
}

/// Checks what a client takes for a refusal: a close frame of a server, whole, and nothing that a frame of another kind can become.
#[cfg(feature = "client")]
pub fn first_frame_is_right(bytes: &[u8], first: FirstFrame) {
    let close = OpCode::Control(Control::Close);
    let header = FrameHeader::parse(&mut Cursor::new(bytes));
    // tungstenite reads a length that is not in its shortest form.
    let payload = match (bytes, &header) {
        ([], _) | ([0x88], _) => return assert_eq!(first, FirstFrame::Incomplete, "{bytes:02x?}"),
        (
            _,
            Ok(Some((
                FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask: None },
                length @ 0..126,
            ))),
        ) if *opcode == close && bytes.get(1).is_some_and(|second| *second < 126) => {
            let end = 2 + *length as usize;
            bytes.get(2..end)
        }
        _ => return assert_eq!(first, FirstFrame::Other, "{bytes:02x?}"),
    };
    let expected = match payload {
        None => FirstFrame::Incomplete,
        Some(payload) => match payload.split_first_chunk() {
            None => FirstFrame::Close(None, String::new()),
            Some((code, reason)) => {
                FirstFrame::Close(Some(u16::from_be_bytes(*code)), String::from_utf8_lossy(reason).into())
            }
        },
    };
    assert_eq!(first, expected, "{bytes:02x?}");
}

pub fn header_is_right(role: Role, bytes: &[u8], decoded: Result<Option<Header>, FrameError>) {
    let faults = faults(role, bytes);
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor);
    match (decoded, parsed) {
        (Err(fault), _) => {
            assert!(faults.contains(&fault), "{bytes:02x?} does not break the rule of {fault:?}");
            // It must fit a close frame, after the code.
            assert!((1..=frame::MAX_CONTROL_BYTES - 2).contains(&fault.as_str().len()));
        }
        (Ok(None), parsed) => {
            assert!(matches!(parsed, Ok(None)), "{bytes:02x?} is complete");
            assert_eq!(faults, [], "{bytes:02x?} is refused late");
        }
        (Ok(Some(header)), Ok(Some((theirs, length)))) => {
            assert_eq!(faults, [], "{bytes:02x?}");
            assert_eq!((header.fin, header.opcode), (theirs.is_final, theirs.opcode), "{bytes:02x?}");
            assert_eq!((header.mask, header.length), (theirs.mask, length), "{bytes:02x?}");
            assert_eq!(header.header_bytes as u64, cursor.position(), "{bytes:02x?}");
        }
        (Ok(Some(_)), _) => panic!("tungstenite refuses {bytes:02x?}"),
    }
}

/// Every rule that these bytes break, whatever follows: each way to go on has a length that is allowed, or none has.
pub fn faults(role: Role, bytes: &[u8]) -> Vec<FrameError> {
    let Some(&first) = bytes.first() else { return Vec::new() };
    let second = bytes.get(1).copied();
    let (opcode, control) = (first & 0x0f, first & 0x08 != 0);
    let length_is_bad = second.is_some_and(|second| {
        let (size, allowed) = match second & 0x7f {
            126 => (2, 126..1 << 16),
            127 => (8, 1 << 16..1 << 63),
            _ => return false,
        };
        let filled = |with: u8| {
            (2..2 + size)
                .map(|at| *bytes.get(at).unwrap_or(&with))
                .fold(0_u64, |all, byte| all << 8 | u64::from(byte))
        };
        filled(0xff) < allowed.start || filled(0) >= allowed.end
    });
    let rules = [
        (FrameError::ReservedBit, first & 0b0111_0000 != 0),
        (FrameError::ReservedOpcode, !matches!(opcode, 0..=2 | 8..=10)),
        (FrameError::NotMasked, role == Role::Server && second.is_some_and(|second| second < 0x80)),
        (FrameError::Masked, role == Role::Client && second.is_some_and(|second| second >= 0x80)),
        (FrameError::ControlTooLong, control && second.is_some_and(|second| second & 0x7f > 125)),
        (FrameError::ControlFragmented, control && first < 0x80),
        (FrameError::BadLength, length_is_bad),
    ];
    rules.into_iter().filter(|(_, broken)| *broken).map(|(fault, _)| fault).collect()
}

fn written_frames_decode_again(mut choices: Choices<'_>) {
    let opcode = choices.pick(&[frame::TEXT, frame::BINARY, frame::CLOSE, frame::PING, frame::PONG]);
    let control = matches!(opcode, frame::CLOSE | frame::PING | frame::PONG);
    let mask = match choices.byte() % 2 {
        0 => None,
        _ => Some(choices.word()),
    };
    let lengths = if control { [0, 1, 2, 124, 125, 125] } else { [0, 125, 126, 0xffff, 0x1_0000, 1000] };
    let length = choices.pick(&lengths);
    let cuts = [choices.byte(), choices.byte()].map(|cut| usize::from(cut) * length / 255);
    let (first, last) = (cuts[0].min(cuts[1]), cuts[0].max(cuts[1]));
    // A frame is appended to other bytes.
    let before = choices.take(3).to_vec();
    let pattern = choices.rest();
    let payload: Vec<u8> = (0..length).map(|at| pattern.get(at).copied().unwrap_or(at as u8)).collect();

    let mut out = before.clone();
    let pieces = [&payload[..first], &payload[first..last], &payload[last..]];
    frame::write(&mut out, opcode, mask, pieces);
    assert_eq!(out[..before.len()], before);
    let written = &out[before.len()..];
    let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
    let mut theirs = Vec::new();
    Frame::from_payload(header, payload.clone().into())
        .format(&mut theirs)
        .expect("writing to a Vec cannot fail");
    assert!(written == theirs, "{opcode:?} of {length} bytes is not what tungstenite writes");

    let reader = if mask.is_some() { Role::Server } else { Role::Client };
    let header =
        Header::decode(reader, written).expect("we write valid frames").expect("the frame is complete");
    assert_eq!((header.fin, header.opcode, header.mask), (true, opcode, mask));
    assert_eq!(header.header_bytes + payload.len(), written.len());
    let mut read = written[header.header_bytes..].to_vec();
    frame::unmask(&mut read, mask.unwrap_or_default(), 0);
    assert!(read == payload, "{opcode:?} of {length} bytes comes back changed");
}

fn masks_undo_themselves(mut choices: Choices<'_>) {
    let mask = choices.word();
    let [a, b, c, d] = choices.word();
    let offset = u64::from_be_bytes([a, b, c, d, a, b, c, d]);
    let cuts = [choices.byte(), choices.byte()];
    let plain = choices.rest();
    let cuts = cuts.map(|cut| usize::from(cut).min(plain.len()));

    let mut masked = plain.to_vec();
    frame::unmask(&mut masked, mask, offset);
    mask_is_applied(plain, &masked, mask, offset);

    // Unmask in three pieces.
    let (first, last) = (cuts[0].min(cuts[1]), cuts[0].max(cuts[1]));
    let (start, rest) = masked.split_at_mut(first);
    let (middle, end) = rest.split_at_mut(last - first);
    frame::unmask(end, mask, offset.wrapping_add(last as u64));
    frame::unmask(start, mask, offset);
    frame::unmask(middle, mask, offset.wrapping_add(first as u64));
    assert_eq!(masked, plain, "cut at {first} and {last}");
}

/// RFC 6455, section 5.3, byte for byte.
pub fn mask_is_applied(plain: &[u8], masked: &[u8], mask: [u8; 4], offset: u64) {
    assert_eq!(plain.len(), masked.len());
    for (at, (plain, masked)) in plain.iter().zip(masked).enumerate() {
        let key = mask[(offset % 4) as usize..].iter().chain(&mask).nth(at % 4);
        assert_eq!(Some(plain ^ masked), key.copied(), "byte {at} from {offset}");
    }
}
