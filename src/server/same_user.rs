//! Whether a connection on loopback is from a process of the server's own user, or of root (Linux). Input: both ends of the
//! connection. Output: whether it may connect. What cannot be found out is allowed.
//!
//! The kernel has no cheaper way without a socket of a special kind: it lists all sockets of the machine. So one thread reads the
//! list for all connections that wait at the same time.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::protocol::socket_table::{Found, Search, user_of_process};

use super::config::Config;

/// How often the list is read for a connection whose other end is not in it. While sockets come and go, Linux can leave one
/// out.
const ATTEMPTS: usize = 3;

/// The own and the other end of a connection.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// Looks up the users of connections.
pub(super) struct SameUser {
    user: u32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Ends, oneshot::Sender<bool>)>,
    is_served: bool,
}

impl SameUser {
    /// `None` if every user may connect.
    pub(super) fn new(config: &Config) -> Option<Arc<SameUser>> {
        let is_private = config.token.is_none()
            && config.allow_hosts.is_empty()
            && config.allow_origins.is_empty()
            && config.trusted_proxies.is_empty();
        if !cfg!(target_os = "linux") || !config.same_user || !is_private {
            return None;
        }
        // Not the owner of /proc/self, which is root for a process that does not allow others to look into it.
        let user = user_of_process(&fs::read_to_string("/proc/self/status").ok()?)?;
        Some(Arc::new(SameUser { user, queue: Mutex::default() }))
    }

    /// Whether the process at the other end may connect.
    pub(super) async fn allows(self: &Arc<Self>, ends: Ends) -> bool {
        let (sender, verdict) = oneshot::channel();
        if !self.enqueue(ends, sender) {
            let own = self.clone();
            tokio::task::spawn_blocking(move || own.serve());
        }
        // A runtime that ends drops the thread's work.
        verdict.await.unwrap_or(true)
    }

    /// Returns whether a thread serves the queue already.
    fn enqueue(&self, ends: Ends, sender: oneshot::Sender<bool>) -> bool {
        let mut queue = self.queue();
        queue.waiting.push((ends, sender));
        mem::replace(&mut queue.is_served, true)
    }

    /// Serves the queue until it is empty.
    fn serve(&self) {
        loop {
            let mut queue = self.queue();
            let batch = mem::take(&mut queue.waiting);
            queue.is_served = !batch.is_empty();
            drop(queue);
            if batch.is_empty() {
                return;
            }
            let started = Instant::now();
            let (ends, senders): (Vec<Ends>, Vec<_>) = batch.into_iter().unzip();
            for (sender, is_allowed) in senders.into_iter().zip(self.verdicts(&ends)) {
                // The connection can have ended.
                let _ = sender.send(is_allowed);
            }
            // At most half of a thread's time, however fast clients connect: those that come now share the next look.
            thread::sleep(started.elapsed());
        }
    }

    fn verdicts(&self, connections: &[Ends]) -> Vec<bool> {
        let mut verdicts: Vec<Option<bool>> = vec![None; connections.len()];
        for _ in 0..ATTEMPTS {
            let open = verdicts.iter_mut().zip(connections).filter(|(verdict, _)| verdict.is_none());
            let (open, ends): (Vec<_>, Vec<Ends>) = open.unzip();
            if open.is_empty() {
                break;
            }
            let mut search = Search::new(ends.into_iter());
            // An IPv4 connection can be in the second list, too. One that cannot be read tells nothing.
            let _ = read("/proc/net/tcp", &mut search).and_then(|more| match more {
                true => read("/proc/net/tcp6", &mut search),
                false => Ok(false),
            });
            for (verdict, found) in open.into_iter().zip(search.found()) {
                *verdict = self.judge(*found);
            }
        }
        // The other end has left: it cannot read an answer, and what it has sent must have no effect.
        verdicts.into_iter().map(|verdict| verdict.unwrap_or(false)).collect()
    }

    /// The verdict; `None` if the other end should be in the list, and is not.
    fn judge(&self, found: Found) -> Option<bool> {
        match found.other.flatten() {
            Some(user) => Some(user == self.user || user == 0),
            None => (!found.own).then_some(true),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a list until all is found. Returns whether something is still missing.
fn read(path: &str, search: &mut Search) -> io::Result<bool> {
    let mut lines = BufReader::with_capacity(64 << 10, File::open(path)?);
    let mut line = String::new();
    let mut is_missing = true;
    while is_missing && lines.read_line(&mut line)? > 0 {
        is_missing = search.read(&line);
        line.clear();
    }
    Ok(is_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_found_out_is_allowed_and_what_has_left_is_not() {
        let users = SameUser { user: 1000, queue: Mutex::default() };
        for (other, own, verdict) in [
            (Some(Some(1000)), true, Some(true)),
            (Some(Some(0)), true, Some(true)),
            (Some(Some(1001)), true, Some(false)),
            (Some(Some(1001)), false, Some(false)),
            (Some(None), true, None),
            (None, true, None),
            (None, false, Some(true)),
        ] {
            assert_eq!(users.judge(Found { other, own }), verdict, "{other:?}, {own}");
        }
    }
}
