//! Who is let in, where requests come from, and who owns a socket, compared with naive implementations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use switchboard::protocol::admission::{Counts, Recent, Seat, Seats, WrongTokens};
use switchboard::protocol::handshake::{self, AddressKey, Head, Network};
use switchboard::protocol::quota::Quotas;
use switchboard::protocol::socket_table::{self, Found, Search, Socket};
use switchboard::protocol::time::Millis;

use super::Choices;

/// A newcomer always gets a place. When there are too few, the loser is the oldest of those that hold most, by counting all of
/// them. A key that holds no more than its share never loses. Wrong tokens pause a key exactly while its debt, which time pays
/// off, is too high. Each key is let in while it has fewer than its maximum, by counting what it has. Of the values by key, those used last are kept. The client's address is the last one that is not a proxy.
/// A socket is read as it was written.
pub fn admission(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.byte() % 5 {
        0 => seats(choices),
        1 => wrong_tokens(choices),
        2 => {
            quotas(Choices::new(data.get(1..).unwrap_or_default()));
            counts(Choices::new(data.get(1..).unwrap_or_default()));
            recent(choices);
        }
        3 => forwarded(choices),
        _ => sockets(choices),
    }
}

/// No window of a key lets more through than its maximum, and a refused key can do it again exactly when it is told. What a key
/// may do depends on its own uses since it was last forgotten, by counting all of them.
fn quotas(mut choices: Choices<'_>) {
    let (max, max_keys) = (u32::from(choices.byte() % 4), usize::from(choices.byte() % 5));
    let window = Duration::from_millis(u64::from(choices.byte()));
    let mut quotas = Quotas::new(max, window, max_keys);
    // Every use in order: the key, when, and whether it passed.
    let mut uses: Vec<(u8, Millis, bool)> = Vec::new();
    let mut now = Millis(0);
    while !choices.is_empty() {
        let byte = choices.byte();
        now = now + Duration::from_millis(u64::from(byte >> 3));
        let key = byte & 7;
        let result = quotas.check(key, now);
        quota_is_right(&uses, (max, window, max_keys.max(1)), key, now, result);
        uses.push((key, now, result.is_ok()));
        assert!(quotas.keys() <= max_keys.max(1));
    }
}

pub fn quota_is_right(
    uses: &[(u8, Millis, bool)],
    (max, window, max_keys): (u32, Duration, usize),
    key: u8,
    now: Millis,
    result: Result<(), Duration>,
) {
    // It is forgotten by that many other keys since its last use.
    let mut since_last = std::collections::BTreeSet::new();
    let known_from = uses.iter().enumerate().rev().scan(uses.len(), |from, (at, (used, _, _))| {
        if *used == key {
            (since_last.len() < max_keys).then(|| {
                since_last.clear();
                *from = at;
                at
            })
        } else {
            since_last.insert(*used);
            Some(*from)
        }
    });
    let from = known_from.min().unwrap_or(uses.len());
    let own = uses[from..].iter().filter(|(used, _, _)| *used == key).map(|(_, at, passed)| (*at, *passed));
    let (mut ends_at, mut passed) = (Millis(0), 0);
    for (at, did_pass) in own {
        if at >= ends_at {
            (ends_at, passed) = (at + window, 0);
        }
        passed += u32::from(did_pass);
    }
    if now >= ends_at {
        (ends_at, passed) = (now + window, 0);
    }
    let expected = if passed < max { Ok(()) } else { Err(ends_at.since(now)) };
    assert_eq!(result, expected, "key {key} at {now:?}");
}

fn counts(mut choices: Choices<'_>) {
    let max = usize::from(choices.byte() % 4);
    let mut counts = Counts::new(max);
    let mut entered: Vec<u8> = Vec::new();
    while !choices.is_empty() {
        let byte = choices.byte();
        let key = byte & 7;
        if byte & 0x80 == 0 {
            let is_let_in = counts.enter(key);
            count_is_right(&entered, max, key, is_let_in);
            entered.extend(is_let_in.then_some(key));
        } else {
            // Also of one that has none, which changes nothing.
            counts.leave(key);
            entered.iter().position(|other| *other == key).map(|at| entered.remove(at));
        }
        let keys: std::collections::BTreeSet<_> = entered.iter().collect();
        assert_eq!(counts.keys(), keys.len(), "keys that have any");
    }
}

pub fn count_is_right(entered: &[u8], max: usize, key: u8, is_let_in: bool) {
    let count = entered.iter().filter(|other| **other == key).count();
    assert_eq!(is_let_in, count < max, "{key} has {count} of {max}");
}

fn seats(mut choices: Choices<'_>) {
    let max = usize::from(choices.byte() % 9);
    let mut seats = Seats::new(max);
    let mut taken: Vec<(Seat, u8)> = Vec::new();
    // All places that were given; what has one is its index.
    let (mut all, mut left) = (Vec::new(), Vec::new());
    while !choices.is_empty() {
        let byte = choices.byte();
        if byte < 192 {
            let (seat, evicted) = seats.enter(byte % 7, all.len());
            all.push(seat);
            let evicted = evicted.map(|index| all[index]);
            seat_is_right(&mut taken, max.max(1), byte % 7, (seat, evicted));
            left.extend(evicted);
        } else if byte == 192 {
            let evicted = seats.evict().map(|index: usize| all[index]);
            assert_eq!(evicted, loser(&taken).map(|at| taken.remove(at).0));
            left.extend(evicted);
        } else if byte < 208 && !left.is_empty() {
            // Again: that place may be another's for long.
            assert_eq!(seats.leave(left[usize::from(byte) % left.len()]), None);
        } else if !taken.is_empty() {
            let (seat, _) = taken.remove(usize::from(byte) % taken.len());
            assert_eq!(seats.leave(seat).map(|index| all[index]), Some(seat));
            left.push(seat);
        }
        assert_eq!(seats.taken(), taken.len());
        assert!(
            taken.iter().all(|(seat, _)| seats.holds(*seat)) && !left.iter().any(|seat| seats.holds(*seat))
        );
    }
}

/// Checks a place, and updates the list of those that are taken, in order.
pub fn seat_is_right(
    taken: &mut Vec<(Seat, u8)>,
    max: usize,
    key: u8,
    (seat, evicted): (Seat, Option<Seat>),
) {
    assert!(taken.iter().all(|(other, _)| *other < seat), "{seat:?} is not new");
    taken.push((seat, key));
    let expected = if taken.len() > max { loser(taken) } else { None };
    if let Some(at) = expected {
        let holders = (0..7).filter(|key| count(taken, *key) > 0).count();
        assert!(count(taken, taken[at].1) * holders > max, "{} holds no more than its share", taken[at].1);
    }
    assert_eq!(evicted, expected.map(|at| taken.remove(at).0));
    assert_ne!(evicted, Some(seat), "the newcomer loses its place");
}

fn count(taken: &[(Seat, u8)], key: u8) -> usize {
    taken.iter().filter(|(_, other)| *other == key).count()
}

/// The first place of a key that holds most.
fn loser(taken: &[(Seat, u8)]) -> Option<usize> {
    let most = taken.iter().map(|(_, key)| count(taken, *key)).max()?;
    taken.iter().position(|(_, key)| count(taken, *key) == most)
}

fn wrong_tokens(mut choices: Choices<'_>) {
    let (max, pause) = (u32::from(choices.byte() % 12), u64::from(choices.byte()) * 10);
    let mut wrong = WrongTokens::new(max, Duration::from_millis(pause));
    // By key: what it owes, in ms, and since when.
    let mut debts = [(0_u64, 0_u64); 4];
    let mut now = 0;
    while !choices.is_empty() {
        now += u64::from(choices.pick(&[0_u32, 0, 1, 7, 100, 999, 5_000]));
        let byte = choices.byte();
        let (key, count) = (byte % 4, u32::from(byte >> 2) % 5);
        for (key, (owed, since)) in debts.iter().enumerate() {
            let owed = owed.saturating_sub(now - since);
            wait_is_right(owed, max, pause, wrong.wait(key as u8, Millis(now)));
        }
        let (owed, since) = debts[usize::from(key)];
        debts[usize::from(key)] = (owed.saturating_sub(now - since) + pause * u64::from(count), now);
        wrong.add(key, count, Millis(now));
    }
}

pub fn wait_is_right(owed: u64, max: u32, pause: u64, wait: Option<Duration>) {
    let allowed = pause * u64::from(max.max(1) - 1);
    let expected = owed.saturating_sub(allowed);
    assert_eq!(
        wait.map_or(0, |wait| wait.as_millis()),
        u128::from(expected),
        "{owed} ms of {pause} ms × {max}"
    );
    assert_ne!(wait, Some(Duration::ZERO), "a wait of nothing is none");
}

fn recent(mut choices: Choices<'_>) {
    let max = usize::from(choices.byte() % 6);
    let mut recent: Recent<u8, u32> = Recent::new(max);
    let mut values: Vec<(u8, u32)> = Vec::new();
    while !choices.is_empty() {
        let key = choices.byte() % 9;
        let value = match values.iter().position(|(other, _)| *other == key) {
            Some(at) => values.remove(at).1,
            None => 0,
        };
        values.push((key, value + 1));
        values.drain(..values.len().saturating_sub(max.max(1)));
        *recent.touch(key) += 1;
        for key in 0..9 {
            let known = values.iter().find(|(other, _)| *other == key).map(|(_, value)| value);
            assert_eq!(recent.peek(key), known, "of {key}");
        }
    }
}

/// The bytes are: the peer, then lines of `X-Forwarded-For`.
fn forwarded(mut choices: Choices<'_>) {
    let trusted = ["10.0.0.0/8", "192.168.1.7", "fd00::/9", "::1", "::ffff:172.16.0.0/108"];
    let networks: Vec<Network> = trusted.iter().map(|text| text.parse().expect("a network")).collect();
    let peer = choices.pick(&["10.1.2.3", "::ffff:10.9.9.9", "fd12::1", "11.0.0.1", "fe80::1", "172.31.0.1"]);
    let peer: IpAddr = peer.parse().expect("an address");
    let mut lines = vec![("host", "localhost".as_bytes())];
    lines.extend(choices.rest().split(|byte| *byte == b'\n').map(|line| ("x-forwarded-for", line)));
    let head = Head { method: "GET", http_1_1: true, query: None, headers: lines };
    client_is_right(&head, peer, handshake::client_address(&head, peer, &networks));
}

pub fn client_is_right(head: &Head<'_>, peer: IpAddr, client: IpAddr) {
    let values: Vec<&[u8]> =
        head.headers.iter().filter(|(name, _)| *name == "x-forwarded-for").map(|(_, value)| *value).collect();
    let joined = values.join(&b","[..]);
    let mut expected = peer;
    if is_proxy(peer) {
        let entries: Vec<&[u8]> = joined.split(|byte| *byte == b',').collect();
        for entry in entries.iter().rev() {
            match naive_address(entry) {
                Some(address) if is_proxy(address) => {}
                Some(address) => {
                    expected = address;
                    break;
                }
                None => break,
            }
        }
    }
    assert_eq!(client, expected, "{} from {peer}", joined.escape_ascii());
    assert_eq!(AddressKey::from(client), AddressKey::from(client.to_canonical()));
}

/// The networks of [`forwarded`], by their octets.
fn is_proxy(address: IpAddr) -> bool {
    match octets(address).as_slice() {
        [10, ..] | [192, 168, 1, 7] | [172, 16..=31, ..] | [0xfd, 0..=0x7f, ..] => true,
        other => other == [0; 15].iter().copied().chain([1]).collect::<Vec<u8>>(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => match address.octets() {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, last @ ..] => last.to_vec(),
            octets => octets.to_vec(),
        },
    }
}

/// An address, with a port or without. IPv6 is left to the standard library.
fn naive_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    if let Some(inner) = text.strip_prefix('[') {
        let (inner, port) = inner.split_once(']')?;
        if port.is_empty() {
            return match inner.contains(':') {
                true => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                false => naive_ipv4(inner).map(IpAddr::V4),
            };
        }
        is_port(port.strip_prefix(':')?).then_some(())?;
        let address = inner.split_once('%').map_or(Some(inner), |(address, scope)| {
            let digits = !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_digit());
            (digits && scope.parse::<u32>().is_ok()).then_some(address)
        })?;
        return address.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    if text.matches(':').count() >= 2 {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let (address, port) = text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port)));
    port.is_none_or(is_port).then(|| naive_ipv4(address).map(IpAddr::V4))?
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn naive_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| {
            let plain = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
            let value = part.parse().ok().filter(|_| plain)?;
            (part.len() == 1 || !part.starts_with('0')).then_some(value)
        })
        .collect::<Option<_>>()?;
    let [a, b, c, d] = parts.try_into().ok()?;
    Some(Ipv4Addr::new(a, b, c, d))
}

/// The bytes are: the family, both ports, the owner, the inode, both addresses; and all of them as a line.
fn sockets(mut choices: Choices<'_>) {
    let family = choices.byte();
    let ports = choices.word();
    let (owner, inode) = (u32::from_be_bytes(choices.word()), u32::from(choices.byte() / 2));
    let mut address = || {
        let words = [choices.word(), choices.word(), choices.word(), choices.word()];
        match family % 3 {
            0 => IpAddr::V4(Ipv4Addr::from(words[0])),
            1 => IpAddr::V6(Ipv4Addr::from(words[0]).to_ipv6_mapped()),
            _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).expect("16 bytes"))),
        }
    };
    let local = SocketAddr::new(address(), u16::from_be_bytes([ports[0], ports[1]]));
    let remote = SocketAddr::new(address(), u16::from_be_bytes([ports[2], ports[3]]));
    let line = format!(
        "  12: {} {} 01 00000000:00000000 02:000000FF 00000000 {owner:5}        0 {inode} 2 0000000000000000 20 4 30 10 -1",
        kernel_form(local),
        kernel_form(remote)
    );
    let owner = (inode != 0).then_some(owner);
    socket_is_right((local, remote, owner), Socket::parse(&line));
    search_is_right((local, remote, owner), &line);
    // Any text is read without a panic, and what is read as a socket has both ends.
    let text = String::from_utf8_lossy(choices.rest());
    for line in text.lines() {
        if let Some(socket) = Socket::parse(line) {
            assert!(line.split_ascii_whitespace().count() >= 10, "{line:?} is {socket:?}");
        }
    }
    let status = format!("Name:\tx\n{}\nUid:\t1\t{inode}\t3\t4\n", text.replace("Uid:", ""));
    assert_eq!(socket_table::user_of_process(&status), Some(inode));
}

/// An end as the kernel prints it: words of 32 bits, as they are in memory.
fn kernel_form(end: SocketAddr) -> String {
    let octets = match end.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = octets.chunks(4).map(|word| {
        let word: Vec<u8> =
            if cfg!(target_endian = "little") { word.iter().rev().copied().collect() } else { word.to_vec() };
        word.iter().map(|byte| format!("{byte:02X}")).collect::<String>()
    });
    format!("{}:{:04X}", words.collect::<String>(), end.port())
}

/// The line is found from its other end and from its own, and other connections are not.
fn search_is_right((local, remote, owner): (SocketAddr, SocketAddr, Option<u32>), line: &str) {
    let elsewhere = SocketAddr::new(local.ip(), local.port().wrapping_add(1));
    if local == remote || remote == elsewhere {
        return;
    }
    let connections = [(remote, local), (local, remote), (local, elsewhere), (elsewhere, remote)];
    let connections = connections.into_iter();
    let mut search = Search::new(connections.clone().take(1));
    assert_eq!(search.read(line), owner.is_none(), "an end without a process can have another line");
    assert_eq!(search.found(), [Found { other: Some(owner), own: false }]);
    let mut search = Search::new(connections.skip(1));
    assert!(search.read(line), "what is missing is the other end");
    assert_eq!(search.found(), [Found { other: None, own: true }, Found::default(), Found::default()]);
}

pub fn socket_is_right(written: (SocketAddr, SocketAddr, Option<u32>), read: Option<Socket>) {
    let (local, remote, owner) = written;
    let read = read.expect("a socket");
    assert_eq!((octets(read.local.ip()), read.local.port()), (octets(local.ip()), local.port()));
    assert_eq!((octets(read.remote.ip()), read.remote.port()), (octets(remote.ip()), remote.port()));
    assert_eq!(read.owner, owner);
}
