#![doc = include_str!("README.md")]
//! # How it works
//!
//! Statistics (specification, "Analytics Channels"). In: every request, session, call of a model or an artifact, and batch of
//! images, from a [`Recorder`]. Out: totals, rankings and series.
//!
//! ```text
//! requests, sessions ─► observer ─┐
//! ai, imagegen, artifact ─► Recorder ─► sums in memory ─► raw rows ─► sums of hours and days ─► responses
//!                                      (every 5 s, and            └───────────────────────────────────┘
//!                                       before each response)
//! ```
//!
//! Recording never waits and never fails: records with the same hour, kind and names are added up in memory. Only numbers and
//! names are recorded, and the newest error messages without the words of clients and providers. Each raw row is rolled up once,
//! and deleted when it is old; the sums are kept. Every result covers whole hours in UTC, whether from raw rows or from sums, so
//! rolling up and deleting do not change it.
//!
//! Uses of other families: the number of days to keep raw rows, from `settings`.
//!
//! What other families may use: `Recorder`, `AiCall`, `ImageBatch`. A handler gets a clone of the recorder from
//! [`register_all`](crate::backend::register_all), and records each call, failed ones too, with `ai_call`, `images` or
//! `artifact_call`.

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
