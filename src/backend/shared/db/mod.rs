//! The database. In: jobs from handlers. Out: their results, once what they changed is on the disk.
//!
//! One thread writes. It takes what has come together into one transaction, commits it with one sync, and only then
//! answers; a job that fails is undone alone. What a write tells other clients is emitted by the same thread after the
//! commit, so events come in the order of the changes. Reads run beside it, each on one snapshot.

mod database;
mod emitter;
mod open;
mod write;

pub(crate) use database::View;
pub use database::{Db, DbLimits};
pub use open::{FILE_NAME, OpenError};
pub(crate) use write::Change;
