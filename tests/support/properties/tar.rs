//! The decoder of archives, compared with the crate `tar`.

use std::io::Read;

use switchboard::backend::artifact::tar::{
    BLOCK_BYTES, Decoder, Entry, Item, Kind, MAX_EXTENSION_BYTES, TarError,
};

use super::{Choices, cut};

/// An entry, with its content.
pub type Found = (Entry, Vec<u8>);

/// The entries or the error are the same wherever the archive is cut, in bounded memory. The crate `tar` reads the same
/// entries, with the same name, kind and content. An archive without its end is refused.
///
/// Four bytes are the cuts; the rest is the archive, once unchanged and once with correct checksums.
pub fn tar(data: &[u8]) {
    let mut choices = Choices::new(data);
    let lengths = choices.word();
    let archive = choices.rest();
    for archive in [archive.to_vec(), with_correct_checksums(archive)] {
        let whole = read(&archive, &[0]);
        for lengths in [&[1][..], &lengths] {
            assert_eq!(read(&archive, lengths), whole);
        }
        if let Ok(entries) = &whole {
            entries_are_those_of_the_crate(&archive, entries);
            let end = archive.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            assert!(read(&archive[..end], &[0]).is_err(), "an archive without its end is accepted");
        }
    }
}

/// Reads an archive with the decoder.
pub fn read(archive: &[u8], lengths: &[u8]) -> Result<Vec<Found>, TarError> {
    let mut decoder = Decoder::new();
    let mut entries: Vec<Found> = Vec::new();
    for mut piece in cut(archive, lengths) {
        while !piece.is_empty() {
            let (consumed, item) = decoder.handle(piece)?;
            assert!((1..=piece.len()).contains(&consumed));
            match item {
                Some(Item::Entry(entry)) => entries.push((entry, Vec::new())),
                Some(Item::Data(data)) => {
                    entries.last_mut().expect("data belongs to an entry").1.extend(data)
                }
                None => {}
            }
            memory_is_within(decoder.held_bytes());
            piece = &piece[consumed..];
        }
    }
    decoder.finish()?;
    assert!(entries.iter().all(|(entry, content)| entry.size == content.len() as u64));
    Ok(entries)
}

/// A header and both kinds of long names, doubled, as a vector grows.
pub fn memory_is_within(held_bytes: usize) {
    let most = 2 * (3 * MAX_EXTENSION_BYTES + 2 * BLOCK_BYTES);
    assert!(held_bytes <= most, "{held_bytes} bytes held, {most} allowed");
}

pub fn entries_are_those_of_the_crate(archive: &[u8], entries: &[Found]) {
    let mut theirs = ::tar::Archive::new(archive);
    let mut read = Vec::new();
    for entry in theirs.entries().expect("an archive") {
        let mut entry = entry.expect("an entry that we read too");
        let entry_type = entry.header().entry_type();
        // The crate returns global extensions as an entry.
        if entry_type.is_pax_global_extensions() {
            continue;
        }
        let kind = match entry_type {
            ::tar::EntryType::Directory => Kind::Folder,
            _ => Kind::File { executable: entry.header().mode().expect("a mode") & 0o100 != 0 },
        };
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("a name that we read too");
        let size = entry.size();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content that we read too");
        read.push((Entry { name, kind, size }, content));
    }
    assert_eq!(read, entries);
}

/// The archive with a correct checksum in every block at the position of a header.
fn with_correct_checksums(archive: &[u8]) -> Vec<u8> {
    let mut correct = archive.to_vec();
    let mut at = 0;
    while let Some(block) = correct.get_mut(at..at + BLOCK_BYTES) {
        at += BLOCK_BYTES;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = block[124..136].iter().skip_while(|byte| **byte == b' ');
        let digits = digits.take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0, |size: u64, digit| size * 8 + u64::from(digit - b'0'));
        at = at
            .saturating_add(usize::try_from(size).unwrap_or(usize::MAX).div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
    }
    correct
}
