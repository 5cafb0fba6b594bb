//! Which clients are in which groups. Input: names, keys of clients, and values for them. Output: the members of a group and the
//! groups of a member. What is empty is not kept, and what is kept is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Longest name of a group, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Why a member cannot join a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// It is in this many groups, which is the limit.
    TooManyOfMember(usize),
    /// There are this many groups, which is the limit.
    TooMany(usize),
    /// The name has this many bytes; from 1 to [`MAX_NAME_BYTES`] are allowed.
    NameLength(usize),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::TooManyOfMember(max) => write!(f, "already in {max} groups, {max} allowed"),
            JoinError::TooMany(max) => write!(f, "there are {max} groups, {max} allowed"),
            JoinError::NameLength(bytes) => {
                write!(f, "name of a group has {bytes} bytes, 1 to {MAX_NAME_BYTES} allowed")
            }
        }
    }
}

impl std::error::Error for JoinError {}

/// Groups of members, which have keys `K` and values `V`.
///
/// A call takes time in proportion to the logarithm of the numbers, and a walk over a group in proportion to its members.
#[derive(Debug)]
pub struct Groups<K, V> {
    max_groups: usize,
    max_of_member: usize,
    // Trees, because a hash table keeps its size when it empties.
    members: BTreeMap<Arc<str>, BTreeMap<K, V>>,
    names: BTreeMap<K, BTreeSet<Arc<str>>>,
}

impl<K: Copy + Ord, V> Groups<K, V> {
    /// No group yet, and never more than `max_groups`, nor more than `max_of_member` of one member.
    pub fn new(max_groups: usize, max_of_member: usize) -> Groups<K, V> {
        Groups { max_groups, max_of_member, members: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// Puts a member into a group. Does nothing if it is in it.
    ///
    /// # Errors
    /// When that would be over a limit.
    pub fn join(&mut self, name: &str, key: K, value: V) -> Result<(), JoinError> {
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
            return Err(JoinError::NameLength(name.len()));
        }
        let own = self.names.get(&key);
        if own.is_some_and(|own| own.contains(name)) {
            return Ok(());
        }
        if own.map_or(0, BTreeSet::len) >= self.max_of_member {
            return Err(JoinError::TooManyOfMember(self.max_of_member));
        }
        let name: Arc<str> = match self.members.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None if self.members.len() >= self.max_groups => return Err(JoinError::TooMany(self.max_groups)),
            None => name.into(),
        };
        self.members.entry(name.clone()).or_default().insert(key, value);
        self.names.entry(key).or_default().insert(name);
        Ok(())
    }

    /// Removes a member from a group. Returns whether it was in it.
    pub fn leave(&mut self, name: &str, key: K) -> bool {
        let Some(own) = self.names.get_mut(&key) else { return false };
        let was_in = own.remove(name);
        if own.is_empty() {
            self.names.remove(&key);
        }
        if was_in {
            self.remove(name, key);
        }
        was_in
    }

    /// Removes a member from all its groups.
    pub fn leave_all(&mut self, key: K) {
        let Some(own) = self.names.remove(&key) else { return };
        for name in own {
            self.remove(&name, key);
        }
    }

    fn remove(&mut self, name: &str, key: K) {
        if let Some(members) = self.members.get_mut(name) {
            members.remove(&key);
            if members.is_empty() {
                self.members.remove(name);
            }
        }
    }

    /// The members of a group, in the order of their keys.
    pub fn members(&self, name: &str) -> impl Iterator<Item = (K, &V)> {
        self.members.get(name).into_iter().flatten().map(|(key, value)| (*key, value))
    }

    /// The groups of a member, in the order of their names.
    pub fn of(&self, key: K) -> impl Iterator<Item = &Arc<str>> {
        self.names.get(&key).into_iter().flatten()
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
