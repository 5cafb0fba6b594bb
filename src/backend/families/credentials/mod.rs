#![doc = include_str!("README.md")]
//! # How it works
//!
//! Credentials (specification, "Credential Channels"): tokens that go in and never come out. In: a key, a token, metadata.
//! Out: whether there is one, and its metadata; for the server's own use `token`.
//!
//! A token is sealed with ChaCha20-Poly1305 under the 32 bytes of `switchboard.key`, which lies beside the database, with
//! a fresh nonce for each seal and the credential's key as associated data: a copied database gives nothing away, and a
//! sealed token that was moved to another key does not open. Keys and metadata are not sealed.
//!
//! The key file is made with the first credential. Once there are credentials it is never made again nor written over:
//! without it, or with another one, tokens can be neither read nor added, and the error says so.
//!
//! What other families may use: `token` and [`Token`].

mod channels;
mod seal;
mod store;

pub use crate::backend::shared::token::Token;
pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub use seal::KEY_FILE_NAME;
pub(crate) use store::token;
