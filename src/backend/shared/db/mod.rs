//! The database. In: jobs from handlers. Out: their results, after their changes are on disk.
//!
//! One thread writes. It runs all queued jobs in one transaction, commits it with one sync, and only then returns the results.
//! A job that fails is rolled back alone. The same thread emits the events of a write after the commit, so events are in the
//! order of the changes. Reads run in parallel, each on one snapshot.

mod database;
mod emitter;
mod open;
mod write;

pub(crate) use database::View;
pub use database::{Db, DbLimits};
pub use open::{FILE_NAME, OpenError};
pub(crate) use write::Change;
