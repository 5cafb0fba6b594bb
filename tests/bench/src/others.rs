//! Clients that behave well, on a thread of their own: small requests at a fixed rate, with the time until each response. The time
//! counts from when a request was due, so a client that could not send is not a client that did not wait. Timers are precise to
//! a millisecond; what is sent that much later than it was due counts from then.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::wire::{Answer, Failure, LOCALHOST, Socket, request};

/// A connection that takes longer is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The precision of timers.
const PRECISION: Duration = Duration::from_millis(2);
/// How long a response is waited for at the end.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What these clients do.
#[derive(Clone)]
pub struct Habits {
    pub clients: usize,
    /// The time between two requests of a client.
    pub pause: Duration,
    /// Every so many requests of a client one is `chat:add-message`.
    pub write_each: u64,
    /// Whether `chat:list` and `settings:get` are read, or only `chat:list`.
    pub reads_settings: bool,
    /// The chat to which they write.
    pub chat: String,
    pub token: Option<String>,
    pub address: Ipv4Addr,
}

impl Habits {
    /// Eight clients with 20 requests a second each.
    pub fn of_few(chat: &str, token: Option<&str>) -> Habits {
        Habits {
            clients: 8,
            pause: Duration::from_millis(50),
            write_each: 4,
            reads_settings: true,
            chat: chat.to_owned(),
            token: token.map(str::to_owned),
            address: LOCALHOST,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Read,
    Write,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Answered,
    /// An error response.
    Refused,
    /// The connection closed before the response.
    Lost,
    /// There was no connection when the request was due.
    Unconnected,
    /// There was no response at the end.
    Unanswered,
}

/// One request: when it was due, and what became of it after this time.
#[derive(Clone, Copy)]
pub struct Sample {
    pub due: Instant,
    pub class: Class,
    pub outcome: Outcome,
    pub after: Duration,
    /// How much later than due it was sent: the delay of this program, or of a connection that takes nothing.
    pub lag: Duration,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// The running clients.
pub struct Others {
    samples: Samples,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Others {
    /// Starts them, and returns once all are connected.
    pub fn start(port: u16, habits: Habits) -> Result<Others, Failure> {
        let samples = Samples::default();
        let (end, ended) = watch::channel(false);
        let (ready, all) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let recorded = samples.clone();
        let clients = habits.clients;
        let thread = std::thread::spawn(move || {
            let set = LocalSet::new();
            for number in 0..habits.clients {
                let place = Place {
                    port,
                    number,
                    habits: habits.clone(),
                    samples: recorded.clone(),
                    ended: ended.clone(),
                };
                set.spawn_local(place.run(ready.clone()));
            }
            drop(ready);
            runtime.block_on(set);
        });
        for _ in 0..clients {
            all.recv_timeout(PATIENCE * 4).map_err(|_| "the clients that behave well cannot connect")?;
        }
        Ok(Others { samples, end, thread: Some(thread) })
    }

    /// The requests so far that were due between these times. Those without a response yet are not among them.
    pub fn between(&self, start: Instant, end: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|sample| sample.due >= start && sample.due < end).copied().collect()
    }

    /// Asks nothing more, and waits for what was asked. What has no response then gets the outcome `Unanswered`.
    pub fn finish(&mut self) {
        let _ = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.finish();
    }
}

/// One client after another: when it is cut off, it connects again.
struct Place {
    port: u16,
    number: usize,
    habits: Habits,
    samples: Samples,
    ended: watch::Receiver<bool>,
}

/// A request without a response.
struct Question {
    due: Instant,
    class: Class,
    lag: Duration,
}

type Asked = HashMap<String, Question>;

impl Place {
    async fn run(self, ready: std::sync::mpsc::Sender<()>) {
        // Not all at the same moment.
        let start =
            Instant::now() + self.habits.pause.mul_f64(self.number as f64 / self.habits.clients as f64);
        let mut ticks = interval_at(start + self.habits.pause, self.habits.pause);
        // Requests that are overdue are sent at once: their time counts from when they were due.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut last = 0;
        let mut ready = Some(ready);
        let mut ended = self.ended.clone();
        loop {
            let mut asked = Asked::new();
            let connected = {
                let mut connecting = std::pin::pin!(self.connect());
                loop {
                    tokio::select! {
                        biased;
                        connected = &mut connecting => break connected,
                        due = ticks.tick() => {
                            let question = Question { due, class: Class::Read, lag: Duration::ZERO };
                            self.record(&question, Outcome::Unconnected);
                        }
                        _ = ended.wait_for(|end| *end) => return,
                    }
                }
            };
            let outcome = match connected {
                Ok(mut socket) => {
                    ready.take().map(|ready| ready.send(()));
                    tokio::select! {
                        // An error means that the connection is closed.
                        _ = self.live(&mut socket, &mut ticks, &mut last, &mut asked) => Outcome::Lost,
                        () = long_after(&mut ended) => Outcome::Unanswered,
                    }
                }
                Err(_) => Outcome::Lost,
            };
            for question in asked.values() {
                self.record(question, outcome);
            }
            if *ended.borrow() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn connect(&self) -> Result<Socket, Failure> {
        let connecting = Socket::connect(self.port, self.habits.address, self.habits.token.as_deref());
        timeout(PATIENCE, connecting).await?
    }

    /// Asks and listens until the connection closes, or all is answered at the end.
    async fn live(
        &self,
        socket: &mut Socket,
        ticks: &mut tokio::time::Interval,
        last: &mut u64,
        asked: &mut Asked,
    ) -> Result<(), Failure> {
        let mut ended = self.ended.clone();
        while !(*ended.borrow() && asked.is_empty()) {
            let asks = !*ended.borrow();
            tokio::select! {
                // Only to look again.
                _ = ended.changed(), if asks => {}
                due = ticks.tick(), if asks => {
                    *last += 1;
                    let (class, bytes) = self.next_request(*last);
                    let now = Instant::now();
                    let lag = now - due;
                    let due = if lag < PRECISION { now } else { due };
                    asked.insert(last.to_string(), Question { due, class, lag });
                    socket.send(&bytes).await?;
                }
                text = socket.text() => {
                    let text = text?;
                    let Some(answer) = Answer::read(&text) else { continue };
                    let Some(question) = asked.remove(answer.id) else { continue };
                    let outcome = if answer.error.is_some() { Outcome::Refused } else { Outcome::Answered };
                    self.record(&question, outcome);
                }
            }
        }
        Ok(())
    }

    fn next_request(&self, number: u64) -> (Class, Vec<u8>) {
        let id = number.to_string();
        // The clients do not all write at the same moment.
        let turn = number + self.number as u64;
        if turn.is_multiple_of(self.habits.write_each) {
            let message = json!({"chatId": self.habits.chat, "role": "user", "content": "a small message"});
            return (Class::Write, request(&id, "chat:add-message", &message));
        }
        match self.habits.reads_settings && turn % 2 == 1 {
            true => (Class::Read, request(&id, "settings:get", &json!({"key": "theme"}))),
            false => (Class::Read, request(&id, "chat:list", &json!({"limit": 1}))),
        }
    }

    fn record(&self, question: &Question, outcome: Outcome) {
        let Question { due, class, lag } = *question;
        let sample = Sample { due, class, outcome, after: due.elapsed(), lag };
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
    }
}

async fn long_after(ended: &mut watch::Receiver<bool>) {
    let _ = ended.wait_for(|end| *end).await;
    sleep(MAX_WAIT).await;
}

/// What a set of samples says.
#[derive(Clone, Copy, Default)]
pub struct Summary {
    pub requests: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
    /// The p99 of the lag.
    pub lag: Duration,
    /// Requests whose connection closed, or could not be opened.
    pub lost: usize,
    /// Error responses, lost connections, requests without a connection or without a response.
    pub errors: usize,
}

/// Summarises the samples of one class, or all. A request without a response has waited as long as it did.
pub fn summarise(samples: &[Sample], class: Option<Class>) -> Summary {
    let of_class = || samples.iter().filter(|sample| class.is_none_or(|class| sample.class == class));
    let mut times: Vec<_> = of_class()
        .filter(|sample| matches!(sample.outcome, Outcome::Answered | Outcome::Unanswered))
        .map(|sample| sample.after)
        .collect();
    times.sort_unstable();
    let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().max(1) - 1));
    let mut lags: Vec<_> = of_class().map(|sample| sample.lag).collect();
    lags.sort_unstable();
    Summary {
        lag: lags.get(lags.len() * 99 / 100).copied().unwrap_or_default(),
        lost: of_class().filter(|s| matches!(s.outcome, Outcome::Lost | Outcome::Unconnected)).count(),
        requests: of_class().count(),
        p50: at(0.5).copied().unwrap_or_default(),
        p99: at(0.99).copied().unwrap_or_default(),
        worst: times.last().copied().unwrap_or_default(),
        errors: of_class().filter(|sample| sample.outcome != Outcome::Answered).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_response_counts_with_its_time_and_as_an_error() {
        let due = Instant::now();
        let (class, lag) = (Class::Read, Duration::ZERO);
        let sample = |ms, outcome| Sample { due, class, outcome, after: Duration::from_millis(ms), lag };
        let mut samples: Vec<_> = (1..=98).map(|ms| sample(ms, Outcome::Answered)).collect();
        samples.push(sample(5000, Outcome::Unanswered));
        samples.push(sample(0, Outcome::Unconnected));
        let summary = summarise(&samples, Some(Class::Read));
        assert_eq!((summary.requests, summary.errors), (100, 2));
        assert_eq!(
            (summary.p50.as_millis(), summary.p99.as_millis(), summary.worst.as_millis()),
            (50, 5000, 5000)
        );
        assert_eq!(summarise(&samples, Some(Class::Write)).requests, 0);
    }
}
