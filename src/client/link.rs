//! The client's task: one connection after another until it is stopped. Input: commands, bytes, time. Output: bytes, answers,
//! events. The [`Caller`] decides what the bytes mean.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use crate::protocol::backoff::{Backoff, Ending, Next};
use crate::protocol::caller::{Caller, Due, Incoming};
use crate::protocol::error::WireError;
use crate::protocol::idle::judged_from;
use crate::protocol::payload::Payload;
use crate::protocol::time::{Millis, Now};
use crate::protocol::uuid::Uuid;

use super::connect::{Connected, Failed, Stream, connect};
use super::listeners::Event;
use super::renewal::Renewal;
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
    pub(super) timeout: Duration,
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
        shared.note_cause(None);
        shared.notify("connection:open", json!({}));
        let mut link = Link::new(&shared, &mut commands, &mut backoff, connected);
        let end = std::future::poll_fn(|cx| link.poll(cx)).await;
        drop(link);
        let (code, reason, asked) = match end {
            End::Lost { code, reason } => (code, reason, None),
            End::Asked(done) => (Some(1000), String::new(), Some(done)),
        };
        let can_ask = options.token_source.is_some();
        let next = backoff.handle_end(shared.now().at, Ending::of_close(code), can_ask);
        let ends = asked.is_some() || !shared.options.reconnect;
        shared.enter(if ends { ConnectionState::Closed } else { ConnectionState::Connecting });
        if asked.is_none() {
            shared.note_cause(Some(closing(code, &reason)));
        }
        shared.notify("connection:closed", json!({ "code": code, "reason": reason }));
        if ends {
            break asked.flatten();
        }
        match reconnect(&shared, &mut commands, &mut backoff, next, closing(code, &reason)).await {
            Ok(again) => connected = again,
            Err(asked) => break asked,
        }
    };
    shared.enter(ConnectionState::Closed);
    commands.close();
    while let Ok(command) = commands.try_recv() {
        refuse(&shared, command);
    }
    if let Some(done) = asked {
        // The handle may have stopped waiting.
        let _ = done.send(());
    }
}

/// Describes how a connection has ended.
fn closing(code: Option<u16>, reason: &str) -> String {
    match code {
        Some(code) => format!("{code} {reason}").trim_ascii().to_owned(),
        None => reason.to_owned(),
    }
}

/// Tries until it is connected. `Err` if it is stopped or out of attempts, with the handle that waits for the end.
async fn reconnect(
    shared: &Shared,
    commands: &mut Commands,
    backoff: &mut Backoff,
    mut next: Next,
    mut reason: String,
) -> Result<Connected, Option<oneshot::Sender<()>>> {
    loop {
        let mut random = [0; 4];
        // Without randomness the pauses only lose their jitter.
        let _ = getrandom::fill(&mut random);
        let delay = match next {
            Next::AtOnce => Some(Duration::ZERO),
            Next::AfterPause => backoff.next_delay(u32::from_ne_bytes(random)),
            Next::Never => None,
        };
        let Some(delay) = delay else {
            shared.enter(ConnectionState::Closed);
            let failed = json!({ "attempts": backoff.attempts(), "reason": reason });
            shared.notify("connection:failed", failed);
            return Err(None);
        };
        if next == Next::AfterPause {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let waits = json!({ "attempt": backoff.attempts(), "delayMs": delay_ms, "reason": reason });
            shared.notify("connection:reconnecting", waits);
        }
        until_stopped(shared, commands, tokio::time::sleep(delay)).await?;
        match until_stopped(shared, commands, Box::pin(open(shared))).await? {
            Ok(connected) => return Ok(connected),
            Err(failed) => {
                let can_ask = shared.options.token_source.is_some();
                next = backoff.handle_end(shared.now().at, failed.ending, can_ask);
                reason = failed.error.to_string();
                shared.note_cause(Some(reason.clone()));
            }
        }
    }
}

/// Makes one attempt, within [`ClientOptions::connect_timeout`](super::ClientOptions::connect_timeout).
pub(super) async fn open(shared: &Shared) -> Result<Connected, Failed> {
    let attempt = async {
        let (address, token) = (shared.address().await?, shared.token().await?);
        connect(&address, &shared.upgrade, token.as_deref()).await
    };
    match shared.within(shared.options.connect_timeout, attempt).await {
        Some(connected) => connected,
        None => Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time").into()),
    }
}

/// Runs `future` to completion and refuses calls meanwhile, or returns `Err` if the client is stopped first.
async fn until_stopped<T>(
    shared: &Shared,
    commands: &mut Commands,
    future: impl Future<Output = T>,
) -> Result<T, Option<oneshot::Sender<()>>> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        while let Poll::Ready(command) = commands.poll_recv(cx) {
            match command {
                None => return Poll::Ready(Err(None)),
                Some(Command::Disconnect(done)) => return Poll::Ready(Err(Some(done))),
                Some(call) => refuse(shared, call),
            }
        }
        future.as_mut().poll(cx).map(Ok)
    })
    .await
}

fn refuse(shared: &Shared, command: Command) {
    match command {
        Command::Call(call) => {
            let _ = call.answer.send(Err(shared.not_connected()));
        }
        Command::Disconnect(done) => {
            let _ = done.send(());
        }
    }
}

/// One connection.
struct Link<'a> {
    shared: &'a Arc<Shared>,
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
    renewal: Renewal,
    /// From when on deadlines are judged, after the process was stopped.
    judged_from: Millis,
}

impl<'a> Link<'a> {
    fn new(
        shared: &'a Arc<Shared>,
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
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            asked: None,
            farewell: None,
            renewal: Renewal::new(),
            judged_from: Millis::default(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let now = self.shared.now();
        let mut early = std::mem::take(&mut self.early);
        self.handle_input(now, &mut early);
        let mut reads = READS_PER_POLL;
        let alive = loop {
            self.take_commands(now, cx);
            self.renew(now, cx);
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
        // Only now: the process may have been stopped, and what arrived meanwhile counts.
        if alive && self.handle_deadline(now) {
            // A ping that cannot be written now is written when the socket is ready.
            let _ = self.write(cx);
            self.arm(now, cx);
            return Poll::Pending;
        }
        let (code, reason) = match self.farewell.take() {
            _ if self.asked.is_some() => (None, "disconnected".to_owned()),
            Some(farewell) => farewell,
            None if alive => (None, "the server did not answer in time".to_owned()),
            None => (None, "connection lost".to_owned()),
        };
        for (_, answer) in self.answers.drain() {
            let _ = answer.send(Err(closed(&closing(code, &reason))));
        }
        Poll::Ready(match self.asked.take() {
            Some(done) => End::Asked(done),
            None => End::Lost { code, reason },
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

    /// Sends a new token, once there is one. It does not wait for calls in flight, nor they for it.
    fn renew(&mut self, now: Now, cx: &mut Context<'_>) {
        let Some(payload) = self.renewal.poll(self.shared, cx) else { return };
        let (id, timeout) = (Uuid::v4(), self.shared.options.request_timeout);
        if self.caller.call(now, id, "auth", &payload, timeout, &mut self.out).is_ok() {
            self.renewal.sent(id);
        }
    }

    fn close(&mut self, now: Now, done: Option<oneshot::Sender<()>>) {
        self.asked = Some(done);
        self.shared.enter(ConnectionState::Closing);
        self.caller.close(now.at, &mut self.out);
    }

    /// Returns `false` if the server is not answering.
    fn handle_deadline(&mut self, now: Now) -> bool {
        let deadline = self.caller.deadline();
        if now.at < deadline {
            return true;
        }
        self.judged_from = judged_from(self.judged_from, now.at, deadline);
        if now.at < self.judged_from {
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
                    if channel == "auth:expiring" {
                        self.renewal.start(self.shared, &payload);
                    }
                    self.shared.listeners.notify(&Event { channel, payload });
                }
                Some(Incoming::Closed { code, reason }) => self.farewell = Some((code, reason)),
            }
        }
    }

    fn answer(&mut self, id: Uuid, result: Result<Payload, WireError>) {
        if self.renewal.handle_answer(self.shared, id, &result) {
            return;
        }
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
        let deadline = self.caller.deadline().max(if self.judged_from > now.at {
            self.judged_from
        } else {
            Millis::default()
        });
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use futures_util::{SinkExt, StreamExt};
    use serde_json::Value;
    use tokio::time::{Instant, advance, sleep};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::connect::{Address, Upgrade};
    use super::super::listeners::Listeners;
    use super::super::options::ClientOptions;
    use super::super::shared::Place;
    use super::super::source::Source;
    use super::*;

    type Server = WebSocketStream<tokio::io::DuplexStream>;

    /// A client that is connected to a server in memory.
    async fn connected(options: ClientOptions) -> (Arc<Shared>, mpsc::UnboundedSender<Command>, Server) {
        let shared = Arc::new(Shared {
            address: Place::Known(Address::parse("ws://localhost").unwrap()),
            upgrade: Upgrade::new(&options).unwrap(),
            options,
            cause: Mutex::default(),
            listeners: Listeners::default(),
            state: AtomicU8::new(ConnectionState::Open as u8),
            started: Instant::now(),
        });
        let (near, far) = tokio::io::duplex(64 << 10);
        let (commands, taken) = mpsc::unbounded_channel();
        let first = Connected { stream: Box::new(near), early: Vec::new() };
        tokio::spawn(run(shared.clone(), taken, first));
        (shared, commands, WebSocketStream::from_raw_socket(far, Role::Server, None).await)
    }

    fn call(
        commands: &mpsc::UnboundedSender<Command>,
        timeout: Duration,
    ) -> oneshot::Receiver<Result<Payload, WireError>> {
        let (answer, answered) = oneshot::channel();
        let call = Call { channel: "echo".to_owned(), payload: Payload::none(), timeout, answer };
        assert!(commands.send(Command::Call(call)).is_ok(), "the client runs");
        answered
    }

    async fn send(server: &mut Server, message: Value) {
        server.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Answers requests, and closes with 4401 once the token has expired. Returns how many renewals there were.
    async fn keep_time(mut server: Server, issued: Arc<AtomicUsize>) -> usize {
        const LIFE: Duration = Duration::from_secs(5);
        let (mut ends, mut renewals) = (Instant::now() + LIFE, 0);
        send(
            &mut server,
            json!({"type": "event", "channel": "server:connected", "payload": {}, "timestamp": 1}),
        )
        .await;
        loop {
            let warning = ends - Duration::from_secs(1);
            let (deadline, warned) = if Instant::now() < warning { (warning, false) } else { (ends, true) };
            match tokio::time::timeout_at(deadline, server.next()).await {
                Err(_) if !warned => {
                    let payload = json!({"inMs": 1000});
                    send(&mut server, json!({"type": "event", "channel": "auth:expiring", "payload": payload, "timestamp": 1})).await;
                    // The warning comes once.
                    sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return 0,
                Ok(Some(Ok(Message::Text(text)))) => {
                    let request: Value = serde_json::from_str(&text).unwrap();
                    if request["channel"] == "auth" {
                        assert_eq!(request["payload"]["token"], issued.load(Ordering::SeqCst).to_string());
                        (ends, renewals) = (Instant::now() + LIFE, renewals + 1);
                    }
                    send(
                        &mut server,
                        json!({"type": "response", "id": request["id"], "channel": "c", "timestamp": 1}),
                    )
                    .await;
                }
                Ok(Some(Ok(Message::Close(_))) | None) => return renewals,
                Ok(_) => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_of_five_seconds_lasts_for_five_minutes_of_calls() {
        let issued = Arc::new(AtomicUsize::new(0));
        let counter = issued.clone();
        let source = Source::from_async(move || {
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                sleep(Duration::from_millis(300)).await;
                Ok::<_, io::Error>(number.to_string())
            }
        });
        let options = ClientOptions { token_source: Some(source), ..ClientOptions::default() };
        let (shared, commands, server) = connected(options).await;
        let kept = tokio::spawn(keep_time(server, issued));
        let started = Instant::now();
        let mut answered = 0;
        while started.elapsed() < Duration::from_secs(300) {
            call(&commands, Duration::from_secs(30)).await.unwrap().expect("no call fails");
            answered += 1;
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(shared.state.load(Ordering::SeqCst), ConnectionState::Open as u8);
        drop(commands);
        let renewals = kept.await.unwrap();
        assert!((60..=75).contains(&renewals) && answered > 5000, "{renewals} renewals, {answered} calls");
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_while_the_process_was_stopped_counts() {
        let (shared, commands, mut server) = connected(ClientOptions::default()).await;
        let mut answered = call(&commands, Duration::from_secs(30));
        let Some(Ok(Message::Text(text))) = server.next().await else { panic!("no request") };
        let request: Value = serde_json::from_str(&text).unwrap();
        send(&mut server, json!({"type": "response", "id": request["id"], "channel": "c", "timestamp": 1}))
            .await;
        // The clock moves before the client's task runs: longer than the call's deadline, and than the idle timeout.
        advance(Duration::from_secs(200)).await;
        assert!((&mut answered).await.unwrap().is_ok());
        let late = call(&commands, Duration::from_secs(30));
        assert!(server.next().await.is_some());
        assert_eq!(shared.state.load(Ordering::SeqCst), ConnectionState::Open as u8);
        drop((late, commands));
    }
}
