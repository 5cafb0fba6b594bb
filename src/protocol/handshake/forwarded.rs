//! Where a request comes from: the address that clients are counted by, and the one that proxies name in `X-Forwarded-For`.

use core::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;

use super::head::Head;

/// What clients are counted by: an IPv4 address, or the /64 network of an IPv6 address, which one host often has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey(NonZeroU64);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> AddressKey {
        // No other host has an IPv6 address below 100::/8 (RFC 4291, section 2.4), so no network has the number of an IPv4
        // address, or that of ::1.
        let number = match address.to_canonical() {
            IpAddr::V4(address) => 1 << 32 | u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        AddressKey(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

/// A network like `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether an address is in the network. An IPv4 address written as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        // A shift by all bits leaves nothing to compare.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or_default() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| ())?.into())),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(max);
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
        match (address, address.to_canonical()) {
            _ if bits > max => Err(()),
            (IpAddr::V6(_), canonical @ IpAddr::V4(_)) if bits >= 96 => {
                Ok(Network { address: canonical, bits: bits - 96 })
            }
            (address, _) => Ok(Network { address, bits }),
        }
    }
}

/// The client's address: that of the other end of the connection, or, if this is a trusted proxy, the last one in
/// `X-Forwarded-For` that is not. Each proxy appends the address from which it got the request, so the client can have
/// written only what comes before that. If an entry that counts is not an address, the client is not known: it counts as its
/// proxy.
pub fn client_address(head: &Head<'_>, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let lines: Vec<&[u8]> = head.values("x-forwarded-for").collect();
    let mut entries = lines.iter().rev().flat_map(|line| line.rsplit(|&byte| byte == b',')).map(address);
    entries.find(|entry| !entry.is_some_and(is_trusted)).flatten().unwrap_or(peer)
}

/// An address, with a port or without. Some proxies write one.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_ascii();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}
