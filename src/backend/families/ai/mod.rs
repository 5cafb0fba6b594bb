#![doc = include_str!("README.md")]
//! # How it works
//!
//! Chat requests to language models (specification, "AI Channels"). Input: a [`ChatRequest`](TYPES). Output: the answer, with
//! `ai:chat-stream` also in pieces.
//!
//! ```text
//! payload ─► request ─► echo                                     ─► chunks ─► events, answer, chat
//!                  └──► upstream (retries) ─► http ─► sse ─► anthropic │ openai ─┘
//! ```
//!
//! Events are sent only to the client that asked, in order and before the response: `ai:stream-chunk`* and
//! `ai:stream-complete`, or `ai:stream-error`. When a client leaves, its handler is dropped, which closes the connection to the
//! provider.
//!
//! A provider is a row of `providers.rs`. Its API is a constant in a file of its own, for example `anthropic.rs`.
//!
//! Uses of other families: keys of `credentials`, base URLs of `settings`. Exchanges are stored by `chat`, and requests are
//! counted by `analytics`.

mod anthropic;
mod channels;
mod config;
mod dialect;
mod echo;
mod exchange;
mod handlers;
mod models;
mod openai;
mod providers;
pub mod sse;
mod upstream;

pub use channels::{CHANNELS, TYPES, register};
pub use config::AiConfig;
