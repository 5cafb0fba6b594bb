//! The client's task: one connection after another until it is stopped. Input: commands, bytes, time. Output: bytes, answers,
//! events. The [`Caller`] decides what the bytes mean.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use crate::protocol::backoff::Backoff;
use crate::protocol::caller::{Caller, Due, Incoming};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::time::Now;
use crate::protocol::uuid::Uuid;

use super::connect::{Connected, Stream, connect};
use super::listeners::Event;
use super::shared::{ConnectionState, Shared, closed};

const READ_BYTES: usize = 64 << 10;
/// Calls are taken while less than this waits to be sent.
const MAX_UNSENT_BYTES: usize = 1 << 20;
/// Reads before the other tasks of this worker thread get their turn.
const READS_PER_POLL: usize = 16;

/// What the handles of a client send to its task.
pub(super) enum Command {
    Call(Call),
    /// Close the connection, and report when that is done.
    Disconnect(oneshot::Sender<()>),
}

pub(super) struct Call {
    pub(super) channel: String,
    pub(super) payload: Payload,
    pub(super) timeout: std::time::Duration,
    pub(super) answer: oneshot::Sender<Result<Payload, WireError>>,
}

type Commands = mpsc::UnboundedReceiver<Command>;

/// Why a connection ended.
enum End {
    /// The server or the network ended it.
    Lost { code: Option<u16>, reason: String },
    /// A handle asked for it, or all handles were dropped.
    Asked(Option<oneshot::Sender<()>>),
}

/// Keeps a client connected, from its first connection on, until it is stopped or out of attempts.
pub(super) async fn run(shared: Arc<Shared>, mut commands: Commands, first: Connected) {
    let options = &shared.options;
    let mut backoff =
        Backoff::new(options.reconnect_interval, options.max_reconnect_attempts, options.stable_after);
    let mut connected = first;
    let asked = loop {
        shared.enter(ConnectionState::Open);
        shared.notify("connection:open", json!({}));
        let mut link = Link::new(&shared, &mut commands, &mut backoff, connected);
        let end = std::future::poll_fn(|cx| link.poll(cx)).await;
        drop(link);
        backoff.handle_lost(shared.now().at);
        let (code, reason, asked) = match end {
            End::Lost { code, reason } => (code, reason, None),
            End::Asked(done) => (Some(1000), String::new(), Some(done)),
        };
        let ends = asked.is_some() || !shared.options.reconnect;
        shared.enter(if ends { ConnectionState::Closed } else { ConnectionState::Connecting });
        shared.notify("connection:closed", json!({ "code": code, "reason": reason }));
        if ends {
            break asked.flatten();
        }
        match reconnect(&shared, &mut commands, &mut backoff).await {
            Ok(again) => connected = again,
            Err(asked) => break asked,
        }
    };
    shared.enter(ConnectionState::Closed);
    commands.close();
    while let Ok(command) = commands.try_recv() {
        refuse(command);
    }
    if let Some(done) = asked {
        // The handle may have stopped waiting.
        let _ = done.send(());
    }
}

/// Tries until it is connected. `Err` if it is stopped or out of attempts, with the handle that waits for the end.
async fn reconnect(
    shared: &Shared,
    commands: &mut Commands,
    backoff: &mut Backoff,
) -> Result<Connected, Option<oneshot::Sender<()>>> {
    loop {
        let mut random = [0; 4];
        // Without randomness the pauses only lose their jitter.
        let _ = getrandom::fill(&mut random);
        let Some(delay) = backoff.next_delay(u32::from_ne_bytes(random)) else {
            shared.enter(ConnectionState::Closed);
            shared.notify("connection:failed", json!({ "attempts": backoff.attempts() }));
            return Err(None);
        };
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        shared
            .notify("connection:reconnecting", json!({ "attempt": backoff.attempts(), "delayMs": delay_ms }));
        until_stopped(commands, tokio::time::sleep(delay)).await?;
        if let Ok(connected) = until_stopped(commands, open(shared)).await? {
            return Ok(connected);
        }
    }
}

/// Makes one attempt, within [`ClientOptions::connect_timeout`](super::ClientOptions::connect_timeout).
pub(super) async fn open(shared: &Shared) -> io::Result<Connected> {
    let connect = connect(&shared.address, shared.options.token.as_deref());
    match tokio::time::timeout(shared.options.connect_timeout, connect).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time")),
    }
}

/// Runs `future` to completion and refuses calls meanwhile, or returns `Err` if the client is stopped first.
async fn until_stopped<T>(
    commands: &mut Commands,
    future: impl Future<Output = T>,
) -> Result<T, Option<oneshot::Sender<()>>> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        while let Poll::Ready(command) = commands.poll_recv(cx) {
            match command {
                None => return Poll::Ready(Err(None)),
                Some(Command::Disconnect(done)) => return Poll::Ready(Err(Some(done))),
                Some(call) => refuse(call),
            }
        }
        future.as_mut().poll(cx).map(Ok)
    })
    .await
}

fn refuse(command: Command) {
    match command {
        Command::Call(call) => {
            let _ = call.answer.send(Err(closed("not connected")));
        }
        Command::Disconnect(done) => {
            let _ = done.send(());
        }
    }
}

/// One connection.
struct Link<'a> {
    shared: &'a Shared,
    commands: &'a mut Commands,
    backoff: &'a mut Backoff,
    stream: Box<dyn Stream>,
    caller: Caller,
    input: Vec<u8>,
    early: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    answers: HashMap<Uuid, oneshot::Sender<Result<Payload, WireError>>>,
    /// Calls for which there is no room in `out` yet.
    waiting: VecDeque<Call>,
    sleep: Pin<Box<Sleep>>,
    /// Set once a handle asked to disconnect, or all were dropped.
    asked: Option<Option<oneshot::Sender<()>>>,
    /// The code and the reason of the server's close frame.
    farewell: Option<(Option<u16>, String)>,
}

impl<'a> Link<'a> {
    fn new(
        shared: &'a Shared,
        commands: &'a mut Commands,
        backoff: &'a mut Backoff,
        connected: Connected,
    ) -> Link<'a> {
        Link {
            caller: Caller::new(shared.options.limits.clone(), random_mask, shared.now().at),
            shared,
            commands,
            backoff,
            stream: connected.stream,
            input: vec![0; READ_BYTES],
            early: connected.early,
            out: Vec::new(),
            sent: 0,
            answers: HashMap::new(),
            waiting: VecDeque::new(),
            sleep: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
            asked: None,
            farewell: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let now = self.shared.now();
        let mut early = std::mem::take(&mut self.early);
        self.handle_input(now, &mut early);
        let mut reads = READS_PER_POLL;
        let alive = loop {
            self.take_commands(now, cx);
            self.handle_deadline(now);
            let Ok(()) = self.write(cx) else { break false };
            if self.caller.is_finished() && self.sent == self.out.len() {
                break false;
            }
            if reads == 0 {
                // It is the turn of other tasks. This one comes back at once.
                cx.waker().wake_by_ref();
                break true;
            }
            reads -= 1;
            match self.read(now, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => break false,
                Poll::Pending => break true,
            }
        };
        if alive && (now.at < self.caller.deadline() || self.handle_deadline(now)) {
            self.arm(now, cx);
            return Poll::Pending;
        }
        for (_, answer) in self.answers.drain() {
            let _ = answer.send(Err(closed("the connection was closed")));
        }
        Poll::Ready(match self.asked.take() {
            Some(done) => End::Asked(done),
            None => {
                let (code, reason) = self.farewell.take().unwrap_or((None, "connection lost".to_owned()));
                End::Lost { code, reason }
            }
        })
    }

    /// Takes every command, so that disconnecting works even if the server reads nothing.
    fn take_commands(&mut self, now: Now, cx: &mut Context<'_>) {
        while self.asked.is_none() {
            match self.commands.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Command::Call(call))) => {
                    if self.waiting.len() == self.waiting.capacity() {
                        // Drop the calls whose callers have stopped waiting.
                        self.waiting.retain(|call| !call.answer.is_closed());
                    }
                    self.waiting.push_back(call);
                    self.start_waiting(now);
                }
                Poll::Ready(Some(Command::Disconnect(done))) => self.close(now, Some(done)),
                Poll::Ready(None) => self.close(now, None),
            }
        }
        self.start_waiting(now);
    }

    fn start_waiting(&mut self, now: Now) {
        while self.asked.is_none() && self.out.len() - self.sent < MAX_UNSENT_BYTES {
            let Some(call) = self.waiting.pop_front() else { return };
            self.start(now, call);
        }
    }

    fn start(&mut self, now: Now, call: Call) {
        if call.answer.is_closed() {
            return;
        }
        let id = Uuid::v4();
        match self.caller.call(now, id, &call.channel, &call.payload, call.timeout, &mut self.out) {
            Ok(()) => {
                self.answers.insert(id, call.answer);
            }
            Err(error) => {
                let _ = call.answer.send(Err(error));
            }
        }
    }

    fn close(&mut self, now: Now, done: Option<oneshot::Sender<()>>) {
        self.asked = Some(done);
        self.shared.enter(ConnectionState::Closing);
        self.caller.close(now.at, &mut self.out);
    }

    /// Returns `false` if the server is not answering.
    fn handle_deadline(&mut self, now: Now) -> bool {
        if now.at < self.caller.deadline() {
            return true;
        }
        while let Some(due) = self.caller.handle_deadline(now, &mut self.out) {
            match due {
                Due::Expired((id, error)) => self.answer(id, Err(error)),
                Due::Cut => return false,
            }
        }
        true
    }

    fn read(&mut self, now: Now, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut input = std::mem::take(&mut self.input);
        let mut read = ReadBuf::new(&mut input);
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        let count = read.filled().len();
        if let Poll::Ready(Ok(())) = result {
            self.handle_input(now, input.get_mut(..count).unwrap_or_default());
        }
        self.input = input;
        match result {
            Poll::Ready(Ok(())) if count == 0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            other => other,
        }
    }

    fn handle_input(&mut self, now: Now, input: &mut [u8]) {
        let mut used = 0;
        while let Some(rest) = input.get_mut(used..).filter(|rest| !rest.is_empty()) {
            let unsent_end = self.out.len();
            let step = self.caller.handle_input(now, rest, &mut self.out);
            used += step.consumed;
            // A server that pings and never reads must not fill the buffer. RFC 6455 5.5.3: not every ping needs its pong.
            // We still read on: a server that is blocked on us reads nothing.
            if unsent_end - self.sent > MAX_UNSENT_BYTES && self.caller.is_open() {
                self.out.truncate(unsent_end);
            }
            match step.action {
                None => {}
                Some(Incoming::Response { id, result }) => self.answer(id, result),
                Some(Incoming::Event { channel, payload }) => {
                    if channel == "server:connected" {
                        self.backoff.handle_connected(now.at);
                    }
                    self.shared.listeners.notify(&Event { channel, payload });
                }
                Some(Incoming::Closed { code, reason }) => self.farewell = Some((code, reason)),
            }
        }
    }

    fn answer(&mut self, id: Uuid, result: Result<Payload, WireError>) {
        if let Some(answer) = self.answers.remove(&id) {
            // The caller may have stopped waiting.
            let _ = answer.send(result);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        self.out.clear();
        self.out.shrink_to(MAX_UNSENT_BYTES);
        self.sent = 0;
        // TLS may hold bytes back; a socket does not.
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn arm(&mut self, now: Now, cx: &mut Context<'_>) {
        let deadline = self.caller.deadline();
        self.sleep.as_mut().reset(tokio::time::Instant::now() + deadline.since(now.at));
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// A fresh and unpredictable mask (RFC 6455, section 10.3).
fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    getrandom::fill(&mut mask).expect("system randomness is available");
    mask
}
