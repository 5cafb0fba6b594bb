#![doc = include_str!("README.md")]
//! # How it works
//!
//! Credentials (specification, "Credential Channels"): tokens that clients can store and never read. In: a key, a token,
//! metadata. Out: whether a credential exists, and its metadata. Only the server itself reads tokens, with `token`.
//!
//! A token is encrypted with ChaCha20-Poly1305. The encryption key is the 32 bytes of `switchboard.key`, beside the database.
//! Each encryption has a new nonce, and the credential's key is the associated data. So a copied database reveals no token, and
//! an encrypted token that was moved to another credential cannot be decrypted. Keys and metadata are not encrypted.
//!
//! The key file is created with the first credential. While there are credentials it is never created again or overwritten:
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
