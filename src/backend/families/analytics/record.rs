//! What is recorded, until it is written. In: requests, sessions, calls of models and artifacts, images. Out: batches for the
//! database. No file and no lock is waited for long: a record is a few additions to sums in memory.
//!
//! Records of the same hour, sort and names are added up at once, so nothing is ever lost for want of room: past a limit only
//! the name is, and the record counts under [`OTHER`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::error::{ErrorCode, WireError};
use crate::server::{ClientId, Completed, Observer, Visit};

use super::calendar::{END_UNIX_MS, Granularity};
use crate::backend::shared::clock::unix_ms;

/// The channel of requests that no handler was called for.
pub(super) const UNKNOWN: &str = "(unknown)";
/// The name of what came when there were as many names as there may be.
pub(super) const OTHER: &str = "(other)";
/// Errors whose message is kept between two writes, at most: the newest.
pub(super) const MAX_RECENT_ERRORS: usize = 50;
/// Longest message of an error that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 200;
/// Details of an error that are longer are not those of a payload of the wrong shape.
const MAX_DETAILS_BYTES: usize = 4 << 10;
/// Longest name, in bytes. A longer one is cut.
const MAX_NAME_BYTES: usize = 256;
/// Most channels that are told apart between two writes.
const MAX_CHANNELS: usize = 1_000;
/// Most sums between two writes that have names of their own.
const MAX_SUMS: usize = 4_096;
/// Tasks of clients seldom wait for each other when each counts in one of so many places.
const SHARDS: usize = 16;
/// What one record may say at most, so that sums stay far from the end of 64 bits: a billion tokens or images, ten thousand USD
/// in billionths, 1000 days in µs. No call comes near.
const MAX_COUNT: i64 = 1_000_000_000;
const MAX_NANO_USD: i64 = 10_000 * 1_000_000_000;
const MAX_US: i64 = 1_000 * 86_400 * 1_000_000;

/// What sort of record it is, and with it what `a`, `b` and the sums mean.
///
/// | sort | a | b | count | failed | extra | us |
/// |---|---|---|---|---|---|---|
/// | `Request` | channel | error's code, or empty | requests | those with a code | - | time of the handler |
/// | `Ai` | provider | model | calls | failed ones | - | time to the whole answer |
/// | `Tool` | `ai` or `artifact` | tool | calls | failed ones | calls whose time is known | their time |
/// | `Images` | provider | model | batches | failed ones | images | time |
/// | `Session` | - | - | sessions begun | - | sessions ended | their time |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    // The numbers stand in the database.
    Request = 1,
    Ai = 2,
    Tool = 3,
    Images = 4,
    Session = 5,
}

impl Kind {
    pub(super) const ALL: [Kind; 5] = [Kind::Request, Kind::Ai, Kind::Tool, Kind::Images, Kind::Session];
}

/// Sums of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sums {
    pub(super) count: i64,
    pub(super) failed: i64,
    pub(super) extra: i64,
    pub(super) input: i64,
    pub(super) output: i64,
    pub(super) cache_read: i64,
    pub(super) cache_write: i64,
    /// Money is added in whole billionths of a USD, which do not drift as fractions do.
    pub(super) nano_usd: i64,
    pub(super) us: i64,
    /// The longest, not a sum.
    pub(super) max_us: i64,
}

impl Sums {
    /// How many there are.
    pub(super) const LEN: usize = 10;
    /// Their columns, in the order of [`values`](Sums::values).
    pub(super) const COLUMNS: [&str; Sums::LEN] = [
        "count",
        "failed",
        "extra",
        "input",
        "output",
        "cache_read",
        "cache_write",
        "nano_usd",
        "us",
        "max_us",
    ];

    pub(super) fn values(&self) -> [i64; Sums::LEN] {
        [
            self.count,
            self.failed,
            self.extra,
            self.input,
            self.output,
            self.cache_read,
            self.cache_write,
            self.nano_usd,
            self.us,
            self.max_us,
        ]
    }

    pub(super) fn from_values(values: [i64; Sums::LEN]) -> Sums {
        let [count, failed, extra, input, output, cache_read, cache_write, nano_usd, us, max_us] = values;
        Sums { count, failed, extra, input, output, cache_read, cache_write, nano_usd, us, max_us }
    }

    pub(super) fn add(&mut self, other: &Sums) {
        let max_us = self.max_us.max(other.max_us);
        let (mut values, others) = (self.values(), other.values());
        for (value, other) in values.iter_mut().zip(others) {
            *value = value.saturating_add(other);
        }
        *self = Sums { max_us, ..Sums::from_values(values) };
    }
}

/// What records have in common that are added up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    hour: i64,
    pub(super) kind: Kind,
    pub(super) a: Box<str>,
    pub(super) b: Box<str>,
}

/// Records of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fact {
    /// The latest moment, in Unix ms.
    pub(super) at: i64,
    pub(super) sums: Sums,
}

/// An error that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ErrorLine {
    pub(super) at: i64,
    pub(super) code: ErrorCode,
    pub(super) channel: Box<str>,
    pub(super) message: String,
}

/// What is written at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Batch {
    pub(super) facts: BTreeMap<Key, Fact>,
    /// In the order of their time, as far as one client's go.
    pub(super) errors: VecDeque<ErrorLine>,
}

impl Batch {
    /// Adds records of a moment.
    pub(super) fn add(&mut self, at: i64, kind: Kind, a: &str, b: &str, sums: &Sums) {
        let at = at.clamp(0, END_UNIX_MS - 1);
        let key = |a: &str, b: &str| Key {
            hour: Granularity::Hour.start(at),
            kind,
            a: shortened(a, MAX_NAME_BYTES).into(),
            b: shortened(b, MAX_NAME_BYTES).into(),
        };
        let mut key_of_this = key(a, b);
        if self.facts.len() >= MAX_SUMS && !self.facts.contains_key(&key_of_this) {
            key_of_this = key(OTHER, OTHER);
        }
        let fact = self.facts.entry(key_of_this).or_insert(Fact { at, sums: Sums::default() });
        fact.at = fact.at.max(at);
        fact.sums.add(sums);
    }

    fn add_error(&mut self, line: ErrorLine) {
        if self.errors.len() == MAX_RECENT_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(line);
    }

    /// Adds what another batch has.
    pub(super) fn merge(&mut self, other: Batch) {
        for (key, fact) in other.facts {
            self.add(fact.at, key.kind, &key.a, &key.b, &fact.sums);
        }
        let mut errors: Vec<ErrorLine> = self.errors.drain(..).chain(other.errors).collect();
        errors.sort_by_key(|line| line.at);
        errors.into_iter().for_each(|line| self.add_error(line));
    }
}

/// One call of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct AiCall<'a> {
    /// Who runs the model.
    pub provider: &'a str,
    /// The model.
    pub model: &'a str,
    /// Tokens read, those of a cache not among them.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens read from a cache.
    pub cache_read_tokens: u64,
    /// Tokens written to a cache.
    pub cache_write_tokens: u64,
    /// What it has cost; `None` if nobody knows, which counts as nothing.
    pub cost_usd: Option<f64>,
    /// The time to the whole answer.
    pub latency: Duration,
    /// Whether there was no answer, or only a part of one.
    pub failed: bool,
    /// The tools that the model wanted used, one name a use.
    pub tools: &'a [&'a str],
}

/// One batch of images.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageBatch<'a> {
    /// Who made them.
    pub provider: &'a str,
    /// The model; empty if the provider has one alone.
    pub model: &'a str,
    /// How many there are.
    pub images: u64,
    /// The time that they took.
    pub took: Duration,
    /// Whether the batch failed.
    pub failed: bool,
}

/// Where other families say what they did. A clone is another handle to the same records. No call waits or fails, and nothing of
/// a call's content is kept: names and numbers only.
#[derive(Clone, Default)]
pub struct Recorder {
    /// `None`: nothing is recorded.
    pending: Option<Arc<Pending>>,
}

impl Recorder {
    /// A recorder that records, unless it is not to.
    pub(super) fn new(enabled: bool) -> Recorder {
        Recorder { pending: enabled.then(Arc::default) }
    }

    /// Records a call of a model, failed ones too.
    pub fn ai_call(&self, call: &AiCall<'_>) {
        if let Some(pending) = &self.pending {
            pending.add_ai_call(unix_ms(), call);
        }
    }

    /// Records a batch of images, failed ones too.
    pub fn images(&self, batch: &ImageBatch<'_>) {
        if let Some(pending) = &self.pending {
            pending.add_images(unix_ms(), batch);
        }
    }

    /// Records a call of an artifact, failed ones too.
    pub fn artifact_call(&self, artifact: &str, took: Duration, failed: bool) {
        if let Some(pending) = &self.pending {
            pending.add_artifact_call(unix_ms(), artifact, took, failed);
        }
    }

    /// What a server tells of its clients; `None` if nothing is recorded.
    pub(super) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.pending.clone().map(|pending| pending as Arc<dyn Observer>)
    }

    /// Takes out what was recorded.
    pub(super) fn drain(&self) -> Batch {
        self.pending.as_ref().map(|pending| pending.drain()).unwrap_or_default()
    }

    /// Puts back what could not be written.
    pub(super) fn put_back(&self, batch: Batch) {
        if let Some(pending) = &self.pending {
            lock(&pending.rest).merge(batch);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("enabled", &self.pending.is_some()).finish()
    }
}

/// Records that wait to be written.
#[derive(Default)]
pub(super) struct Pending {
    shards: [Mutex<Shard>; SHARDS],
    rest: Mutex<Batch>,
}

/// The requests of some clients.
#[derive(Default)]
struct Shard {
    /// Of the present hour. The names stay when the counts are taken, so that a request on a known channel allocates nothing.
    channels: HashMap<Box<str>, Counts>,
    /// Of hours that have gone by, and errors.
    batch: Batch,
}

/// The requests on a channel in an hour, by the place of their code in [`ErrorCode::ALL`]; the last are those without.
#[derive(Default)]
struct Counts {
    hour: i64,
    at: i64,
    by_code: [Sums; ErrorCode::ALL.len() + 1],
}

impl Counts {
    /// Counts a request. What was counted in an earlier hour goes to a batch.
    fn add(&mut self, at: i64, channel: &str, code: Option<ErrorCode>, elapsed: Duration, batch: &mut Batch) {
        let hour = Granularity::Hour.start(at);
        if self.hour != hour {
            self.spill(channel, batch);
            self.hour = hour;
        }
        self.at = at;
        let place = code.map_or(ErrorCode::ALL.len(), |code| code as usize);
        if let Some(sums) = self.by_code.get_mut(place) {
            sums.count += 1;
            sums.failed += i64::from(code.is_some());
            sums.us += micros(elapsed);
            sums.max_us = sums.max_us.max(micros(elapsed));
        }
    }

    /// Moves the counts to a batch.
    fn spill(&mut self, channel: &str, batch: &mut Batch) {
        let codes = ErrorCode::ALL.iter().map(|code| code.as_str()).chain([""]);
        for (code, sums) in codes.zip(&mut self.by_code) {
            if sums.count > 0 {
                batch.add(self.at, Kind::Request, channel, code, &std::mem::take(sums));
            }
        }
    }
}

impl Shard {
    fn add(&mut self, at: i64, channel: &str, code: Option<ErrorCode>, elapsed: Duration) {
        if let Some(counts) = self.channels.get_mut(channel) {
            return counts.add(at, channel, code, elapsed, &mut self.batch);
        }
        let channel = if self.channels.len() < MAX_CHANNELS { channel } else { OTHER };
        let counts = self.channels.entry(channel.into()).or_default();
        counts.add(at, channel, code, elapsed, &mut self.batch);
    }
}

impl Pending {
    fn shard(&self, client: ClientId) -> MutexGuard<'_, Shard> {
        let index = usize::from(client.as_bytes()[15]) % SHARDS;
        lock(&self.shards[index])
    }

    fn add(&self, at: i64, kind: Kind, a: &str, b: &str, sums: Sums) {
        lock(&self.rest).add(at, kind, a, b, &sums);
    }

    fn add_ai_call(&self, at: i64, call: &AiCall<'_>) {
        let sums = Sums {
            count: 1,
            failed: call.failed.into(),
            input: count(call.input_tokens),
            output: count(call.output_tokens),
            cache_read: count(call.cache_read_tokens),
            cache_write: count(call.cache_write_tokens),
            nano_usd: nano_usd(call.cost_usd),
            ..timed(call.latency)
        };
        let mut rest = lock(&self.rest);
        rest.add(at, Kind::Ai, call.provider, call.model, &sums);
        for tool in call.tools {
            rest.add(at, Kind::Tool, "ai", tool, &Sums { count: 1, ..Sums::default() });
        }
    }

    fn add_images(&self, at: i64, batch: &ImageBatch<'_>) {
        let (failed, extra) = (batch.failed.into(), count(batch.images));
        let sums = Sums { count: 1, failed, extra, ..timed(batch.took) };
        self.add(at, Kind::Images, batch.provider, batch.model, sums);
    }

    fn add_artifact_call(&self, at: i64, artifact: &str, took: Duration, failed: bool) {
        let sums = Sums { count: 1, failed: failed.into(), extra: 1, ..timed(took) };
        self.add(at, Kind::Tool, "artifact", artifact, sums);
    }

    fn drain(&self) -> Batch {
        let mut batch = std::mem::take(&mut *lock(&self.rest));
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { channels, batch: rest } = &mut *shard;
            for (channel, counts) in channels {
                counts.spill(channel, rest);
            }
            let taken = std::mem::take(rest);
            drop(shard);
            batch.merge(taken);
        }
        batch
    }
}

impl Observer for Pending {
    /// A session counts where it began, from then on.
    fn connected(&self, visit: &Visit) {
        let at = moment(visit.connected_at_unix_ms);
        self.add(at, Kind::Session, "", "", Sums { count: 1, ..Sums::default() });
    }

    /// Its time does so once it is known.
    fn disconnected(&self, visit: &Visit) {
        let at = moment(visit.connected_at_unix_ms);
        self.add(at, Kind::Session, "", "", Sums { extra: 1, ..timed(visit.elapsed) });
    }

    fn completed(&self, request: &Completed<'_>) {
        let at = moment(request.at_unix_ms);
        let channel = request.channel.unwrap_or(UNKNOWN);
        let mut shard = self.shard(request.client_id);
        shard.add(at, channel, request.error.map(|error| error.code), request.elapsed);
        if let Some(error) = request.error {
            let channel = shortened(channel, MAX_NAME_BYTES).into();
            let line = ErrorLine { at, code: error.code, channel, message: outline(error) };
            shard.batch.add_error(line);
        }
    }
}

/// What may be kept of an error's message: whatever a client sent or a provider said is left out, and with it every
/// credential.
///
/// A constant of the program is kept whole. Of a payload of the wrong shape the member and what was expected, not what came. Of
/// any other message what stands before its first quote, up to its first colon; behind that only numbers and words like
/// `overloaded_error`, by which providers name what went wrong.
fn outline(error: &WireError) -> String {
    let text = match &error.message {
        Cow::Borrowed(constant) => (*constant).to_owned(),
        Cow::Owned(message) => wrong_member(error).unwrap_or_else(|| own_words(message)),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shortened(&text, MAX_MESSAGE_BYTES).to_owned()
}

/// Which member of a payload was wrong, and what was expected.
fn wrong_member(error: &WireError) -> Option<String> {
    let details = error.details.as_str().filter(|details| details.len() <= MAX_DETAILS_BYTES)?;
    let details: serde_json::Value = serde_json::from_str(details).ok()?;
    let detail = |name: &str| details.get(name).and_then(serde_json::Value::as_str);
    Some(format!("{}: expected {}", detail("path")?, detail("expected")?))
}

fn own_words(message: &str) -> String {
    let is_name = |word: &str| {
        let is_status = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        is_status || word.strip_suffix("_error").is_some_and(|kind| !kind.contains(char::is_whitespace))
    };
    let unquoted = message.split(['"', '`', '\'']).next().unwrap_or_default();
    let mut parts = unquoted.split(": ");
    let mut kept = parts.next().unwrap_or_default().trim_end().to_owned();
    for part in parts.take_while(|part| part.len() <= 40 && is_name(part)) {
        kept.push_str(": ");
        kept.push_str(part);
    }
    if kept.len() < message.len() {
        kept.push('…');
    }
    kept
}

/// The beginning of a text, cut between two characters.
fn shortened(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(MAX_COUNT).min(MAX_COUNT)
}

/// Nothing for what is no amount of money.
fn nano_usd(usd: Option<f64>) -> i64 {
    // A float that does not fit becomes the nearest integer that there is, NaN becomes 0.
    ((usd.unwrap_or_default() * 1e9).round() as i64).clamp(0, MAX_NANO_USD)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(MAX_US).min(MAX_US)
}

fn timed(took: Duration) -> Sums {
    Sums { us: micros(took), max_us: micros(took), ..Sums::default() }
}

fn moment(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX).min(END_UNIX_MS - 1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
