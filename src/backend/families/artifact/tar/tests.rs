//! Which archives are read, in pieces of any length, and which are refused.

use super::*;

/// A header with a correct checksum.
fn header(name: &[u8], type_flag: u8, size: &[u8], adjust: impl FnOnce(&mut [u8; BLOCK_BYTES])) -> Vec<u8> {
    let mut block = [0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = type_flag;
    block[257..265].copy_from_slice(b"ustar  \0");
    adjust(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len() + padding_of(content.len() as u64), 0);
    padded
}

fn extension(type_flag: u8, content: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}", content.len());
    [header(b"ext", type_flag, size.as_bytes(), |_| {}), padded(content)].concat()
}

fn file(name: &[u8], content: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}", content.len());
    [header(name, b'0', size.as_bytes(), |_| {}), padded(content)].concat()
}

const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Reads the entries with their content, and checks that the result is the same in pieces of any length.
fn read(archive: &[u8]) -> Result<Vec<(String, Kind, Vec<u8>)>, TarError> {
    let whole = read_in_pieces(archive, usize::MAX);
    for length in [1, 7, 511, 512, 513] {
        assert_eq!(read_in_pieces(archive, length), whole, "cut at {length}");
    }
    whole
}

fn read_in_pieces(archive: &[u8], length: usize) -> Result<Vec<(String, Kind, Vec<u8>)>, TarError> {
    let mut decoder = Decoder::new();
    let mut entries: Vec<(String, Kind, Vec<u8>)> = Vec::new();
    for mut piece in archive.chunks(length.min(archive.len().max(1))) {
        while !piece.is_empty() {
            let (consumed, item) = decoder.handle(piece)?;
            assert!(consumed > 0);
            match item {
                Some(Item::Entry(entry)) => entries.push((entry.name, entry.kind, Vec::new())),
                Some(Item::Data(data)) => entries.last_mut().unwrap().2.extend(data),
                None => {}
            }
            piece = &piece[consumed..];
        }
    }
    decoder.finish().map(|()| entries)
}

#[test]
fn files_folders_and_long_names_are_read() {
    let plain = Kind::File { executable: false };
    let mode = |mode: &'static [u8]| move |block: &mut [u8; 512]| block[100..108].copy_from_slice(mode);
    let posix = |block: &mut [u8; 512]| {
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..350].copy_from_slice(b"be/fo");
    };
    for (archive, expected) in [
        (vec![], vec![]),
        (file(b"a", b"content"), vec![("a", plain, &b"content"[..])]),
        (header(b"a", 0, b"0 ", mode(b"0004711\0")), vec![("a", Kind::File { executable: true }, b"")]),
        (header(b"a", b'0', b" 0\0", mode(b"   677 \0")), vec![("a", plain, b"")]),
        (header(b"a/", b'5', b"0", |_| {}), vec![("a/", Kind::Folder, b"")]),
        (header(b"a", b'0', b"0", posix), vec![("be/fo/a", plain, b"")]),
        ([extension(b'L', b"long\0"), file(b"lo", b"x")].concat(), vec![("long", plain, b"x")]),
        ([extension(b'x', b"12 path=l\xc3\xb6\n"), file(b"\xff", b"x")].concat(), vec![("lö", plain, b"x")]),
        ([extension(b'x', b"10 size=1\n"), file(b"a", b"x")].concat(), vec![("a", plain, b"x")]),
        ([extension(b'g', b"12 comment=\n"), file(b"a", b"")].concat(), vec![("a", plain, b"")]),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, kind, content)| (name.to_owned(), kind, content.to_vec()))
            .collect();
        let archive = [&archive[..], &END].concat();
        assert_eq!(read(&archive), Ok(expected));
        for cut in 0..archive.len() {
            assert_eq!(read_in_pieces(&archive[..cut], usize::MAX).err(), Some(TarError::Truncated));
        }
    }
}

#[test]
fn archives_with_anything_but_plain_files_and_folders_are_refused() {
    let magic = |block: &mut [u8; 512]| block[257..265].copy_from_slice(b"ustar\0  ");
    let ext = |type_flag, content: &[u8]| [extension(type_flag, content), file(b"a", b"")].concat();
    for (name, archive, expected) in [
        ("not a header", vec![b'x'; 512], TarError::NotTar),
        ("an archive of before POSIX", header(b"a", b'0', b"0", magic), TarError::NotTar),
        ("a symbolic link", header(b"a", b'2', b"0", |_| {}), TarError::Link),
        ("a hard link", header(b"a", b'1', b"0", |_| {}), TarError::Link),
        ("a long link", extension(b'K', b"x\0"), TarError::Link),
        ("a character device", header(b"a", b'3', b"0", |_| {}), TarError::Special),
        ("a block device", header(b"a", b'4', b"0", |_| {}), TarError::Special),
        ("a pipe", header(b"a", b'6', b"0", |_| {}), TarError::Special),
        ("a contiguous file", header(b"a", b'7', b"0", |_| {}), TarError::Special),
        ("a sparse file", header(b"a", b'S', b"0", |_| {}), TarError::Special),
        ("an old sparse file", ext(b'x', b"27 GNU.sparse.size=1000000\n"), TarError::Special),
        ("a sparse file in a short record", ext(b'x', b"25 GNU.sparse.size=1000000\n"), TarError::Extension),
        ("a sparse file in pax format", ext(b'x', b"22 GNU.sparse.major=1\n"), TarError::Special),
        ("a volume", header(b"a", b'V', b"0", |_| {}), TarError::Special),
        ("a solaris header", header(b"a", b'X', b"0", |_| {}), TarError::Special),
        (
            "a size in base 256",
            header(b"a", b'0', &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], |_| {}),
            TarError::Number,
        ),
        ("a size in decimal digits", header(b"a", b'0', b"9", |_| {}), TarError::Number),
        ("no size", header(b"a", b'0', b"", |_| {}), TarError::Number),
        ("a negative size", header(b"a", b'0', b"-1", |_| {}), TarError::Number),
        ("two sizes", header(b"a", b'0', b"1 1", |_| {}), TarError::Number),
        ("no name", header(b"", b'0', b"0", |_| {}), TarError::Extension),
        ("a name in another encoding", header(b"\xff", b'0', b"0", |_| {}), TarError::NotUtf8),
        ("a folder with content", header(b"a/", b'5', b"1", |_| {}), TarError::Folder),
        ("a file with a folder's name", header(b"a/", b'0', b"0", |_| {}), TarError::Folder),
        ("a long name without its zero byte", extension(b'L', b"abc"), TarError::Extension),
        ("an empty extension", ext(b'L', b""), TarError::Extension),
        ("an empty long name", ext(b'L', b"\0"), TarError::Extension),
        ("a long name with a zero byte in it", ext(b'L', b"a\0b\0"), TarError::Extension),
        ("a path twice", ext(b'x', b"9 path=a\n9 path=b\n"), TarError::Extension),
        ("a path with a zero byte in it", ext(b'x', b"12 path=a\0b\n"), TarError::Extension),
        ("such a path in a short record", ext(b'x', b"11 path=a\0b\n"), TarError::Extension),
        ("an empty path", ext(b'x', b"8 path=\n"), TarError::Extension),
        ("another size", ext(b'x', b"10 size=1\n"), TarError::Extension),
        ("a path for all", ext(b'g', b"9 path=a\n"), TarError::Extension),
        ("a link in a short record", ext(b'x', b"13 linkpath=a\n"), TarError::Extension),
        ("a link", ext(b'x', b"14 linkpath=a\n"), TarError::Link),
        ("a record that is too long", ext(b'x', b"99 path=a\n"), TarError::Extension),
        ("a record that is too short", ext(b'x', b"3 path=a\n"), TarError::Extension),
        ("a record of length zero", ext(b'x', b"0 path=a\n"), TarError::Extension),
        ("a record without equals sign", ext(b'x', b"7 path\n"), TarError::Extension),
        (
            "a record of a length beyond 64 bits",
            ext(b'x', b"99999999999999999999999 a=b\n"),
            TarError::Extension,
        ),
        ("no record", ext(b'x', b"path=a\n"), TarError::Extension),
        ("two long names", [extension(b'L', b"a\0"), ext(b'L', b"b\0")].concat(), TarError::Extension),
        (
            "two attributes",
            [extension(b'x', b"6 a=b\n"), ext(b'x', b"6 a=b\n")].concat(),
            TarError::Extension,
        ),
        ("two names", [extension(b'x', b"9 path=b\n"), ext(b'L', b"b\0")].concat(), TarError::Extension),
        ("attributes for all, late", [file(b"b", b""), ext(b'g', b"6 a=b\n")].concat(), TarError::Extension),
        ("a long name without an entry", extension(b'L', b"a\0"), TarError::Extension),
        (
            "the largest possible extension",
            header(b"a", b'x', b"77777777777", |_| {}),
            TarError::ExtensionTooLong,
        ),
        ("a lone empty block", [vec![0; 512], file(b"a", b"")].concat(), TarError::BehindTheEnd),
        ("two archives", [END.to_vec(), file(b"a", b"")].concat(), TarError::BehindTheEnd),
    ] {
        assert_eq!(read(&[&archive[..], &END].concat()), Err(expected), "{name}");
    }
    let mut damaged = file(b"a", b"x");
    damaged[3] = b'b';
    assert_eq!(read(&damaged), Err(TarError::NotTar));
    let longest = [b"x".repeat(MAX_EXTENSION_BYTES - 1), vec![0]].concat();
    let archive = [extension(b'L', &longest), file(b"a", b""), END.to_vec()].concat();
    assert_eq!(read_in_pieces(&archive, usize::MAX).unwrap()[0].0.len(), MAX_EXTENSION_BYTES - 1);
    let archive = extension(b'L', &[&b"x"[..], &longest].concat());
    assert_eq!(read_in_pieces(&archive, usize::MAX), Err(TarError::ExtensionTooLong));
}
