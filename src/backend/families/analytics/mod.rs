#![doc = include_str!("README.md")]
//! # How it works
//!
//! Statistics (specification, "Analytics Channels"). In: every request, session, call of a model or an artifact, and batch of
//! images, from a [`Recorder`]. Out: totals, rankings and series.
//!
//! ```text
//! requests, sessions ─► observer ─┐
//! ai, imagegen, artifact ─► Recorder ─► sums in memory ─► raw rows ─► sums of hours and days ─► answers
//!                                      (every 5 s, and            └─────────────────────────────────┘
//!                                       before each answer)
//! ```
//!
//! Recording never waits and never fails: records of one hour, sort and name are added up in memory. What is added up is numbers and
//! names; of errors the newest messages are kept too, what clients sent and providers said left out. Raw rows are rolled
//! up, each once, and deleted when they are old; the sums stay. Every answer is made of whole hours in UTC, whether of raw
//! rows or of sums, so rolling up and deleting change none.
//!
//! Used of other families: the number of days from `settings`.
//!
//! What other families may use: `Recorder`, `AiCall`, `ImageBatch`. A handler gets a clone of the recorder from
//! [`register_all`](crate::backend::register_all), and says what it did, failed calls too, with `ai_call`, `images` or `artifact_call`.

mod calendar;
mod channels;
mod config;
mod query;
mod record;
mod store;
#[cfg(test)]
mod tests;
mod upkeep;

pub(crate) use channels::TABLES;
pub use channels::{CHANNELS, TYPES, register};
pub use config::AnalyticsConfig;
pub use record::{AiCall, ImageBatch, Recorder};
pub use upkeep::Analytics;
