//! A decoder of tar archives. Input: the bytes of an archive, in pieces of any length. Output: its files and folders, or the
//! reason why it is refused.
//!
//! It reads ustar, with the long names of GNU tar and pax. It refuses links, devices, pipes, sparse files and volumes, and
//! anything that two programs could read differently, such as two sizes of one file that differ. It does not check where
//! a name leads.
//!
//! ```
//! use switchboard::backend::artifact::tar::{Decoder, Item};
//!
//! # fn run(archive: &[u8]) -> Result<(), switchboard::backend::artifact::tar::TarError> {
//! let mut decoder = Decoder::new();
//! let mut rest = archive;
//! while !rest.is_empty() {
//!     let (consumed, item) = decoder.handle(rest)?;
//!     match item {
//!         Some(Item::Entry(entry)) => println!("{} has {} bytes", entry.name, entry.size),
//!         Some(Item::Data(bytes)) => println!("the next {} bytes", bytes.len()),
//!         None => {}
//!     }
//!     rest = &rest[consumed..];
//! }
//! decoder.finish()
//! # }
//! ```

use std::fmt;

/// Size of a block, in bytes. An archive is a sequence of blocks.
pub const BLOCK_BYTES: usize = 512;
/// Longest extended header (a long name, or attributes), in bytes. A longer one is refused.
///
/// 64 KiB: many times what pax tools write for one file.
pub const MAX_EXTENSION_BYTES: usize = 64 << 10;

/// A file or a folder in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, exactly as in the archive.
    pub name: String,
    /// Whether it is a file or a folder.
    pub kind: Kind,
    /// Length of the content, which follows as [`Item::Data`], in bytes.
    pub size: u64,
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File {
        /// Whether its owner may run it.
        executable: bool,
    },
    /// A folder.
    Folder,
}

/// A piece of an archive, as [`Decoder::handle`] returns it.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The start of an entry.
    Entry(Entry),
    /// The next bytes of the current entry.
    Data(&'a [u8]),
}

/// Why an archive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarError {
    /// The input ends before the archive's end mark.
    Truncated,
    /// A header is not that of a tar archive, or is damaged.
    NotTar,
    /// A number in a header is not octal.
    Number,
    /// A link, symbolic or hard.
    Link,
    /// A device, a pipe, a sparse file, or another type that is neither a file nor a folder.
    Special,
    /// A name that is not UTF-8.
    NotUtf8,
    /// An extended header is longer than [`MAX_EXTENSION_BYTES`].
    ExtensionTooLong,
    /// An extended header is malformed, contradicts another header, or belongs to no entry.
    Extension,
    /// A folder that has content, or a file whose name ends in `/`.
    Folder,
    /// Bytes other than zero after the end mark.
    BehindTheEnd,
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TarError::Truncated => "a truncated archive",
            TarError::NotTar => "not a tar archive, or a damaged one",
            TarError::Number => "an archive with a number that is not octal",
            TarError::Link => "a link",
            TarError::Special => "something other than a file or a folder",
            TarError::NotUtf8 => "a name that is not UTF-8",
            TarError::ExtensionTooLong => "an extended header that is too long",
            TarError::Extension => "an extended header that is malformed or ambiguous",
            TarError::Folder => "a folder with content, or a file with a folder's name",
            TarError::BehindTheEnd => "an archive with bytes after its end",
        })
    }
}

impl std::error::Error for TarError {}

/// Reads one archive. Each call of [`handle`](Decoder::handle) returns how many bytes it consumed; an error is final.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The beginning of an incomplete block or extended header.
    held: Vec<u8>,
    extensions: Extensions,
    /// Whether an entry or an extended header was read.
    has_started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// The rest of an entry's content, then the padding of its last block.
    Data {
        left: u64,
        padding: usize,
    },
    Extension {
        extension: Extension,
        size: usize,
        padding: usize,
    },
    /// After the first of the two empty blocks that end an archive.
    Ending,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    /// GNU: the name of the next entry.
    LongName,
    /// Pax: attributes of the next entry.
    Attributes,
    /// Pax: attributes of all entries.
    AllAttributes,
}

/// The extended headers read for the next entry.
#[derive(Debug, Default)]
struct Extensions {
    long_name: Option<String>,
    attributes: Option<Attributes>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Attributes {
    path: Option<String>,
    size: Option<u64>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// Creates a decoder at the beginning of an archive.
    pub fn new() -> Decoder {
        Decoder {
            state: State::Header,
            held: Vec::new(),
            extensions: Extensions::default(),
            has_started: false,
        }
    }

    /// Reads up to the next item. Returns how many bytes were consumed, at least one, and the item if it is complete.
    ///
    /// # Errors
    /// When the archive is refused.
    pub fn handle<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Item<'a>>), TarError> {
        match self.state {
            State::Header | State::Ending => {
                let taken = self.hold(input, BLOCK_BYTES);
                let Ok(block) = <&[u8; BLOCK_BYTES]>::try_from(&*self.held) else { return Ok((taken, None)) };
                let block = *block;
                self.held.clear();
                self.handle_block(&block).map(|entry| (taken, entry.map(Item::Entry)))
            }
            State::Data { left, padding } if left > 0 => {
                let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                let data = input.get(..length).unwrap_or(input);
                self.state = data_state(left.saturating_sub(data.len() as u64), padding);
                Ok((data.len(), Some(Item::Data(data))))
            }
            State::Data { padding, .. } => {
                let skipped = padding.min(input.len());
                self.state = data_state(0, padding - skipped);
                Ok((skipped, None))
            }
            State::Extension { extension, size, padding } => {
                let taken = self.hold(input, size + padding);
                if self.held.len() == size + padding {
                    self.held.truncate(size);
                    let content = std::mem::take(&mut self.held);
                    self.extend(extension, &content)?;
                    self.state = State::Header;
                }
                Ok((taken, None))
            }
            State::Ended if input.iter().all(|byte| *byte == 0) => Ok((input.len(), None)),
            State::Ended => Err(TarError::BehindTheEnd),
        }
    }

    /// Checks that the archive was complete.
    ///
    /// # Errors
    /// [`TarError::Truncated`] when it was not.
    pub fn finish(&self) -> Result<(), TarError> {
        if self.state == State::Ended { Ok(()) } else { Err(TarError::Truncated) }
    }

    /// Memory held between two calls, in bytes.
    pub fn held_bytes(&self) -> usize {
        let attributes = self.extensions.attributes.as_ref().and_then(|attributes| attributes.path.as_ref());
        let names = [&self.extensions.long_name.as_ref(), &attributes];
        self.held.capacity() + names.iter().filter_map(|name| name.map(String::capacity)).sum::<usize>()
    }

    /// Copies input until `wanted` bytes are held. Returns how many were copied.
    fn hold(&mut self, input: &[u8], wanted: usize) -> usize {
        let taken = wanted.saturating_sub(self.held.len()).min(input.len());
        self.held.extend_from_slice(input.get(..taken).unwrap_or_default());
        taken
    }

    fn handle_block(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<Option<Entry>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            if self.extensions.long_name.is_some() || self.extensions.attributes.is_some() {
                return Err(TarError::Extension);
            }
            self.state = if self.state == State::Ending { State::Ended } else { State::Ending };
            return Ok(None);
        }
        if self.state == State::Ending {
            return Err(TarError::BehindTheEnd);
        }
        let header = Header::decode(block)?;
        match header.type_flag {
            b'0' | 0 => self.start_entry(&header, Kind::File { executable: header.executable }).map(Some),
            b'5' => self.start_entry(&header, Kind::Folder).map(Some),
            b'L' if header.is_gnu => self.start_extension(Extension::LongName, header.size),
            b'x' => self.start_extension(Extension::Attributes, header.size),
            b'g' => self.start_extension(Extension::AllAttributes, header.size),
            b'1' | b'2' | b'K' => Err(TarError::Link),
            _ => Err(TarError::Special),
        }
    }

    fn start_entry(&mut self, header: &Header, kind: Kind) -> Result<Entry, TarError> {
        let Extensions { long_name, attributes } = std::mem::take(&mut self.extensions);
        let Attributes { path, size } = attributes.unwrap_or_default();
        if size.is_some_and(|size| size != header.size) {
            return Err(TarError::Extension);
        }
        let name = match (long_name, path) {
            (Some(_), Some(_)) => return Err(TarError::Extension),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => header.name.clone()?,
        };
        let is_folder = kind == Kind::Folder;
        if (is_folder && header.size > 0) || (!is_folder && name.ends_with('/')) {
            return Err(TarError::Folder);
        }
        self.has_started = true;
        self.state = data_state(header.size, padding_of(header.size));
        Ok(Entry { name, kind, size: header.size })
    }

    fn start_extension(&mut self, extension: Extension, size: u64) -> Result<Option<Entry>, TarError> {
        let is_misplaced = match extension {
            Extension::LongName => self.extensions.long_name.is_some(),
            Extension::Attributes => self.extensions.attributes.is_some(),
            Extension::AllAttributes => self.has_started,
        };
        if is_misplaced || size == 0 {
            return Err(TarError::Extension);
        }
        self.has_started = true;
        let padding = padding_of(size);
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_EXTENSION_BYTES);
        let size = size.ok_or(TarError::ExtensionTooLong)?;
        self.state = State::Extension { extension, size, padding };
        Ok(None)
    }

    fn extend(&mut self, extension: Extension, content: &[u8]) -> Result<(), TarError> {
        match extension {
            Extension::LongName => {
                // The name is terminated by a zero byte.
                let name = content.strip_suffix(&[0]).ok_or(TarError::Extension)?;
                self.extensions.long_name = Some(name_of(name)?);
            }
            Extension::Attributes => self.extensions.attributes = Some(Attributes::decode(content)?),
            // `git archive` writes one that has only a comment, which is accepted.
            Extension::AllAttributes if Attributes::decode(content)? != Attributes::default() => {
                return Err(TarError::Extension);
            }
            Extension::AllAttributes => {}
        }
        Ok(())
    }
}

fn data_state(left: u64, padding: usize) -> State {
    if left == 0 && padding == 0 { State::Header } else { State::Data { left, padding } }
}

/// Returns how many bytes fill the last block of a content of `size` bytes.
fn padding_of(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
    if over == 0 { 0 } else { BLOCK_BYTES - over }
}

/// Decodes a name that every program reads the same way: UTF-8, not empty, without a zero byte.
fn name_of(bytes: &[u8]) -> Result<String, TarError> {
    let name = std::str::from_utf8(bytes).map_err(|_| TarError::NotUtf8)?;
    if name.is_empty() || name.contains('\0') { Err(TarError::Extension) } else { Ok(name.to_owned()) }
}

/// The used fields of a header block (POSIX.1-2001, "ustar Interchange Format").
#[derive(Debug)]
struct Header {
    /// An error here only matters if no long name replaces it: a shortened name can be cut inside a character.
    name: Result<String, TarError>,
    executable: bool,
    size: u64,
    type_flag: u8,
    is_gnu: bool,
}

impl Header {
    fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Header, TarError> {
        let part = |from: usize, to: usize| block.get(from..to).unwrap_or_default();
        let is_gnu = part(257, 265) == b"ustar  \0";
        if !is_gnu && part(257, 265) != b"ustar\x0000" {
            return Err(TarError::NotTar);
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let checksum_bytes: u64 = part(148, 156).iter().map(|byte| u64::from(*byte)).sum();
        // The checksum is computed as if its own field held spaces.
        if octal(part(148, 156)) != Ok(sum - checksum_bytes + 8 * u64::from(b' ')) {
            return Err(TarError::NotTar);
        }
        // GNU's format has other fields in place of the ustar prefix.
        let prefix = if is_gnu { &[] } else { text(part(345, 500)) };
        let name = match prefix {
            [] => name_of(text(part(0, 100))),
            prefix => name_of(&[prefix, b"/", text(part(0, 100))].concat()),
        };
        Ok(Header {
            name,
            executable: octal(part(100, 108))? & 0o100 != 0,
            size: octal(part(124, 136))?,
            type_flag: part(156, 157).first().copied().unwrap_or_default(),
            is_gnu,
        })
    }
}

/// Returns the bytes before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads an octal number with leading white space and trailing spaces or zero bytes.
fn octal(field: &[u8]) -> Result<u64, TarError> {
    let field = field.trim_ascii_start();
    let digits = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = field.split_at_checked(digits).ok_or(TarError::Number)?;
    if digits.is_empty() || !rest.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return Err(TarError::Number);
    }
    // At most twelve digits, which are 36 bits.
    Ok(digits.iter().fold(0, |number, digit| number << 3 | u64::from(digit - b'0')))
}

impl Attributes {
    /// Reads records `LENGTH KEY=VALUE\n`, where `LENGTH` is that of the whole record.
    fn decode(mut content: &[u8]) -> Result<Attributes, TarError> {
        let mut attributes = Attributes::default();
        while !content.is_empty() {
            let digits = content.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let length = decimal(content.get(..digits).unwrap_or_default()).ok_or(TarError::Extension)?;
            let length = usize::try_from(length).map_err(|_| TarError::Extension)?;
            let (record, rest) = content.split_at_checked(length).ok_or(TarError::Extension)?;
            let record = record.get(digits..).and_then(|record| record.strip_prefix(b" "));
            let record = record.and_then(|record| record.strip_suffix(b"\n")).ok_or(TarError::Extension)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarError::Extension)?;
            let (key, value) = record.split_at_checked(equals).ok_or(TarError::Extension)?;
            attributes.take(key, value.get(1..).unwrap_or_default())?;
            content = rest;
        }
        Ok(attributes)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" if self.path.is_none() => self.path = Some(name_of(value)?),
            b"size" if self.size.is_none() => self.size = Some(decimal(value).ok_or(TarError::Extension)?),
            b"path" | b"size" => return Err(TarError::Extension),
            b"linkpath" => return Err(TarError::Link),
            _ if key.starts_with(b"GNU.sparse.") => return Err(TarError::Special),
            // Times, owners, comments: ignored.
            _ => {}
        }
        Ok(())
    }
}

/// Reads a number of decimal digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
