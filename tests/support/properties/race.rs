//! Attempts to connect to the addresses of a host, compared with the rules of RFC 8305.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use switchboard::protocol::race::{MAX_ADDRESSES, Race, interleave};
use switchboard::protocol::time::Millis;

use super::Choices;

/// An attempt starts 250 ms after the last one, or as soon as one fails after that, in order, and no more than there are. The race
/// is lost once all have failed. The families of addresses alternate, in the order of the resolver.
///
/// The bytes are: the number of attempts, then steps of waiting, asking and failing. They are the addresses, too.
pub fn race(data: &[u8]) {
    let addresses = addresses(data);
    families_alternate(&addresses, &interleave(&addresses));
    let mut choices = Choices::new(data);
    let count = usize::from(choices.byte() % 20);
    let mut now = Millis(choices.byte().into());
    let mut naive = NaiveRace::new(count.min(MAX_ADDRESSES), now);
    let mut race = Race::new(count, now);
    while !choices.is_empty() {
        let (what, time) = (choices.byte(), Duration::from_millis(choices.byte().into()));
        match what % 4 {
            0 if naive.can_fail() => {
                naive.failures.push((now, naive.starts.len()));
                race.handle_failed(now);
            }
            1 => now = now + time,
            _ => naive.starts(race.poll(now), now),
        }
        naive.is_mirrored_by(&race);
    }
}

/// All starts and failures.
pub struct NaiveRace {
    count: usize,
    begin: Millis,
    starts: Vec<Millis>,
    /// When attempts failed, and how many had started.
    failures: Vec<(Millis, usize)>,
}

impl NaiveRace {
    pub fn new(count: usize, begin: Millis) -> NaiveRace {
        NaiveRace { count, begin, starts: Vec::new(), failures: Vec::new() }
    }

    fn can_fail(&self) -> bool {
        self.failures.len() < self.starts.len()
    }

    /// When the next attempt is due.
    fn due(&self) -> Option<Millis> {
        let started = self.starts.len();
        if started == self.count {
            return None;
        }
        let Some(last) = self.starts.last() else { return Some(self.begin) };
        let since = self.failures.iter().filter(|(_, before)| *before == started).map(|(at, _)| *at);
        since.chain([*last + Duration::from_millis(250)]).min()
    }

    /// Checks which attempt starts.
    pub fn starts(&mut self, number: Option<usize>, now: Millis) {
        let is_due = self.due().is_some_and(|due| now >= due);
        assert_eq!(number, is_due.then_some(self.starts.len()), "{now:?}, started at {:?}", self.starts);
        self.starts.extend(number.map(|_| now));
    }

    fn is_mirrored_by(&self, race: &Race) {
        assert_eq!(race.deadline(), self.due());
        assert_eq!(race.is_lost(), self.failures.len() >= self.count);
    }
}

/// An address for each byte, of either family.
fn addresses(data: &[u8]) -> Vec<SocketAddr> {
    let ip = |byte: u8| match byte & 1 {
        0 => IpAddr::from(Ipv4Addr::new(10, 0, 0, byte)),
        _ => IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, byte.into())),
    };
    (1..).zip(data).map(|(port, byte)| SocketAddr::new(ip(*byte), port)).collect()
}

/// Each family keeps its order, the first address stays the first, and two of one family follow each other only where the
/// other family has ended.
pub fn families_alternate(given: &[SocketAddr], ordered: &[SocketAddr]) {
    let family = |addresses: &[SocketAddr], is_v6| -> Vec<SocketAddr> {
        addresses.iter().copied().filter(|address| address.is_ipv6() == is_v6).collect()
    };
    for is_v6 in [false, true] {
        assert_eq!(family(ordered, is_v6), family(given, is_v6), "the order of a family");
    }
    assert_eq!(ordered.first(), given.first());
    for (at, pair) in ordered.windows(2).enumerate() {
        let is_v6 = pair[0].is_ipv6();
        let has_other = !family(&ordered[at..], !is_v6).is_empty();
        assert!(pair[1].is_ipv6() != is_v6 || !has_other, "{pair:?} follow each other");
    }
}
