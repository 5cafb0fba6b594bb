//! Listening: every address of the host on one port, and the accept loops. Input: the configuration. Output: connections for
//! `upgrade`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};
use tokio::sync::Semaphore;

use crate::protocol::time::Millis;

use super::admission::Peer;
use super::config::{Config, ServerError};
use super::shared::{Listening, Shared};
use super::upgrade::{Arrival, Connection};

/// Listeners on every address of a host, all on the same port.
pub(super) struct Bound {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) port: u16,
}

/// Binds the first port from the configured one on that is free on every address of the host.
pub(super) async fn bind(config: &Config, has_authenticator: bool) -> io::Result<Bound> {
    let host = config.host.trim_start_matches('[').trim_end_matches(']');
    let resolved = lookup_host((host, 0))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("host {host} cannot be resolved: {error}")))?;
    let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    let sockets: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
    check_exposure(config, has_authenticator, &sockets)?;

    let mut last = None;
    let attempts = if config.exact_port { 1 } else { config.max_port_attempts };
    for attempt in 0..attempts {
        // Port 0 asks for a free one each time; any other is followed by the next higher.
        let port = match config.port {
            0 => 0,
            port => match port.checked_add(attempt) {
                Some(port) => port,
                None => break,
            },
        };
        match bind_all(&addresses, port).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            other => return other,
        }
    }
    Err(last.map_or_else(
        || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("host {host} has no address")),
        |error| {
            let (first, last) = (config.port, config.port.saturating_add(attempts - 1));
            let message = match first == last {
                true => format!("port {first} is in use: {error}"),
                false => format!("no free port between {first} and {last}: {error}"),
            };
            io::Error::new(error.kind(), message)
        },
    ))
}

/// Binds one port on every address. An address that this machine does not have (::1 without IPv6) is skipped.
async fn bind_all(addresses: &[IpAddr], port: u16) -> io::Result<Bound> {
    let mut bound = Bound { listeners: Vec::new(), port };
    let mut missing = None;
    for ip in addresses {
        match TcpListener::bind(SocketAddr::new(*ip, bound.port)).await {
            Ok(listener) => {
                bound.port = listener.local_addr()?.port();
                bound.listeners.push(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if bound.listeners.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Refuses addresses that other machines can reach, unless there is a token, an authenticator, or the configuration allows it.
pub(super) fn check_exposure(
    config: &Config,
    has_authenticator: bool,
    addresses: &[SocketAddr],
) -> io::Result<()> {
    let exposed = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match exposed {
        Some(address) if config.token.is_none() && !has_authenticator && !config.insecure => {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{} is reachable from other machines: set a token, or allow it with `insecure` (`--insecure`)",
                    address.ip()
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// Accepts on these listeners until the server stops. The semaphore is closed then.
pub(super) fn start(
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    port: u16,
) -> io::Result<Arc<Semaphore>> {
    let mut listening = shared.listening();
    if listening.is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the server is already running"));
    }
    if !shared.hub.open() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the server has not stopped yet: it drains",
        ));
    }
    let mut ready = Vec::new();
    for listener in listeners {
        let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
        ready.push((listener, loopback));
    }
    let spawn = |(listener, loopback)| tokio::spawn(accept_loop(shared.clone(), listener, loopback));
    let loops = ready.into_iter().map(spawn).collect();
    let stopped = Arc::new(Semaphore::new(0));
    *listening = Some(Listening { port, stopped: stopped.clone(), loops });
    Ok(stopped)
}

/// How many places are given to newcomers, at most, before the heads that have arrived are read.
const MOST_CROWDED: usize = 32;

async fn accept_loop(shared: Arc<Shared>, listener: TcpListener, loopback: bool) {
    const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);
    let mut pause = SHORTEST_PAUSE;
    let (mut crowded, most_crowded) = (0, (shared.config.max_handshakes / 8).clamp(1, MOST_CROWDED));
    let mut report_at = Millis::default();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = SHORTEST_PAUSE;
                let peer = Peer { loopback, ..Peer::from(address) };
                let (mut arrival, is_crowded) = Arrival::new(&shared, peer);
                if shared.admission.same_user.is_some() && loopback {
                    arrival.ends = stream.local_addr().ok().map(|own| Box::new((own, address)));
                }
                // Otherwise small answers would wait for the acknowledgement of earlier ones. A socket that refuses this works
                // too.
                let _ = stream.set_nodelay(true);
                tokio::spawn(Connection::new(shared.clone(), stream, arrival));
                crowded = if is_crowded { crowded + 1 } else { 0 };
                if crowded >= most_crowded {
                    // The heads that have arrived are read before the connections that brought them lose their places.
                    crowded = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let now = shared.clock.at();
                if now >= report_at {
                    report_at = now + LONGEST_PAUSE;
                    shared.observers().failed(ServerError::Accept(error));
                }
                // Descriptors or memory have run out. If connections whose heads do not come hold them, the oldest are cut;
                // anyway trying again at once would only spin.
                let has_room = shared.admission.heads.make_room(MOST_CROWDED);
                tokio::time::sleep(pause).await;
                pause = if has_room { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            }
        }
    }
}

/// Whether only this connection failed, as when it was closed before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::shared::Server;
    use super::*;

    const BOTH: [IpAddr; 2] =
        [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

    #[tokio::test]
    async fn both_addresses_get_one_port_and_a_conflict_on_either_is_a_conflict() {
        let bound = bind_all(&BOTH, 0).await.unwrap();
        assert!(bound.port > 0);
        for listener in &bound.listeners {
            assert_eq!(listener.local_addr().unwrap().port(), bound.port);
        }
        for listener in bound.listeners {
            let taken = bind_all(&BOTH, bound.port).await.map(|bound| bound.port);
            assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(listener);
        }
        assert_eq!(bind_all(&BOTH, bound.port).await.unwrap().port, bound.port);
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_bound_is_skipped_unless_it_is_the_only_one() {
        // TEST-NET-1 (RFC 5737): no machine has it.
        let foreign = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(bind_all(&[foreign, BOTH[0]], 0).await.unwrap().listeners.len(), 1);
        let alone = bind_all(&[foreign], 0).await.map(|bound| bound.port);
        assert_eq!(alone.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn one_place_for_handshakes_serves_every_address() {
        let bound = bind_all(&BOTH, 0).await.unwrap();
        let addresses: Vec<_> =
            bound.listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let server = Server::new(Config { max_handshakes: 1, ..Config::default() });
        let _stopped = start(&server.shared, bound.listeners, bound.port).unwrap();
        for address in addresses.iter().rev().flat_map(|address| [address, address]) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            let read =
                tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await;
            assert!(read.is_ok(), "{address} is served");
            assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        }
    }
}
