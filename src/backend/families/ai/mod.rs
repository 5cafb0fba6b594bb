#![doc = include_str!("README.md")]
//! # How it works
//!
//! Answers of language models (specification, "AI Channels"). In: a [`ChatRequest`](TYPES). Out: the answer; with
//! `ai:chat-stream` piece by piece.
//!
//! ```text
//! payload ─► request ─► echo                                     ─► chunks ─► events, answer, chat
//!                  └──► upstream (retries) ─► http ─► sse ─► anthropic │ openai ─┘
//! ```
//!
//! Events go to the client that asked, in order, all before the response: `ai:stream-chunk`* and `ai:stream-complete`, or
//! `ai:stream-error`. A client that leaves drops its handler, and with it the connection to the provider.
//!
//! Used of other families: keys of `credentials`, base URLs of `settings`; exchanges are stored by `chat`, calls counted by
//! `analytics`.

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
