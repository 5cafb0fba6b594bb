//! A credential on channel `auth` while the embedder's authenticator decides about it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::protocol::session::Request;
use crate::protocol::time::{Millis, Now};

use super::super::authentication::Denied;
use super::super::identity::Identity;

/// Longest time until a credential expires that is used: a longer one is forever too.
const MAX_VALID_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

/// A credential that is being decided about.
pub(super) struct Asking {
    pub(super) request: Request,
    pub(super) deciding: Pin<Box<dyn Future<Output = Result<Identity, Denied>> + Send>>,
}

/// When a credential expires. A jump of the clock later on does not move it.
pub(super) fn expires_at(identity: &Identity, now: Now) -> Option<Millis> {
    let left = identity.expires_at()?.saturating_sub(now.unix_ms).min(MAX_VALID_MS);
    Some(now.at + Duration::from_millis(left))
}
