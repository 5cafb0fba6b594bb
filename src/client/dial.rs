//! Opening a TCP connection: the name, then its addresses in turn. Input: a host and a port. Output: a socket, or why there is none.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until};

use crate::protocol::race::{Race, interleave};
use crate::protocol::time::Millis;

/// Connects to a host by its name or address.
///
/// # Errors
/// The system's error, with the name or the addresses.
pub(crate) async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let found = lookup_host((host, port)).await;
    let found = found.map_err(|error| {
        io::Error::new(error.kind(), format!("the name {host} cannot be resolved: {error}"))
    })?;
    let addresses = interleave(&found.collect::<Vec<_>>());
    let stream = race(&addresses, TcpStream::connect).await?;
    // Otherwise small requests would wait for the acknowledgement of earlier ones. A socket that refuses this works too.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Connects to the first of these addresses that answers.
async fn race<T, Connecting>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> Connecting,
) -> io::Result<T>
where
    Connecting: Future<Output = io::Result<T>>,
{
    let started = Instant::now();
    let mut race = Race::new(addresses.len(), Millis::default());
    let mut running: Vec<(SocketAddr, Pin<Box<Connecting>>)> = Vec::new();
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    let mut sleep = pin!(sleep_until(started));
    poll_fn(|cx| {
        loop {
            let now = Millis::default() + started.elapsed();
            while let Some(number) = race.poll(now) {
                running.extend(addresses.get(number).map(|address| (*address, Box::pin(connect(*address)))));
            }
            let mut at = 0;
            while let Some((address, connecting)) = running.get_mut(at) {
                match connecting.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Ok(connected)),
                    Poll::Ready(Err(error)) => {
                        failures.push((*address, error));
                        running.swap_remove(at);
                        race.handle_failed(now);
                    }
                }
            }
            if race.is_lost() {
                return Poll::Ready(Err(describe(&failures)));
            }
            match race.deadline() {
                None => return Poll::Pending,
                Some(next) if next > now => {
                    sleep.as_mut().reset(started + next.since(Millis::default()));
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Some(_) => {}
            }
        }
    })
    .await
}

/// One error for all attempts, of the kind of the last.
fn describe(failures: &[(SocketAddr, io::Error)]) -> io::Error {
    let kind = failures.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
    let texts: Vec<String> = failures.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    let text = if texts.is_empty() { "the name has no address".to_owned() } else { texts.join("; ") };
    io::Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_delays_the_next_by_250_ms() {
        let started = Instant::now();
        let connect = |address: SocketAddr| async move {
            match address.port() {
                1 => std::future::pending().await,
                2 => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                port => Ok(port),
            }
        };
        assert_eq!(race(&addresses(4), connect).await.unwrap(), 3);
        // Timers have a precision of one millisecond.
        assert!((250..=252).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_answers_wins_and_all_failures_are_reported() {
        let slow = |address: SocketAddr| async move {
            tokio::time::sleep(Duration::from_millis(if address.port() == 1 { 400 } else { 100 })).await;
            Ok(address.port())
        };
        assert_eq!(race(&addresses(2), slow).await.unwrap(), 2);
        let refuse = |_| async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) };
        let error = race(&addresses(2), refuse).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "127.0.0.1:1: connection refused; 127.0.0.1:2: connection refused");
        assert!(race(&[], refuse).await.is_err());
    }
}
