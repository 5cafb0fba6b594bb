//! Reading tar archives. In: the bytes of an archive, cut anywhere. Out: its files and folders, or why it is refused.
//!
//! The formats are ustar, and what GNU tar and the pax tools write around it: long names. Nothing else is an archive here:
//! no links, devices, pipes, sparse files, volumes, and nothing that two programs could read differently, such as a size
//! that is said twice and not the same. What the names say is not judged here.
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
//!         Some(Item::Data(bytes)) => println!("{} of them", bytes.len()),
//!         None => {}
//!     }
//!     rest = &rest[consumed..];
//! }
//! decoder.finish()
//! # }
//! ```

use std::fmt;

/// What an archive is made of.
pub const BLOCK_BYTES: usize = 512;
/// Longest name, in bytes, and most bytes that may stand in a header of long names. Longer ones are refused.
///
/// 64 KiB: what the pax tools of one system or another put beside a name fits many times over.
pub const MAX_EXTENSION_BYTES: usize = 64 << 10;

/// A file or a folder in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands there.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// How many bytes follow as [`Item::Data`].
    pub size: u64,
}

/// What an entry is.
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

/// What comes out of an archive.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An entry begins.
    Entry(Entry),
    /// The next bytes of the entry that has begun last.
    Data(&'a [u8]),
}

/// Why an archive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarError {
    /// It ends before its end.
    Truncated,
    /// A header is not that of a tar archive, or is damaged.
    NotTar,
    /// A number in a header is not written in octal digits.
    Number,
    /// A link, symbolic or hard.
    Link,
    /// A device, a pipe, a sparse file, or another thing than a file or a folder.
    Special,
    /// A name that is not UTF-8.
    NotUtf8,
    /// A header with a long name, or with attributes, is too long.
    ExtensionTooLong,
    /// A header with a long name, or with attributes, cannot be read, or stands where it says nothing or two things.
    Extension,
    /// A folder that has content, or a file whose name is a folder's.
    Folder,
    /// Bytes behind the end.
    BehindTheEnd,
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TarError::Truncated => "an archive that is cut off",
            TarError::NotTar => "no tar archive, or a damaged one",
            TarError::Number => "an archive with a number that is not octal",
            TarError::Link => "a link",
            TarError::Special => "something else than a file or a folder",
            TarError::NotUtf8 => "a name that is not UTF-8",
            TarError::ExtensionTooLong => "an extended header that is too long",
            TarError::Extension => "an extended header that cannot be read or is ambiguous",
            TarError::Folder => "a folder with content, or a file with a folder's name",
            TarError::BehindTheEnd => "an archive with bytes behind its end",
        })
    }
}

impl std::error::Error for TarError {}

/// Reads one archive. Each call of [`handle`](Decoder::handle) says how much it took; an error is final.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The block or the extension that is not complete.
    held: Vec<u8>,
    extensions: Extensions,
    /// Whether an entry, or attributes for all of them, have been there.
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Bytes of the entry, then of what fills its last block up.
    Data {
        left: u64,
        padding: usize,
    },
    Extension {
        sort: Extension,
        size: usize,
        padding: usize,
    },
    /// One of the two empty blocks at the end was there.
    Ending,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    /// GNU's: the next entry's name.
    LongName,
    /// Those of pax: attributes of the next entry.
    Attributes,
    /// Those of pax: attributes of all entries.
    AllAttributes,
}

/// What the extensions before an entry say of it.
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
    /// A decoder at the beginning of an archive.
    pub fn new() -> Decoder {
        Decoder { state: State::Header, held: Vec::new(), extensions: Extensions::default(), begun: false }
    }

    /// Reads on, up to the next item, and answers how many bytes it has taken: at least one.
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
            State::Extension { sort, size, padding } => {
                let taken = self.hold(input, size + padding);
                if self.held.len() == size + padding {
                    self.held.truncate(size);
                    let content = std::mem::take(&mut self.held);
                    self.extend(sort, &content)?;
                    self.state = State::Header;
                }
                Ok((taken, None))
            }
            State::Ended if input.iter().all(|byte| *byte == 0) => Ok((input.len(), None)),
            State::Ended => Err(TarError::BehindTheEnd),
        }
    }

    /// Says whether the archive was whole.
    ///
    /// # Errors
    /// When it was not.
    pub fn finish(&self) -> Result<(), TarError> {
        if self.state == State::Ended { Ok(()) } else { Err(TarError::Truncated) }
    }

    /// How much is held between two calls, in bytes.
    pub fn held_bytes(&self) -> usize {
        let attributes = self.extensions.attributes.as_ref().and_then(|attributes| attributes.path.as_ref());
        let names = [&self.extensions.long_name.as_ref(), &attributes];
        self.held.capacity() + names.iter().filter_map(|name| name.map(String::capacity)).sum::<usize>()
    }

    /// Takes bytes until so many are held.
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
        match header.sort {
            b'0' | 0 => self.begin(&header, Kind::File { executable: header.executable }).map(Some),
            b'5' => self.begin(&header, Kind::Folder).map(Some),
            b'L' if header.is_gnu => self.begin_extension(Extension::LongName, header.size),
            b'x' => self.begin_extension(Extension::Attributes, header.size),
            b'g' => self.begin_extension(Extension::AllAttributes, header.size),
            b'1' | b'2' | b'K' => Err(TarError::Link),
            _ => Err(TarError::Special),
        }
    }

    fn begin(&mut self, header: &Header, kind: Kind) -> Result<Entry, TarError> {
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
        self.begun = true;
        self.state = data_state(header.size, padding_of(header.size));
        Ok(Entry { name, kind, size: header.size })
    }

    fn begin_extension(&mut self, sort: Extension, size: u64) -> Result<Option<Entry>, TarError> {
        let is_misplaced = match sort {
            Extension::LongName => self.extensions.long_name.is_some(),
            Extension::Attributes => self.extensions.attributes.is_some(),
            Extension::AllAttributes => self.begun,
        };
        if is_misplaced || size == 0 {
            return Err(TarError::Extension);
        }
        self.begun = true;
        let padding = padding_of(size);
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_EXTENSION_BYTES);
        let size = size.ok_or(TarError::ExtensionTooLong)?;
        self.state = State::Extension { sort, size, padding };
        Ok(None)
    }

    fn extend(&mut self, sort: Extension, content: &[u8]) -> Result<(), TarError> {
        match sort {
            Extension::LongName => {
                // The name, and the zero byte that ends it.
                let name = content.strip_suffix(&[0]).ok_or(TarError::Extension)?;
                self.extensions.long_name = Some(name_of(name)?);
            }
            Extension::Attributes => self.extensions.attributes = Some(Attributes::decode(content)?),
            // As `git archive` writes one, with a comment.
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

/// How many bytes fill up the last block of a content.
fn padding_of(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
    if over == 0 { 0 } else { BLOCK_BYTES - over }
}

/// A name, which is one for any program: not empty, UTF-8, and without a byte at which another would end it.
fn name_of(bytes: &[u8]) -> Result<String, TarError> {
    let name = std::str::from_utf8(bytes).map_err(|_| TarError::NotUtf8)?;
    if name.is_empty() || name.contains('\0') { Err(TarError::Extension) } else { Ok(name.to_owned()) }
}

/// What is used of a header block (POSIX.1-2001, "ustar Interchange Format").
#[derive(Debug)]
struct Header {
    /// Not an error unless it is needed: in front of a long name stands whatever is left of it.
    name: Result<String, TarError>,
    executable: bool,
    size: u64,
    sort: u8,
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
        let own: u64 = part(148, 156).iter().map(|byte| u64::from(*byte)).sum();
        // The sum is taken as if spaces stood in its place.
        if octal(part(148, 156)) != Ok(sum - own + 8 * u64::from(b' ')) {
            return Err(TarError::NotTar);
        }
        // GNU's own format has other things where ustar has the beginning of a long name.
        let prefix = if is_gnu { &[] } else { text(part(345, 500)) };
        let name = match prefix {
            [] => name_of(text(part(0, 100))),
            prefix => name_of(&[prefix, b"/", text(part(0, 100))].concat()),
        };
        Ok(Header {
            name,
            executable: octal(part(100, 108))? & 0o100 != 0,
            size: octal(part(124, 136))?,
            sort: part(156, 157).first().copied().unwrap_or_default(),
            is_gnu,
        })
    }
}

/// What stands before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, with spaces before them and spaces or zero bytes behind.
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
    /// Reads records `LENGTH KEY=VALUE\n`, each as long as it says.
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
            // Times, owners, comments and the like: nothing of them is kept.
            _ => {}
        }
        Ok(())
    }
}

/// A number in decimal digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
