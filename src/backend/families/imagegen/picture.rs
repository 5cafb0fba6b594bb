//! Image formats. Input: base64 or bytes from a provider. Output: the image's bytes, its format and its size in pixels. Pure.

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    Webp,
    /// Only from the built-in provider: an SVG from elsewhere can contain scripts.
    Svg,
}

impl Format {
    pub(super) const ALL: [Format; 4] = [Format::Png, Format::Jpeg, Format::Webp, Format::Svg];

    pub(super) fn mime_type(self) -> &'static str {
        match self {
            Format::Png => "image/png",
            Format::Jpeg => "image/jpeg",
            Format::Webp => "image/webp",
            Format::Svg => "image/svg+xml",
        }
    }

    /// The extension of file names.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::Webp => "webp",
            Format::Svg => "svg",
        }
    }

    pub(super) fn from_mime_type(mime_type: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.mime_type() == mime_type)
    }
}

/// An image as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) bytes: Vec<u8>,
    pub(super) format: Format,
    /// Width and height in pixels, if they could be read from the bytes.
    pub(super) size: Option<(u32, u32)>,
}

impl Picture {
    /// Identifies an image from a provider by its bytes.
    ///
    /// # Errors
    /// When the bytes are not a PNG, JPEG or WebP, or are incomplete.
    pub(super) fn new(bytes: Vec<u8>) -> Result<Picture, &'static str> {
        let (format, size) = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            (Format::Png, png_size(&bytes).ok_or("a truncated or damaged PNG")?)
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            (Format::Jpeg, jpeg_size(&bytes))
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            (Format::Webp, webp_size(&bytes).ok_or("a truncated WebP")?)
        } else {
            return Err("an image that is not a PNG, JPEG or WebP");
        };
        Ok(Picture { bytes, format, size })
    }
}

/// Returns the size of a PNG; `None` if its chunks do not reach the end chunk.
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
        // Length, name and checksum take 12 more bytes.
        at += data.len() + 12;
    }
}

/// Returns name and data of the PNG chunk at an offset; `None` if it is incomplete.
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

/// Reads the size from the frame header of a JPEG (ITU T.81, B.2.2).
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let [0xff, marker, high, low] = *bytes.get(at..)?.first_chunk::<4>()? else { return None };
        let is_frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
        if is_frame {
            let [a, b, c, d] = *bytes.get(at + 5..)?.first_chunk::<4>()?;
            return Some((u32::from(u16::from_be_bytes([c, d])), u32::from(u16::from_be_bytes([a, b]))));
        }
        // The length includes its own two bytes; `max(2)` guarantees progress on damaged data.
        at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
    }
}

/// Returns the size of a WebP, `Some(None)` if its first chunk is of an unknown type; `None` if bytes are missing.
fn webp_size(bytes: &[u8]) -> Option<Option<(u32, u32)>> {
    let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk::<4>()?);
    if bytes.len() < usize::try_from(length).ok()?.checked_add(8)? {
        return None;
    }
    let word =
        |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
    let size = match bytes.get(12..16)? {
        // Three bytes each, stored minus one.
        b"VP8X" => word(24).zip(word(26)).map(|(w, h)| ((w & 0xff_ffff) + 1, (h >> 8) + 1)),
        b"VP8L" => word(21).map(|bits| ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)),
        b"VP8 " => word(26).map(|bits| (bits & 0x3fff, bits >> 16 & 0x3fff)),
        _ => None,
    };
    Some(size)
}

/// Decodes base64 (RFC 4648, section 4), with or without `data:…;base64,` before it. Line breaks and missing padding are
/// accepted.
///
/// # Errors
/// When the text is not base64, or decodes to more than `max_bytes`.
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
            _ => return Err("an image that is not base64".to_owned()),
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
        _ => return Err("an image that is not base64".to_owned()),
    }
    if bytes.len() > max_bytes {
        return Err(format!("an image of more than {max_bytes} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of 3 x 2 pixels with wrong checksums, which are not checked.
    fn png() -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02\x08\x02\0\0\0CRC!".to_vec();
        bytes.extend(b"\0\0\0\x02IDATxxCRC!\0\0\0\0IENDCRC!");
        bytes
    }

    #[test]
    fn the_first_bytes_identify_the_format() {
        let jpeg = b"\xff\xd8\xff\xe0\0\x04xx\xff\xc0\0\x0b\x08\0\x02\0\x03\x01".to_vec();
        let lossless = b"RIFF\x11\0\0\0WEBPVP8L\x05\0\0\0\x2f\x02\x40\0\0".to_vec();
        let extended = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x02\0\0\x01\0\0".to_vec();
        let lossy = b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x03\0\x02\0".to_vec();
        for (bytes, format) in [
            (png(), Format::Png),
            (jpeg, Format::Jpeg),
            (lossless, Format::Webp),
            (extended, Format::Webp),
            (lossy, Format::Webp),
        ] {
            let picture = Picture::new(bytes.clone()).unwrap();
            assert_eq!((picture.format, picture.size), (format, Some((3, 2))), "{bytes:?}");
            assert_eq!(picture.bytes, bytes);
            assert_eq!(Format::from_mime_type(format.mime_type()), Some(format));
            // Truncated anywhere it is refused and nothing panics. A truncated JPEG is accepted: it has no reliable end mark.
            for length in 0..bytes.len() {
                let cut = Picture::new(bytes[..length].to_vec());
                assert!(cut.is_err() || format == Format::Jpeg, "{format:?} of {length} bytes");
            }
        }
        for other in
            [&b""[..], b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"RIFF1234WAVE"]
        {
            assert!(Picture::new(other.to_vec()).is_err());
        }
    }

    #[test]
    fn base64_decodes_as_in_a_library() {
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
