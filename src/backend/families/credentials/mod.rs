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
//! A token of a provider belongs to the origins (scheme, host, port) of the base URLs that are set when it is stored. They are
//! encrypted together with it, and it is sent to no other one. If the families `ai` and `imagegen` use the same credential with
//! two base URLs, it belongs to both. Before version 8 of the tables tokens were encrypted alone. These belong to the base URLs
//! that were set when the tables got that version; the next start with the key file encrypts them anew.
//!
//! The key file is created with the first credential. While there are credentials it is never created again or overwritten:
//! without it, or with another one, tokens can be neither read nor added, and the error says so.
//!
//! Uses of other families: base URLs of `settings`.
//!
//! What other families may use: `access`, [`Origin`] and [`Token`].

mod access;
mod channels;
mod seal;
mod store;

pub use crate::backend::shared::origin::{Origin, OriginError};
pub use crate::backend::shared::token::Token;
pub(crate) use access::access;
pub use channels::{CHANNELS, TYPES, register};
pub(crate) use channels::{ORIGINS, TABLES};
pub use seal::KEY_FILE_NAME;
pub(crate) use store::seal_origins;
