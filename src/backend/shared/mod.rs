//! What the families share. None of it knows a family.

pub(crate) mod below;
pub(crate) mod channel;
pub(crate) mod clock;
pub mod db;
pub(crate) mod encode;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod origin;
pub(crate) mod provider;
pub mod registry;
pub(crate) mod search;
pub(crate) mod snippet;
pub(crate) mod token;
pub(crate) mod validate;
