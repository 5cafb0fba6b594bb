//! Who a client is: what an authenticator returns, and what belongs to a client beside it. Input: values of the embedder.
//! Output: the same values, shared, until the connection ends.

use std::any::{Any, TypeId};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::config::ClientId;

/// A value of any type that several tasks can use.
type Shared = Arc<dyn Any + Send + Sync>;

/// Who takes turns with others, and what is counted together: the connections of one identity, or one connection without an
/// identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    Connection(ClientId),
    Identity(IdentityKey),
}

/// A short key for the id of an identity. It is the same for each connection of the
/// identity, at the same time or later, so nothing must be remembered for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IdentityKey([u64; 2]);

/// Random, so that no client can choose an id with the key of another one.
static SEEDS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);

impl IdentityKey {
    fn new(id: &str) -> IdentityKey {
        IdentityKey(SEEDS.each_ref().map(|hasher| hasher.hash_one(id)))
    }
}

/// Who a client is. A clone is another handle to the same identity.
///
/// Several connections can have the same identity, as when a user has two tabs open: those whose [`id`](Identity::id) is equal.
///
/// ```
/// use switchboard::Identity;
///
/// struct User { name: String }
///
/// let identity = Identity::new("user:7").data(User { name: "Ada".to_owned() });
/// assert_eq!(identity.id(), "user:7");
/// assert_eq!(identity.get_data::<User>().map(|user| &*user.name), Some("Ada"));
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: Arc<str>,
    key: IdentityKey,
    expires_at_unix_ms: Option<u64>,
    data: Option<Shared>,
}

impl Identity {
    /// An identity without data that does not expire.
    pub fn new(id: impl Into<String>) -> Identity {
        let id: Arc<str> = id.into().into();
        let key = IdentityKey::new(&id);
        Identity(Arc::new(Inner { id, key, expires_at_unix_ms: None, data: None }))
    }

    /// The same identity with a time, in Unix ms, at which its credential expires.
    ///
    /// ```
    /// let identity = switchboard::Identity::new("user:7").expires_at_unix_ms(1_900_000_000_000);
    /// assert_eq!(identity.expires_at(), Some(1_900_000_000_000));
    /// ```
    #[must_use]
    pub fn expires_at_unix_ms(mut self, unix_ms: u64) -> Identity {
        Arc::make_mut(&mut self.0).expires_at_unix_ms = Some(unix_ms);
        self
    }

    /// The same identity with a value for handlers, as [`RequestContext::data`](super::RequestContext::data) returns it. It
    /// replaces an earlier one.
    #[must_use]
    pub fn data<T: Send + Sync + 'static>(mut self, data: T) -> Identity {
        Arc::make_mut(&mut self.0).data = Some(Arc::new(data));
        self
    }

    /// The name of the user, or whatever else the embedder tells clients apart by.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    pub(super) fn shared_id(&self) -> Arc<str> {
        self.0.id.clone()
    }

    pub(super) fn key(&self) -> IdentityKey {
        self.0.key
    }

    /// When the credential expires, in Unix ms; `None` if it does not.
    pub fn expires_at(&self) -> Option<u64> {
        self.0.expires_at_unix_ms
    }

    /// The value for handlers; `None` if there is none of this type.
    pub fn get_data<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.data.as_ref()?.downcast_ref()
    }

    /// The value for handlers, shared; `None` if there is none of this type.
    pub(super) fn shared_data<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.data.clone()?.downcast().ok()
    }
}

impl fmt::Debug for Identity {
    /// Shows the id. The data can be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// What belongs to one client until its connection ends. Few clients have anything, so it is made when it is first needed.
#[derive(Default)]
pub(super) struct Belongings(Mutex<Owned>);

#[derive(Default)]
struct Owned {
    identity: Option<Identity>,
    /// One value of each type. There are as many as the embedder's source has types for it.
    data: Vec<(TypeId, Shared)>,
}

impl Belongings {
    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.owned().identity.clone()
    }

    /// Sets the identity. What it replaces is dropped after the lock is released: it can be code of the embedder.
    pub(super) fn set_identity(&self, identity: Identity) {
        let replaced = self.owned().identity.replace(identity);
        drop(replaced);
    }

    pub(super) fn data<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let owned = self.owned();
        let (_, value) = owned.data.iter().find(|(kind, _)| *kind == TypeId::of::<T>())?;
        value.clone().downcast().ok()
    }

    /// Stores a value unless the connection has ended: `is_current` is asked while nothing can be released.
    pub(super) fn set_data<T: Send + Sync + 'static>(
        &self,
        value: Arc<T>,
        is_current: impl FnOnce() -> bool,
    ) {
        let kind = TypeId::of::<T>();
        let mut owned = self.owned();
        if !is_current() {
            return;
        }
        let replaced = match owned.data.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, stored)) => Some(std::mem::replace(stored, value)),
            None => {
                owned.data.push((kind, value));
                None
            }
        };
        drop(owned);
        drop(replaced);
    }

    /// Drops the data, because the connection has ended. The identity stays: a log may name it.
    pub(super) fn release(&self) {
        let released = std::mem::take(&mut self.owned().data);
        drop(released);
    }
}
