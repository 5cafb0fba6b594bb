//! The database. In: jobs from handlers. Out: their results, after their changes are on disk.
//!
//! ```text
//! reads by key ─► lookups ──┐
//! searches ─► searches ─────┼─► SQLite       places in the lanes and in the queue are shared fairly by client
//! writes ─► queue ─► writer ┘
//! ```
//!
//! One thread writes. It runs the queued jobs in transactions of a few milliseconds, clients in turn, commits each with one sync, and
//! only then returns the results. A job that fails is rolled back alone. The same thread emits the events of a write after the
//! commit, so events are in the order of the changes. Work that grows with the data, such as removing a large chat, is done in small
//! steps between the transactions. Reads run in parallel, each on one snapshot.

mod database;
mod emitter;
mod limits;
mod open;
mod owner;
mod readers;
mod waiting;
mod write;
mod writer;

pub use database::Db;
pub use limits::DbLimits;
pub use open::{FILE_NAME, OpenError};
pub(crate) use readers::View;
pub(crate) use write::{Change, Progress};
