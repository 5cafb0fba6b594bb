//! What a session knows of its client's credential: who decides about it, and when it expires. Input: verdicts and the time.
//! Output: what is due.

use super::connection::CloseCode;
use super::ending::Ending;
use super::error::WireError;
use super::limits::Limits;
use super::time::Millis;

/// Closes a connection whose credential is missing, wrong or expired.
pub const UNAUTHORIZED: CloseCode = CloseCode::Library(4401);
/// Closes a connection of a client that must not connect, whatever credential it sends.
pub const FORBIDDEN: CloseCode = CloseCode::Library(4403);

/// What the caller of a session has decided about a credential.
#[derive(Debug)]
pub enum Verdict {
    /// It is right, until the given time.
    Accepted(Option<Millis>),
    /// It is wrong, for a reason that the client gets. The client can send another one.
    Unauthorized(String),
    /// The client must not connect, for a reason that it gets. The connection closes.
    Forbidden(String),
    /// The caller could not decide. The client gets the error, and can try again.
    Failed(WireError),
}

/// What is due because of the time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CredentialDue {
    /// The client is to be notified that its credential expires in so many milliseconds.
    Notice(u64),
    Expired,
}

/// Who decides about the credential.
#[derive(Debug, Default)]
pub(super) struct Credential {
    /// Whether the caller decides about `auth`, instead of the token of the rules.
    pub(super) asks_caller: bool,
    /// Whether the client offered `switchboard.v1`.
    pub(super) is_v1: bool,
    /// Whether a verdict is awaited.
    pub(super) is_awaited: bool,
}

/// When a session ends because of its credential, and how it has ended. Few open sessions have any of it.
#[derive(Debug, Default)]
pub(super) struct Term {
    expiry: Option<Expiry>,
    pub(super) ending: Option<Ending>,
}

#[derive(Debug)]
struct Expiry {
    at: Millis,
    /// Taken when the client was notified, or is not to be.
    notice_at: Option<Millis>,
}

impl Term {
    /// Sets when the credential expires. One that is valid for a short time is announced at the half of it: a client that
    /// renews it at once must not be notified again at once.
    pub(super) fn set_expiry(&mut self, at: Option<Millis>, is_v1: bool, now: Millis, limits: &Limits) {
        self.expiry = at.map(|at| {
            let before = limits.expiry_notice.min(at.since(now) / 2);
            let notice_at = Millis(at.0.saturating_sub(millis(before)));
            Expiry { at, notice_at: is_v1.then_some(notice_at) }
        });
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.expiry.as_ref().map(|expiry| expiry.notice_at.unwrap_or(expiry.at))
    }

    /// What is due, once.
    pub(super) fn due(&mut self, now: Millis) -> Option<CredentialDue> {
        let expiry = self.expiry.as_mut()?;
        if now >= expiry.at {
            self.expiry = None;
            return Some(CredentialDue::Expired);
        }
        expiry.notice_at.take_if(|at| now >= *at)?;
        Some(CredentialDue::Notice(millis(expiry.at.since(now))))
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_short_credential_is_announced_at_the_half_of_its_time() {
        let limits = Limits { expiry_notice: Duration::from_secs(30), ..Limits::default() };
        for (valid_ms, notice_ms) in [(0, 0), (1, 1), (5000, 2500), (60_000, 30_000), (600_000, 570_000)] {
            let mut credential = Term::default();
            let now = Millis(7);
            credential.set_expiry(Some(Millis(7 + valid_ms)), true, now, &limits);
            assert_eq!(credential.deadline(), Some(Millis(7 + notice_ms)), "{valid_ms} ms");
            if valid_ms > 1 {
                assert_eq!(credential.due(Millis(6 + notice_ms)), None);
                assert_eq!(
                    credential.due(Millis(7 + notice_ms)),
                    Some(CredentialDue::Notice(valid_ms - notice_ms))
                );
                assert_eq!(credential.due(Millis(6 + valid_ms)), None, "once");
            }
            assert_eq!(credential.due(Millis(7 + valid_ms)), Some(CredentialDue::Expired));
            assert_eq!((credential.due(Millis(u64::MAX)), credential.deadline()), (None, None));
        }
    }
}
