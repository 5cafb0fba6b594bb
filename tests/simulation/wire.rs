//! A simulated connection. Bytes arrive late and in pieces, in order; each direction has a limited capacity.
//! It can be reset, half-closed, or become silent without notifying either end.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::random::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How a connection delivers bytes.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub max_delay_ms: u64,
    pub capacity: usize,
    pub max_piece: usize,
}

/// One direction.
struct Lane {
    weather: Weather,
    rng: Rng,
    pieces: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    last_arrival: Instant,
    /// When the other end learns that no more bytes follow.
    end: Option<Instant>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Bytes accepted from the writer.
    taken: u64,
    /// When the reader last received something, and the longest wait.
    last_read: Instant,
    longest_silence: Duration,
}

struct Link {
    up: Lane,
    down: Lane,
    reset: bool,
    silent: bool,
}

/// The test's handle of a connection.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Link>>);

/// One end of a connection.
pub struct End {
    wire: Wire,
    is_server: bool,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// A connection: the handle, the client's end, the server's end.
    pub fn new(weather: Weather, rng: &mut Rng) -> (Wire, End, End) {
        let mut lane = || Lane {
            weather,
            rng: rng.fork(),
            pieces: VecDeque::new(),
            queued: 0,
            last_arrival: Instant::now(),
            end: None,
            reader: None,
            writer: None,
            taken: 0,
            last_read: Instant::now(),
            longest_silence: Duration::ZERO,
        };
        let link = Link { up: lane(), down: lane(), reset: false, silent: false };
        let wire = Wire(Arc::new(Mutex::new(link)));
        let end = |is_server| End { wire: wire.clone(), is_server, arrival: None };
        (wire.clone(), end(false), end(true))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Link) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Resets the connection; both ends are notified at once.
    pub fn reset(&self) {
        self.change(|link| {
            link.reset = true;
            link.up.wake();
            link.down.wake();
        });
    }

    /// From now on nothing arrives, and neither end is notified.
    pub fn fall_silent(&self) {
        self.change(|link| {
            link.silent = true;
            link.up.pieces.clear();
            link.down.pieces.clear();
        });
    }

    /// A number that is unique as long as the connection exists.
    pub fn number(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Bytes that the connection has accepted from the server.
    pub fn taken_from_server(&self) -> u64 {
        self.change(|link| link.down.taken)
    }

    /// The longest time in which the server read nothing.
    pub fn longest_silence(&self) -> Duration {
        self.change(|link| link.up.longest_silence.max(link.up.last_read.elapsed()))
    }
}

impl Lane {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// The arrival time of bytes sent now.
    fn arrival(&mut self) -> Instant {
        let delay = Duration::from_millis(self.rng.below(self.weather.max_delay_ms + 1));
        self.last_arrival = self.last_arrival.max(Instant::now() + delay);
        self.last_arrival
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = &mut *self;
        let due = {
            let mut link = end.wire.0.lock().unwrap();
            if link.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let silent = link.silent;
            let lane = if end.is_server { &mut link.up } else { &mut link.down };
            lane.reader = Some(cx.waker().clone());
            let now = Instant::now();
            match lane.pieces.front_mut() {
                Some((arrival, piece)) if *arrival <= now => {
                    let length = (1 + lane.rng.below(lane.weather.max_piece as u64) as usize)
                        .min(piece.len())
                        .min(buffer.remaining());
                    buffer.put_slice(&piece[..length]);
                    piece.drain(..length);
                    if piece.is_empty() {
                        lane.pieces.pop_front();
                    }
                    lane.queued -= length;
                    lane.longest_silence = lane.longest_silence.max(now - lane.last_read);
                    lane.last_read = now;
                    if let Some(writer) = lane.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((arrival, _)) => *arrival,
                None => match lane.end {
                    Some(at) if at <= now && !silent => return Poll::Ready(Ok(())),
                    Some(at) if !silent => at,
                    _ => return Poll::Pending,
                },
            }
        };
        let mut sleep = Box::pin(sleep_until(due));
        let polled = sleep.as_mut().poll(cx);
        end.arrival = Some(sleep);
        if polled.is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut link = self.wire.0.lock().unwrap();
        let silent = link.silent;
        let (other_is_gone, lane) = match self.is_server {
            true => (link.reset, &mut link.down),
            false => (link.reset, &mut link.up),
        };
        if other_is_gone || lane.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = lane.weather.capacity.saturating_sub(lane.queued);
        if room == 0 && !bytes.is_empty() {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(room);
        lane.queued += length;
        lane.taken += length as u64;
        if !silent {
            let arrival = lane.arrival();
            lane.pieces.push_back((arrival, bytes[..length].to_vec()));
            if let Some(reader) = lane.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut link = self.wire.0.lock().unwrap();
        let lane = if self.is_server { &mut link.down } else { &mut link.up };
        if lane.end.is_none() {
            let arrival = lane.arrival();
            lane.end = Some(arrival);
            if let Some(reader) = lane.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// What was sent still arrives, then the end. Bytes for this end reset the connection from now on.
    fn drop(&mut self) {
        let mut link = self.wire.0.lock().unwrap();
        let silent = link.silent;
        let (own, other) = match self.is_server {
            true => (0, 1),
            false => (1, 0),
        };
        let Link { up, down, reset, .. } = &mut *link;
        let lanes = [down, up];
        if lanes[own].end.is_none() {
            let arrival = lanes[own].arrival();
            lanes[own].end = Some(arrival);
        }
        if lanes[other].queued > 0 && !silent {
            *reset = true;
        }
        lanes[0].wake();
        lanes[1].wake();
    }
}
