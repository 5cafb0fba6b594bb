//! What a picture's bytes are. In: base64 or bytes of a provider. Out: bytes, their type and size in pixels. Pure.

/// A type of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    Webp,
    /// Ours alone: one of a provider could hold anything that a page can.
    Svg,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Png, Kind::Jpeg, Kind::Webp, Kind::Svg];

    pub(super) fn mime_type(self) -> &'static str {
        match self {
            Kind::Png => "image/png",
            Kind::Jpeg => "image/jpeg",
            Kind::Webp => "image/webp",
            Kind::Svg => "image/svg+xml",
        }
    }

    /// How the names of its files end.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Kind::Png => "png",
            Kind::Jpeg => "jpg",
            Kind::Webp => "webp",
            Kind::Svg => "svg",
        }
    }

    pub(super) fn from_mime_type(mime_type: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.mime_type() == mime_type)
    }
}

/// A picture as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: Kind,
    /// In pixels, if the bytes say it.
    pub(super) size: Option<(u32, u32)>,
}

impl Picture {
    /// A picture of a provider.
    ///
    /// # Errors
    /// When the bytes are no PNG, JPEG or WebP, or not the whole of it.
    pub(super) fn new(bytes: Vec<u8>) -> Result<Picture, &'static str> {
        let (kind, size) = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            (Kind::Png, png_size(&bytes).ok_or("a PNG that is cut off or broken")?)
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            (Kind::Jpeg, jpeg_size(&bytes))
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            (Kind::Webp, webp_size(&bytes).ok_or("a WebP that is cut off")?)
        } else {
            return Err("something that is no PNG, JPEG or WebP");
        };
        Ok(Picture { bytes, kind, size })
    }
}

/// The size that a PNG tells, if its chunks lead to its end.
fn png_size(bytes: &[u8]) -> Option<Option<(u32, u32)>> {
    let header = chunk_of(bytes, 8)?;
    let size =
        (header.0 == b"IHDR").then(|| Some((big_endian(header.1, 0)?, big_endian(header.1, 4)?)))??;
    let mut at = 8;
    loop {
        let (name, data) = chunk_of(bytes, at)?;
        if name == b"IEND" {
            return Some(Some(size));
        }
        // Length, name and checksum are 12 bytes more.
        at += data.len() + 12;
    }
}

/// The name and the data of the PNG's chunk at an offset, whose checksum is there too.
fn chunk_of(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(big_endian(bytes, at)?).ok()?;
    let data = at.checked_add(8)?;
    let end = data.checked_add(length)?;
    bytes.get(end..end.checked_add(4)?)?;
    Some((bytes.get(at + 4..data)?, bytes.get(data..end)?))
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// The size in the frame header of a JPEG (ITU T.81, B.2.2).
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [0xff, marker, high, low] = *bytes.get(at..)?.first_chunk::<4>()? else { return None };
        let is_frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
        if is_frame {
            let [a, b, c, d] = *bytes.get(at + 5..)?.first_chunk::<4>()?;
            return Some((u32::from(u16::from_be_bytes([c, d])), u32::from(u16::from_be_bytes([a, b]))));
        }
        // A segment's length counts its own two bytes, so a walk always gets on.
        at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
    }
}

/// The size that a WebP tells, `Some(None)` for a sort that is not known; `None` if its bytes are not all there.
fn webp_size(bytes: &[u8]) -> Option<Option<(u32, u32)>> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk::<4>()?);
    if bytes.len() < usize::try_from(length).ok()?.checked_add(8)? {
        return None;
    }
    let word =
        |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
    let size = match bytes.get(12..16)? {
        // Three bytes each, less one.
        b"VP8X" => word(24).zip(word(26)).map(|(w, h)| ((w & 0xff_ffff) + 1, (h >> 8) + 1)),
        b"VP8L" => word(21).map(|bits| ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)),
        b"VP8 " => word(26).map(|bits| (bits & 0x3fff, bits >> 16 & 0x3fff)),
        _ => None,
    };
    Some(size)
}

/// The bytes that a base64 text stands for, perhaps behind `data:…;base64,` (RFC 4648, section 4; line breaks and missing
/// padding pass).
///
/// # Errors
/// When it is none, or stands for more than `max_bytes`.
pub(super) fn decode_base64(text: &str, max_bytes: usize) -> Result<Vec<u8>, String> {
    let text = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map_or("", |(_, text)| text),
        None => text,
    };
    if text.len() / 4 * 3 > max_bytes.saturating_add(2) && text.len() / 100 * 72 > max_bytes {
        return Err(format!("an image of more than {max_bytes} bytes"));
    }
    let digits = text.trim_ascii_end().trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in digits.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("an image that is no base64".to_owned()),
        };
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        0 => {}
        2 if bits & 0xf == 0 => bytes.push((bits >> 4) as u8),
        3 if bits & 0x3 == 0 => bytes.extend_from_slice(&(bits << 6).to_be_bytes()[1..3]),
        _ => return Err("an image that is no base64".to_owned()),
    }
    if bytes.len() > max_bytes {
        return Err(format!("an image of more than {max_bytes} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of 3 x 2 pixels, its checksums left out of account.
    fn png() -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02\x08\x02\0\0\0CRC!".to_vec();
        bytes.extend(b"\0\0\0\x02IDATxxCRC!\0\0\0\0IENDCRC!");
        bytes
    }

    #[test]
    fn a_picture_is_what_its_first_bytes_say() {
        let jpeg = b"\xff\xd8\xff\xe0\0\x04xx\xff\xc0\0\x0b\x08\0\x02\0\x03\x01".to_vec();
        let lossless = b"RIFF\x11\0\0\0WEBPVP8L\x05\0\0\0\x2f\x02\x40\0\0".to_vec();
        let extended = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x02\0\0\x01\0\0".to_vec();
        let lossy = b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x03\0\x02\0".to_vec();
        for (bytes, kind) in [
            (png(), Kind::Png),
            (jpeg, Kind::Jpeg),
            (lossless, Kind::Webp),
            (extended, Kind::Webp),
            (lossy, Kind::Webp),
        ] {
            let picture = Picture::new(bytes.clone()).unwrap();
            assert_eq!((picture.kind, picture.size), (kind, Some((3, 2))), "{bytes:?}");
            assert_eq!(picture.bytes, bytes);
            assert_eq!(Kind::from_mime_type(kind.mime_type()), Some(kind));
            // Cut anywhere nothing panics, and only a JPEG, whose end has no mark that could not stand before it, passes.
            for length in 0..bytes.len() {
                let cut = Picture::new(bytes[..length].to_vec());
                assert!(cut.is_err() || kind == Kind::Jpeg, "{kind:?} of {length} bytes");
            }
        }
        for other in
            [&b""[..], b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"RIFF1234WAVE"]
        {
            assert!(Picture::new(other.to_vec()).is_err());
        }
    }

    #[test]
    fn base64_is_read_as_a_library_reads_it() {
        for length in 0..70_usize {
            let bytes: Vec<u8> = (0..length).map(|n| (n * 37 + length) as u8).collect();
            let text = data_encoding::BASE64.encode(&bytes);
            for text in [
                text.clone(),
                text.trim_end_matches('=').to_owned(),
                format!("data:image/png;base64,{text}"),
                format!("{text}\r\n"),
            ] {
                assert_eq!(decode_base64(&text, length).as_ref(), Ok(&bytes), "{text}");
            }
            if length > 0 {
                assert!(decode_base64(&text, length - 1).is_err());
            }
        }
        for wrong in ["A", "AB=C", "AAA!", "AB", "AAB", "AA A", "é", "data:image/png,AAAA"] {
            let is_empty = wrong.starts_with("data:");
            assert_eq!(decode_base64(wrong, 99).is_err(), !is_empty, "{wrong}");
        }
        assert!(decode_base64(&"A".repeat(4000), 99).is_err());
    }
}
