//! A client's and a server's machine, joined by a simulated network and a clock that only
//! [`Pair::advance`] moves. In: what the client sends, how handlers answer. Out: what the client receives.
//!
//! Every message from the server is checked: it decodes, and its members are in the specified order.
//! A failing test prints the network with its seed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::connection::{CloseCode, Connection, Event};
use switchboard::protocol::envelope::{self, Envelope, Kind, Timestamp};
use switchboard::protocol::error::WireError;
use switchboard::protocol::frame::{self, Header, Role};
use switchboard::protocol::json;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{Action, Due, Request, Rules, Session, Slot};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;

use super::random::Rng;

/// Unix time at the virtual clock's zero.
pub const EPOCH_MS: u64 = 1_704_067_200_000;

/// The mask of every frame of the client. Its value does not matter.
const MASK: [u8; 4] = [0x9a, 0x01, 0xfe, 0x47];

/// How bytes travel.
#[derive(Debug, Clone, Copy)]
pub enum Network {
    /// As they were sent, at once.
    Whole,
    /// One by one, at once.
    Bytes,
    /// In pieces, at once.
    Cut(u64),
    /// In pieces, each up to 50 ms late, in order.
    Slow(u64),
}

impl Network {
    /// The networks with exact time.
    pub fn exact() -> Vec<Network> {
        let seeded = [1, 2, 3, fresh_seed()].map(Network::Cut);
        [Network::Whole, Network::Bytes].into_iter().chain(seeded).collect()
    }

    /// Networks that deliver late.
    pub fn slow() -> Vec<Network> {
        [1, 2, 3, 4, 5, 6, 7, fresh_seed()].map(Network::Slow).into()
    }

    fn rng(self) -> Rng {
        match self {
            Network::Whole | Network::Bytes => Rng::new(1),
            Network::Cut(seed) | Network::Slow(seed) => Rng::new(seed),
        }
    }

    /// The length of the next piece of `left` bytes.
    fn piece(self, left: usize, rng: &mut Rng) -> usize {
        match self {
            Network::Whole => left,
            Network::Bytes => 1,
            // Short pieces cut headers, long ones contain several frames.
            Network::Cut(_) | Network::Slow(_) => match rng.below(3) {
                0 => 1 + rng.index(3),
                1 => 1 + rng.index(64),
                _ => 1 + rng.index(65_536),
            }
            .min(left),
        }
    }
}

/// A new seed each run, or the one in `SEED`.
fn fresh_seed() -> u64 {
    let random =
        || u64::from_ne_bytes(Uuid::v4().as_bytes()[..8].try_into().expect("eight of sixteen bytes"));
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(random)
}

/// What the client received.
#[derive(Debug, Clone)]
pub struct Message {
    pub text: String,
}

impl Message {
    fn envelope(&self) -> Envelope<'_> {
        Envelope::decode(&self.text).expect("checked when it was received")
    }

    pub fn is_event(&self) -> bool {
        self.envelope().kind == Kind::Event
    }

    /// The id as written between its quotes.
    pub fn id(&self) -> &str {
        self.envelope().id.expect("a response has an id")
    }

    /// The channel as written between its quotes.
    pub fn channel(&self) -> &str {
        self.envelope().channel
    }

    /// The payload's text.
    pub fn payload(&self) -> Option<&str> {
        self.envelope().payload
    }

    pub fn error(&self) -> Value {
        self.envelope()
            .error
            .map_or(Value::Null, |error| serde_json::from_str(error).expect("an error is JSON"))
    }

    /// The error's code; empty if there is no error.
    pub fn code(&self) -> String {
        let mut code = String::new();
        if let Some(error) = self.envelope().error {
            json::members(error, |member| {
                if member.name == "code" {
                    code = member.value.trim_matches('"').to_owned();
                }
            })
            .expect("an error is JSON");
        }
        code
    }
}

enum Handler {
    Answer(Box<dyn FnMut(Payload) -> Result<Payload, WireError>>),
    Park(Duration),
}

#[derive(Default)]
struct Pipe {
    pieces: VecDeque<(u64, Vec<u8>)>,
    last_arrival: u64,
}

impl Pipe {
    fn due(&mut self, now: u64) -> Option<Vec<u8>> {
        self.next_arrival().filter(|arrival| *arrival <= now)?;
        self.pieces.pop_front().map(|(_, bytes)| bytes)
    }

    fn next_arrival(&self) -> Option<u64> {
        self.pieces.front().map(|(arrival, _)| *arrival)
    }
}

pub struct Pair {
    pub session: Session,
    rules: Arc<Rules>,
    network: Network,
    rng: Rng,
    now_ms: u64,
    client: Connection,
    /// Whether the client answers pings and close frames.
    client_answers: bool,
    to_server: Pipe,
    to_client: Pipe,
    /// Bytes that the server received and has not consumed.
    unread: Vec<u8>,
    handlers: HashMap<String, Handler>,
    /// Requests on channels without a handler.
    requests: VecDeque<Request>,
    slots: Vec<Slot>,
    messages: VecDeque<Message>,
    /// Bytes for the client that are not a whole frame yet.
    uncounted: Vec<u8>,
    pings: usize,
    pongs: usize,
    authenticated: usize,
    closed: Option<(Option<u16>, String)>,
    cut_at_ms: Option<u64>,
}

impl Pair {
    /// A client after `server:connected`. If there is a token, the client is not authenticated yet.
    pub fn new(rules: &Rules, network: Network) -> Pair {
        let mut pair = Pair::before_open(rules, network);
        pair.open();
        pair
    }

    /// The same before the server has sent anything.
    pub fn before_open(rules: &Rules, network: Network) -> Pair {
        let rules = Arc::new(rules.clone());
        let id = Uuid::from_random([7; 16]);
        Pair {
            session: Session::new(rules.clone(), id, rules.token.is_none(), Millis(0)),
            client: Connection::client(usize::MAX, || MASK),
            rules,
            rng: network.rng(),
            network,
            now_ms: 0,
            client_answers: true,
            to_server: Pipe::default(),
            to_client: Pipe::default(),
            unread: Vec::new(),
            handlers: HashMap::new(),
            requests: VecDeque::new(),
            slots: Vec::new(),
            messages: VecDeque::new(),
            uncounted: Vec::new(),
            pings: 0,
            pongs: 0,
            authenticated: 0,
            closed: None,
            cut_at_ms: None,
        }
    }

    pub fn open(&mut self) {
        self.on_server(|session, now, out| session.open(now, out));
    }

    fn now(&self) -> Now {
        Now { at: Millis(self.now_ms), unix_ms: EPOCH_MS + self.now_ms }
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub fn network(&self) -> Network {
        self.network
    }

    // The server's side.

    /// Answers every request on a channel at once.
    pub fn on(
        &mut self,
        channel: &str,
        handler: impl FnMut(Payload) -> Result<Payload, WireError> + 'static,
    ) {
        self.handlers.insert(channel.to_owned(), Handler::Answer(Box::new(handler)));
    }

    /// Parks every request on a channel, for [`finish`](Pair::finish) or the default deadline.
    pub fn park(&mut self, channel: &str) {
        self.park_within(channel, self.rules.limits.handler_timeout);
    }

    pub fn park_within(&mut self, channel: &str, timeout: Duration) {
        self.handlers.insert(channel.to_owned(), Handler::Park(timeout));
    }

    /// Answers the parked request with this id.
    pub fn finish(&mut self, id: &str, result: Result<Payload, WireError>) {
        let is_meant = |slot: &Slot| self.session.parked(*slot).is_some_and(|request| request.raw_id() == id);
        let at = self.slots.iter().position(is_meant).expect("the request is parked");
        let slot = self.slots.swap_remove(at);
        self.on_server(|session, now, out| session.answer_parked(now, slot, result, out));
        self.pump();
        self.settle();
    }

    /// The next request on a channel without a handler, for [`answer`](Pair::answer).
    pub fn take_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    pub fn answer(&mut self, request: Request, result: Result<Payload, WireError>) {
        self.on_server(|session, now, out| session.answer(now, request, result, out));
    }

    /// The parked requests.
    pub fn parked(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().filter_map(|slot| self.session.parked(*slot))
    }

    /// How often the session reported that the client has authenticated.
    pub fn authenticated(&self) -> usize {
        self.authenticated
    }

    /// The server stops.
    pub fn stop(&mut self) {
        self.on_server(|session, now, out| session.shut_down(now, out));
    }

    /// The server begins to stop: requests in flight go on.
    pub fn drain(&mut self) {
        self.on_server(|session, now, out| session.drain(now, out));
    }

    /// What a server does whenever it has sent everything while it drains.
    pub fn close_drained(&mut self) {
        self.on_server(|session, now, out| session.close_drained(now, out));
    }

    /// Calls the session, and sends what it wrote.
    pub fn on_server<T>(&mut self, act: impl FnOnce(&mut Session, Now, &mut Vec<u8>) -> T) -> T {
        let was_finished = self.session.is_finished();
        let now = self.now();
        let mut out = Vec::new();
        let result = act(&mut self.session, now, &mut out);
        assert!(!was_finished || out.is_empty(), "nothing is sent after the end");
        self.transmit(out, Side::Client);
        self.settle();
        result
    }

    // The client's side.

    /// Sends a text message.
    pub fn send(&mut self, text: impl AsRef<str>) {
        let mut out = Vec::new();
        self.client.write_text(&mut out, &[text.as_ref()]);
        self.send_raw(&out);
    }

    /// Sends a request.
    pub fn request(&mut self, id: &str, channel: &str, payload: Option<&str>) {
        let payload = payload.map_or(String::new(), |payload| format!(",\"payload\":{payload}"));
        let timestamp = EPOCH_MS + self.now_ms;
        self.send(format!(
            r#"{{"type":"request","id":"{id}","channel":"{channel}"{payload},"timestamp":{timestamp}}}"#
        ));
    }

    pub fn send_binary(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        frame::write(&mut out, frame::BINARY, Some(MASK), [bytes]);
        self.send_raw(&out);
    }

    /// Sends bytes that need not be frames.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.transmit(bytes.to_vec(), Side::Server);
        self.settle();
    }

    /// The client closes.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        let mut out = Vec::new();
        self.client.close(code, reason, &mut out);
        self.send_raw(&out);
    }

    /// From now on the client answers neither pings nor close frames.
    pub fn mute(&mut self) {
        self.client_answers = false;
    }

    /// The responses that came since the last call.
    pub fn responses(&mut self) -> Vec<Message> {
        self.take_messages(|message| !message.is_event())
    }

    /// All messages that came since the last call.
    pub fn messages(&mut self) -> Vec<Message> {
        self.take_messages(|_| true)
    }

    fn take_messages(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (taken, left) = std::mem::take(&mut self.messages).into_iter().partition(wanted);
        self.messages = left;
        let taken: VecDeque<Message> = taken;
        taken.into()
    }

    /// The one response that came.
    pub fn response(&mut self) -> Message {
        let mut responses = self.responses();
        assert_eq!(responses.len(), 1, "one response expected: {responses:?}");
        responses.remove(0)
    }

    /// Pings that the client got.
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// Pongs that the client got.
    pub fn pongs(&self) -> usize {
        self.pongs
    }

    /// The code and reason with which the client was closed.
    pub fn closed(&self) -> Option<(u16, &str)> {
        self.closed.as_ref().map(|(code, reason)| (code.unwrap_or(1005), reason.as_str()))
    }

    /// When the server cut the connection without waiting any longer.
    pub fn cut_at_ms(&self) -> Option<u64> {
        self.cut_at_ms
    }

    // The network and the clock.

    /// Advances the clock. Everything that is due happens at its time.
    pub fn advance(&mut self, time: Duration) {
        let end =
            self.now_ms + u64::try_from(time.as_millis()).expect("a test ends before the universe does");
        loop {
            self.settle();
            let deadline = (!self.is_over()).then(|| self.session.deadline().0);
            let arrivals = [self.to_server.next_arrival(), self.to_client.next_arrival()];
            let next = arrivals.into_iter().flatten().chain(deadline).min().unwrap_or(end);
            if next > end {
                break;
            }
            self.now_ms = self.now_ms.max(next);
            if deadline.is_some_and(|deadline| deadline <= self.now_ms) {
                self.handle_deadline();
            } else if self.now_ms == end {
                break;
            }
        }
        self.settle();
        self.now_ms = end;
    }

    fn is_over(&self) -> bool {
        self.session.is_finished() || self.cut_at_ms.is_some()
    }

    fn handle_deadline(&mut self) {
        let goes_on = self.on_server(|session, now, out| {
            loop {
                match session.handle_deadline(now, out) {
                    Some(Due::Expired(())) => {}
                    Some(Due::Cut) => break false,
                    None => break true,
                }
            }
        });
        if !goes_on {
            self.cut_at_ms = Some(self.now_ms);
        }
        self.pump();
        let next = self.session.deadline().0;
        assert!(self.is_over() || next > self.now_ms, "deadline {next} is due again at {}", self.now_ms);
    }

    fn transmit(&mut self, bytes: Vec<u8>, to: Side) {
        let pipe = match to {
            Side::Server => &mut self.to_server,
            Side::Client => &mut self.to_client,
        };
        if let Network::Slow(_) = self.network {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(self.network.piece(rest.len(), &mut self.rng));
                let arrival = (self.now_ms + self.rng.below(51)).max(pipe.last_arrival);
                pipe.last_arrival = arrival;
                pipe.pieces.push_back((arrival, piece.to_vec()));
                rest = later;
            }
        } else if !bytes.is_empty() {
            pipe.pieces.push_back((self.now_ms, bytes));
        }
    }

    /// Delivers what has arrived, and everything that follows from it.
    fn settle(&mut self) {
        loop {
            if let Some(bytes) = self.to_client.due(self.now_ms) {
                self.cut_up(bytes, Pair::client_reads);
            } else if let Some(bytes) = self.to_server.due(self.now_ms) {
                self.cut_up(bytes, Pair::server_reads);
            } else {
                return;
            }
        }
    }

    fn cut_up(&mut self, mut bytes: Vec<u8>, read: impl Fn(&mut Pair, &mut [u8])) {
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let length = match self.network {
                Network::Slow(_) => rest.len(),
                network => network.piece(rest.len(), &mut self.rng),
            };
            let (piece, later) = rest.split_at_mut(length);
            read(self, piece);
            rest = later;
        }
    }

    fn server_reads(&mut self, bytes: &mut [u8]) {
        if self.cut_at_ms.is_none() {
            self.unread.extend_from_slice(bytes);
            self.pump();
        }
    }

    /// What the driver of a real server does with input.
    fn pump(&mut self) {
        let mut input = std::mem::take(&mut self.unread);
        let mut used = 0;
        let was_finished = self.session.is_finished();
        let mut out = Vec::new();
        while used < input.len() && (self.session.wants_input() || was_finished) {
            let step = self.session.handle_input(self.now(), &mut input[used..], &mut out);
            assert!(step.consumed > 0, "a step consumes something");
            used += step.consumed;
            match self.decoded(step.action, &mut out) {
                None | Some(Action::Decode(_)) => {}
                Some(Action::Authenticate(request)) => panic!("the session of a pair asks about {request:?}"),
                Some(Action::Authenticated) => self.authenticated += 1,
                Some(Action::Request(request)) => self.dispatch(request, &mut out),
            }
        }
        assert!(!was_finished || out.is_empty(), "nothing is sent after the end");
        self.unread = input.split_off(used);
        self.transmit(out, Side::Client);
    }

    /// Decodes a large message at once.
    fn decoded(&mut self, action: Option<Action>, out: &mut Vec<u8>) -> Option<Action> {
        let Some(Action::Decode(message)) = action else { return action };
        assert!(self.session.is_decoding() && !self.session.wants_input(), "one message after the other");
        let action = self.session.handle_decoded(self.now(), message.decode(), out);
        assert!(
            !self.session.is_decoding() && !matches!(action, Some(Action::Decode(_))),
            "it is decoded once"
        );
        action
    }

    fn dispatch(&mut self, request: Request, out: &mut Vec<u8>) {
        let now = self.now();
        let channel = request.channel().map(String::from).unwrap_or_default();
        match self.handlers.get_mut(&channel) {
            None => self.requests.push_back(request),
            Some(Handler::Answer(handler)) => {
                let result = handler(request.payload());
                self.session.answer(now, request, result, out);
            }
            Some(Handler::Park(timeout)) => {
                let until = now.at + *timeout;
                self.slots.push(self.session.park(request, until, |_| ()));
            }
        }
    }

    fn client_reads(&mut self, bytes: &mut [u8]) {
        self.count_frames(bytes);
        let mut used = 0;
        let mut answers = Vec::new();
        while used < bytes.len() {
            let received = self.client.receive(&mut bytes[used..], &mut answers);
            used += received.consumed;
            match received.event {
                None => {}
                Some(Event::Text(text)) => {
                    check_message(&text);
                    self.messages.push_back(Message { text: text.into_owned() });
                }
                Some(Event::Binary(_)) => panic!("a server sends text"),
                Some(Event::Closed { code, reason }) => self.closed = Some((code, reason)),
                Some(Event::Failed(violation)) => panic!("the server broke the protocol: {violation:?}"),
            }
        }
        if self.client_answers {
            self.transmit(answers, Side::Server);
        }
    }

    /// The connection does not report pings and pongs, so they are counted here.
    fn count_frames(&mut self, bytes: &[u8]) {
        self.uncounted.extend_from_slice(bytes);
        while let Ok(Some(header)) = Header::decode(Role::Client, &self.uncounted) {
            let end = header.header_bytes + usize::try_from(header.length).expect("a frame fits into memory");
            if self.uncounted.len() < end {
                break;
            }
            self.uncounted.drain(..end);
            self.pings += usize::from(header.opcode == frame::PING);
            self.pongs += usize::from(header.opcode == frame::PONG);
        }
    }
}

enum Side {
    Server,
    Client,
}

/// Checks what holds for every message from the server.
fn check_message(text: &str) {
    const ORDER: [&str; 6] = ["type", "id", "channel", "payload", "error", "timestamp"];
    let mut places = Vec::new();
    json::members(text, |member| places.push(ORDER.iter().position(|name| *name == member.name)))
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(places.iter().all(Option::is_some), "unknown member: {text}");
    assert!(places.is_sorted_by(|a, b| a < b), "members out of order: {text}");
    let envelope = Envelope::decode(text).unwrap_or_else(|error| panic!("{error:?}: {text}"));
    assert_ne!(envelope.kind, Kind::Request, "{text}");
    assert!(envelope.payload.is_none() || envelope.error.is_none(), "{text}");
    let timestamp = envelope.timestamp.and_then(|digits| digits.parse::<u64>().ok());
    assert!(timestamp.is_some_and(|unix_ms| unix_ms >= EPOCH_MS), "whole Unix ms expected: {text}");
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("network: {:?} (SEED=<seed> repeats a fresh one), at {} ms", self.network, self.now_ms);
        }
    }
}
