//! Attackers that take places: request heads that never end, clients that do not authenticate, wrong tokens.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, Target, shown};
use crate::program::resident_mib;
use crate::wire::{Failure, LOCALHOST, Socket};

/// Where the attackers come from.
#[derive(Clone, Copy)]
pub enum Origin {
    /// One address of their own.
    One,
    /// The address of the clients that behave well.
    Same,
    /// 250 addresses.
    Many,
}

impl Origin {
    fn address(self, from: Ipv4Addr, number: usize) -> Ipv4Addr {
        match self {
            Origin::One => from,
            Origin::Same => LOCALHOST,
            Origin::Many => Ipv4Addr::new(127, 0, 1, (number % 250 + 1) as u8),
        }
    }
}

/// Times of attempts, of which some failed.
#[derive(Default)]
struct Attempts {
    made: usize,
    times: Vec<Duration>,
}

impl Attempts {
    fn add(&mut self, time: Option<Duration>) {
        self.made += 1;
        self.times.extend(time);
    }

    fn report(&self) -> String {
        let slowest = self.times.iter().max().copied().unwrap_or_default();
        format!("{} of {} served, slowest {}", self.times.len(), self.made, shown(slowest))
    }
}

/// So many connections that send the start of a head and nothing more, opened again a while after they are cut, while 23 clients
/// arrive.
pub async fn heads(
    target: &Target,
    origin: Origin,
    count: usize,
    pause: Duration,
) -> Result<String, Failure> {
    let opened = Rc::new(Cell::new(0_usize));
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let (target, opened) = (target.clone(), opened.clone());
        tasks.spawn_local(async move {
            loop {
                let life = slow_head(&target, origin.address(target.from, number)).await;
                opened.set(opened.get() + usize::from(life.is_ok()));
                sleep(pause).await;
            }
        });
    }
    sleep(Duration::from_secs(2)).await;
    let mut clients = JoinSet::new();
    for number in 0..28 {
        let target = target.clone();
        clients.spawn_local(async move {
            sleep(Duration::from_millis(250) * number).await;
            let start = Instant::now();
            let is_health = number % 6 == 5 || number == 27;
            let served = match is_health {
                true => timeout(PATIENCE, healthy(&target)).await.is_ok_and(|health| health.is_ok()),
                false => target.connect(LOCALHOST).await.is_ok(),
            };
            (is_health, served.then(|| start.elapsed()))
        });
    }
    let (mut newcomers, mut health) = (Attempts::default(), Attempts::default());
    while let Some((is_health, time)) = clients.join_next().await.transpose()? {
        if is_health { health.add(time) } else { newcomers.add(time) }
    }
    Ok(format!(
        "newcomers: {}; /healthz: {}; {} heads cut",
        newcomers.report(),
        health.report(),
        opened.get()
    ))
}

/// Returns when the connection is cut.
async fn slow_head(target: &Target, from: Ipv4Addr) -> Result<(), Failure> {
    let mut stream = target.dial(from).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").await?;
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer).await;
    Ok(())
}

async fn healthy(target: &Target) -> Result<(), Failure> {
    let mut stream = target.dial(LOCALHOST).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err("not healthy".into()) }
}

/// So many clients without the token, opened again a while after they are closed. The owner of the token connects meanwhile.
pub async fn strangers(
    target: &Target,
    count: usize,
    pause: Duration,
    length: Duration,
) -> Result<String, Failure> {
    let (open, refused) = (Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0_usize)));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (target, open, refused) = (target.clone(), open.clone(), refused.clone());
        tasks.spawn_local(async move {
            loop {
                if let Ok(Ok((101, mut socket))) = timeout(PATIENCE, stranger(&target)).await {
                    open.set(open.get() + 1);
                    while socket.read().await.is_ok() {}
                    open.set(open.get() - 1);
                } else {
                    refused.set(refused.get() + 1);
                }
                sleep(pause).await;
            }
        });
        if tasks.len() % 50 == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
    sleep(Duration::from_secs(2)).await;
    let (mut owner, mut most) = (Attempts::default(), 0);
    let end = Instant::now() + length;
    while Instant::now() < end {
        let start = Instant::now();
        owner.add(target.connect(LOCALHOST).await.is_ok().then(|| start.elapsed()));
        most = most.max(open.get());
        sleep(Duration::from_millis(250)).await;
    }
    let mib = resident_mib(target.process)?;
    let owner = owner.report();
    Ok(format!(
        "owner of the token: {owner}; at most {most} of {count} strangers were clients, {} times refused; {mib:.0} MiB",
        refused.get()
    ))
}

async fn stranger(target: &Target) -> Result<(u16, Socket), Failure> {
    Socket::upgrade(target.dial(target.from).await?, None).await
}

/// So many wrong tokens, ten at a time with a pause after each. Then the right one, from another address and from this one.
pub async fn tokens(target: &Target, count: usize, pause: Duration) -> Result<String, Failure> {
    let start = Instant::now();
    let statuses = Rc::new(std::cell::RefCell::new(BTreeMap::<u16, usize>::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let (target, statuses) = (target.clone(), statuses.clone());
        tasks.spawn_local(async move {
            for number in 0..count / 10 {
                let wrong = format!("wrong-{number}");
                let status = match target.dial(target.from).await {
                    Ok(stream) => Socket::upgrade(stream, Some(&wrong)).await.map_or(0, |(status, _)| status),
                    Err(_) => 0,
                };
                *statuses.borrow_mut().entry(status).or_default() += 1;
                sleep(pause).await;
            }
        });
    }
    while tasks.join_next().await.transpose()?.is_some() {}
    let time = shown(start.elapsed());
    let mut right = Vec::new();
    for from in [LOCALHOST, target.from] {
        let start = Instant::now();
        let (status, _) = Socket::upgrade(target.dial(from).await?, target.token.as_deref()).await?;
        right.push(format!("{status} in {}", shown(start.elapsed())));
    }
    let statuses: Vec<_> =
        statuses.borrow().iter().map(|(status, count)| format!("{count} × {status}")).collect();
    Ok(format!(
        "{count} wrong tokens in {time}: {}; the right one from another address: {}, from the same: {}",
        statuses.join(", "),
        right[0],
        right[1]
    ))
}
