//! The channel family `code` over a real socket, on a real database file and transcripts on the disk.

mod index;
mod read;
mod restore;
mod setup;
