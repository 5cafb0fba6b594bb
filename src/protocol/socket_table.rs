//! Linux's tables of TCP sockets, `/proc/net/tcp` and `tcp6`: which user owns the other end of a connection on this machine.
//! Input: lines of those files, and of `/proc/self/status`. Output: both ends of a socket, and its owner.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::HashMap;

/// A socket of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its own end. An IPv4 address in `tcp6` is given as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The user who opened it; `None` if no process has it any more. Linux then writes 0, which is the number of root.
    pub owner: Option<u32>,
}

impl Socket {
    /// Reads a line; `None` if it describes no socket, as the first line of a table.
    pub fn parse(line: &str) -> Option<Socket> {
        // sl local remote st tx:rx tr:tm retrnsmt uid timeout inode
        let mut fields = line.split_ascii_whitespace();
        let (local, remote) = (end(fields.nth(1)?)?, end(fields.next()?)?);
        let owner = fields.nth(4)?.parse().ok()?;
        let inode: u64 = fields.nth(1)?.parse().ok()?;
        Some(Socket { local, remote, owner: (inode != 0).then_some(owner) })
    }
}

/// An address and a port like `0100007F:0BB9`. The address is in words of 32 bits, in the byte order of the machine.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at..at + 8).filter(|digits| !digits.starts_with('+'))?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// The effective user of a process, from the text of its `status`.
pub fn user_of_process(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Both ends of connections, whose other ends are looked up.
#[derive(Debug)]
pub struct Search {
    /// Of each end, as it is in the table: which connection, and whether the end is the other one.
    ends: HashMap<(SocketAddr, SocketAddr), (usize, bool)>,
    found: Vec<Found>,
    missing: usize,
}

/// What was found of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// The owner of the other end, as in [`Socket`]; `None` if that end was not found.
    pub other: Option<Option<u32>>,
    /// Whether this end was found. If not, the table does not tell anything.
    pub own: bool,
}

impl Search {
    /// Begins a search for connections, each with its own and its other end.
    pub fn new(connections: impl Iterator<Item = (SocketAddr, SocketAddr)>) -> Search {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let mut search = Search { ends: HashMap::new(), found: Vec::new(), missing: 0 };
        for (own, other) in connections.map(|(own, other)| (canonical(own), canonical(other))) {
            search.ends.insert((own, other), (search.found.len(), false));
            search.ends.insert((other, own), (search.found.len(), true));
            search.found.push(Found::default());
        }
        search.missing = search.found.len();
        search
    }

    /// Reads a line of a table. Returns whether further lines can tell more.
    pub fn read(&mut self, line: &str) -> bool {
        if let Some(socket) = Socket::parse(line)
            && let Some(&(index, is_other)) = self.ends.get(&(socket.local, socket.remote))
            && let Some(found) = self.found.get_mut(index)
        {
            if !is_other {
                found.own = true;
            } else if found.other.is_none_or(|owner| owner.is_none()) {
                self.missing -= usize::from(socket.owner.is_some());
                found.other = Some(socket.owner);
            }
        }
        self.missing > 0
    }

    /// What was found, in the order of the connections.
    pub fn found(&self) -> &[Found] {
        &self.found
    }
}
