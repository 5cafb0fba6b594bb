//! Who is let in: places for what is not finished yet, counts of clients, pauses after wrong tokens, by address; the same counts,
//! and rate windows, by identity. Input: addresses and identities. Output: places, refusals, and the end of what loses its place.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::protocol::admission::{Counts, Recent, Seat, Seats, WrongTokens};
use crate::protocol::handshake::{AddressKey, Head, Network, client_address};
use crate::protocol::rate::RateWindow;
use crate::protocol::time::Millis;

use super::client::Client;
use super::config::Config;
use super::identity::IdentityKey;
use super::metrics::Limited;
use super::same_user::SameUser;

/// How many addresses have a rate window, at most, and how many identities. Then the one whose last client connected longest ago
/// is forgotten.
const KEYS_WITH_WINDOWS: usize = 10_000;
/// Why a client is closed whose identity has too many connections.
pub(super) const TOO_MANY_OF_IDENTITY: &str = "too many clients of this identity";
/// Length from which on a token counts as long, in bytes: 16 random ones of base64 are 96 bits.
const LONG_TOKEN_BYTES: usize = 16;

/// Whether a token is so long that it cannot be guessed.
pub(super) fn is_long(token: &[u8]) -> bool {
    token.len() >= LONG_TOKEN_BYTES
}

/// What clients are counted by; `None` where the embedder has passed no address.
pub(super) type Key = Option<AddressKey>;

/// Where a request of the embedder's own hyper server comes from; see [`Server::upgrade`](super::Server::upgrade).
///
/// From the address of the connection's other end, as `accept` returns it, or from a `bool`: whether the connection came in on
/// a loopback address. Without an address, limits by address do not apply: neither the pause after wrong tokens nor
/// [`Config::max_connections_per_address`].
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub(super) loopback: bool,
    pub(super) address: Option<IpAddr>,
}

impl From<bool> for Peer {
    fn from(loopback: bool) -> Peer {
        Peer { loopback, address: None }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        let address = address.ip().to_canonical();
        Peer { loopback: address.is_loopback(), address: Some(address) }
    }
}

/// What has a place, until it loses it to a newcomer.
pub(super) trait Occupant {
    /// Ends what had the place.
    fn evict(&self);
}

/// A connection in its HTTP phase: its task waits for the notice.
impl Occupant for Notify {
    fn evict(&self) {
        self.notify_one();
    }
}

/// A client that has not authenticated.
impl<S> Occupant for Client<S> {
    fn evict(&self) {
        Client::evict(self, Limited::Unauthenticated);
    }
}

/// Places of one kind; see [`Seats`].
pub(super) struct House<O>(Mutex<Seats<Key, Arc<O>>>);

impl<O: Occupant> House<O> {
    fn new(places: usize) -> Arc<House<O>> {
        Arc::new(House(Mutex::new(Seats::new(places))))
    }

    /// Gives a newcomer a place, and returns whether another has lost its own for it.
    pub(super) fn enter(self: &Arc<Self>, key: Key, occupant: Arc<O>) -> (Place<O>, bool) {
        let (seat, evicted) = self.seats().enter(key, occupant);
        if let Some(occupant) = &evicted {
            occupant.evict();
        }
        (Place { house: self.clone(), seat }, evicted.is_some())
    }

    /// Takes away as many places, if that leaves at least as many. Returns whether it did.
    pub(super) fn make_room(&self, places: usize) -> bool {
        let mut seats = self.seats();
        let is_enough = seats.taken() >= 2 * places;
        let evicted: Vec<Arc<O>> = match is_enough {
            true => (0..places).filter_map(|_| seats.evict()).collect(),
            false => Vec::new(),
        };
        drop(seats);
        evicted.iter().for_each(|occupant| occupant.evict());
        is_enough
    }
}

impl<O> House<O> {
    fn seats(&self) -> MutexGuard<'_, Seats<Key, Arc<O>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a [`House`]. It is free again when this is dropped.
pub(super) struct Place<O> {
    house: Arc<House<O>>,
    seat: Seat,
}

#[cfg(feature = "pages")]
impl<O> Place<O> {
    /// Whether a newcomer has it.
    pub(super) fn is_lost(&self) -> bool {
        !self.house.seats().holds(self.seat)
    }
}

impl<O> fmt::Debug for Place<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("seat", &self.seat).finish_non_exhaustive()
    }
}

impl<O> Drop for Place<O> {
    fn drop(&mut self) {
        // It may be the last handle to what it is, so it is dropped without the lock.
        let occupant = self.house.seats().leave(self.seat);
        drop(occupant);
    }
}

/// The number of clients that need no further authentication.
pub(super) struct Census {
    max: usize,
    total: AtomicUsize,
    by_address: Share<AddressKey>,
    by_identity: Share<IdentityKey>,
}

/// The number of clients of each key. It is counted only if its limit can be reached before that of all clients.
struct Share<K>(Option<Mutex<Counts<K>>>);

impl<K: Copy + Eq + Hash> Share<K> {
    fn new(max: usize, max_in_all: usize) -> Share<K> {
        Share((max < max_in_all).then(|| Mutex::new(Counts::new(max))))
    }

    fn enter(&self, key: Option<K>) -> bool {
        self.counts().zip(key).is_none_or(|(mut counts, key)| counts.enter(key))
    }

    fn leave(&self, key: Option<K>) {
        if let Some((mut counts, key)) = self.counts().zip(key) {
            counts.leave(key);
        }
    }

    fn counts(&self) -> Option<MutexGuard<'_, Counts<K>>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Census {
    fn new(config: &Config) -> Census {
        Census {
            max: config.max_connections,
            total: AtomicUsize::new(0),
            by_address: Share::new(config.max_connections_per_address, config.max_connections),
            by_identity: Share::new(config.max_connections_per_identity, config.max_connections),
        }
    }

    /// Counts one more client, or returns the limit that is reached.
    pub(super) fn enter(&self, address: Key, identity: Option<IdentityKey>) -> Result<(), Limited> {
        if !self.by_address.enter(address) {
            return Err(Limited::Address);
        }
        if !self.by_identity.enter(identity) {
            self.by_address.leave(address);
            return Err(Limited::Identity);
        }
        let one_more = |total: usize| (total < self.max).then_some(total + 1);
        if self.total.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            self.by_address.leave(address);
            self.by_identity.leave(identity);
            return Err(Limited::Connections);
        }
        Ok(())
    }

    /// Counts one client less, which has entered with the same keys.
    pub(super) fn leave(&self, address: Key, identity: Option<IdentityKey>) {
        self.by_address.leave(address);
        self.by_identity.leave(identity);
        self.total.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The rate windows that clients share, by a key of theirs.
struct Windows<K>(Option<Mutex<Recent<K, Arc<Mutex<RateWindow>>>>>);

impl<K: Copy + Eq + Hash> Windows<K> {
    fn new(are_shared: bool) -> Windows<K> {
        Windows(are_shared.then(|| Mutex::new(Recent::new(KEYS_WITH_WINDOWS))))
    }

    fn of(&self, key: Option<K>) -> Option<Arc<Mutex<RateWindow>>> {
        let mut windows = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(windows.touch(key?).clone())
    }
}

/// All of it, for one server. `C` is the client.
pub(super) struct Admission<C> {
    trusted_proxies: Vec<Network>,
    /// Connections whose HTTP request is not answered yet, by the address of the peer.
    pub(super) heads: Arc<House<Notify>>,
    /// Pages that are being made and sent.
    #[cfg(feature = "pages")]
    pub(super) open_pages: Arc<House<Notify>>,
    pub(super) unauthenticated: Arc<House<C>>,
    pub(super) clients: Census,
    wrong_tokens: Mutex<WrongTokens<AddressKey>>,
    /// Whether the right token is accepted during a pause: a long one cannot be guessed, and others at the same address, or a
    /// web page on the same machine, could keep its owner out.
    accepts_in_pause: bool,
    /// With [`Config::same_user`].
    pub(super) same_user: Option<Arc<SameUser>>,
    /// With [`Config::rate_by_address`].
    windows: Windows<AddressKey>,
    /// With [`Config::rate_by_identity`].
    identity_windows: Windows<IdentityKey>,
}

impl<C: Occupant> Admission<C> {
    pub(super) fn new(config: &Config) -> Admission<C> {
        Admission {
            // Those that are not valid are refused when the server starts, and trusted nowhere.
            trusted_proxies: config.trusted_proxies.iter().filter_map(|proxy| proxy.parse().ok()).collect(),
            heads: House::new(config.max_handshakes),
            #[cfg(feature = "pages")]
            open_pages: House::new(config.max_open_pages),
            unauthenticated: House::new(config.max_unauthenticated),
            clients: Census::new(config),
            wrong_tokens: Mutex::new(WrongTokens::new(config.max_wrong_tokens, config.wrong_token_pause)),
            accepts_in_pause: config.token.as_ref().is_some_and(|token| token.len() >= LONG_TOKEN_BYTES),
            same_user: SameUser::new(config),
            windows: Windows::new(config.rate_by_address),
            identity_windows: Windows::new(config.rate_by_identity),
        }
    }

    /// The rate window that all clients of an address share.
    pub(super) fn window(&self, key: Key) -> Option<Arc<Mutex<RateWindow>>> {
        self.windows.of(key)
    }

    /// The rate window that all clients of an identity share.
    pub(super) fn identity_window(&self, key: IdentityKey) -> Option<Arc<Mutex<RateWindow>>> {
        self.identity_windows.of(Some(key))
    }

    /// The address of a request's client.
    pub(super) fn address(&self, head: &Head<'_>, peer: Peer) -> Option<IpAddr> {
        Some(client_address(head, peer.address?, &self.trusted_proxies))
    }

    /// Whether the right token is accepted during a pause.
    pub(super) fn accepts_in_pause(&self) -> bool {
        self.accepts_in_pause
    }

    /// How long tokens from an address are still refused.
    pub(super) fn wait(&self, key: Key, now: Millis) -> Option<Duration> {
        self.wrong_tokens().wait(key?, now)
    }

    /// Counts wrong tokens.
    pub(super) fn add_wrong_tokens(&self, key: Key, count: u32, now: Millis) {
        if let Some(address) = key {
            self.wrong_tokens().add(address, count, now);
        }
    }

    fn wrong_tokens(&self) -> MutexGuard<'_, WrongTokens<AddressKey>> {
        self.wrong_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
