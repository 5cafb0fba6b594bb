//! Records in memory, until they are written. In: requests, sessions, calls of models and artifacts, images. Out: batches for the
//! database. Recording waits for no file, and for a lock only briefly: a record is a few additions.
//!
//! Records with the same hour, kind and names are added up, so no record is lost. Beyond a limit only its name is lost, and it
//! counts under [`OTHER`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::error::{ErrorCode, WireError};
use crate::server::{ClientId, Completed, Observer, Visit};

use super::calendar::{END_UNIX_MS, Granularity};
use crate::backend::shared::clock::unix_ms;

/// The channel of requests for which no handler was called.
pub(super) const UNKNOWN: &str = "(unknown)";
/// The name of records beyond the limit of names.
pub(super) const OTHER: &str = "(other)";
/// Most error messages that are kept between two writes: the newest.
pub(super) const MAX_RECENT_ERRORS: usize = 50;
/// Longest error message that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 200;
/// Longer details of an error are not those of a payload of the wrong shape.
const MAX_DETAILS_BYTES: usize = 4 << 10;
/// Longest name, in bytes. A longer one is cut.
const MAX_NAME_BYTES: usize = 256;
/// Most channels that are distinguished between two writes.
const MAX_CHANNELS: usize = 1_000;
/// Most sums with their own names between two writes.
const MAX_SUMS: usize = 4_096;
/// The number of shards, so that tasks of clients rarely contend.
const SHARDS: usize = 16;
/// Upper bounds of one record, so that sums stay far below 2^63: a billion tokens or images, ten thousand USD in billionths,
/// 1000 days in µs. Real calls are far below.
const MAX_COUNT: i64 = 1_000_000_000;
const MAX_NANO_USD: i64 = 10_000 * 1_000_000_000;
const MAX_US: i64 = 1_000 * 86_400 * 1_000_000;

/// The kind of a record, which defines the meaning of `a`, `b` and the sums.
///
/// | kind | a | b | count | failed | extra | us |
/// |---|---|---|---|---|---|---|
/// | `Request` | channel | error's code, or empty | requests | those with a code | - | time of the handler |
/// | `Ai` | provider | model | calls | failed ones | - | time to the whole answer |
/// | `Tool` | `ai` or `artifact` | tool | calls | failed ones | calls whose time is known | their time |
/// | `Images` | provider | model | batches | failed ones | images | time |
/// | `Session` | - | - | sessions begun | - | sessions ended | their time |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    // The numbers are stored in the database.
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
    /// Money is added in integers, billionths of a USD, so there are no rounding errors.
    pub(super) nano_usd: i64,
    pub(super) us: i64,
    /// A maximum, not a sum.
    pub(super) max_us: i64,
}

impl Sums {
    /// The number of fields.
    pub(super) const LEN: usize = 10;
    /// The names of their columns, in the order of [`values`](Sums::values).
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

/// The key of records that are added up.
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
    /// The time of the latest record, in Unix ms.
    pub(super) at: i64,
    pub(super) sums: Sums,
}

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ErrorLine {
    pub(super) at: i64,
    pub(super) code: ErrorCode,
    pub(super) channel: Box<str>,
    pub(super) message: String,
}

/// Records that are written together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Batch {
    pub(super) facts: BTreeMap<Key, Fact>,
    /// Sorted by time for each client.
    pub(super) errors: VecDeque<ErrorLine>,
}

impl Batch {
    /// Adds records of one time.
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

    /// Adds the records of another batch.
    pub(super) fn merge(&mut self, other: Batch) {
        for (key, fact) in other.facts {
            self.add(fact.at, key.kind, &key.a, &key.b, &fact.sums);
        }
        let mut errors: Vec<ErrorLine> = self.errors.drain(..).chain(other.errors).collect();
        errors.sort_by_key(|line| line.at);
        errors.into_iter().for_each(|line| self.add_error(line));
    }
}

/// A call of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct AiCall<'a> {
    /// The provider of the model.
    pub provider: &'a str,
    /// The model.
    pub model: &'a str,
    /// Input tokens, without those of a cache.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Tokens read from a cache.
    pub cache_read_tokens: u64,
    /// Tokens written to a cache.
    pub cache_write_tokens: u64,
    /// The cost; `None` if it is not known, which counts as 0.
    pub cost_usd: Option<f64>,
    /// The time until the answer was complete.
    pub latency: Duration,
    /// Whether there was no answer, or an incomplete one.
    pub failed: bool,
    /// The tools that the model called, one name per call.
    pub tools: &'a [&'a str],
}

/// A batch of images.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageBatch<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The model; empty if the provider has only one.
    pub model: &'a str,
    /// The number of fields.
    pub images: u64,
    /// The time that the batch took.
    pub took: Duration,
    /// Whether the batch failed.
    pub failed: bool,
}

/// Records calls of other families. A clone is another handle to the same records. Its methods never wait or fail, and keep only
/// names and numbers, no content of a call.
#[derive(Clone, Default)]
pub struct Recorder {
    /// `None` if nothing is recorded.
    pending: Option<Arc<Pending>>,
}

impl Recorder {
    /// Returns a recorder; without `record` it ignores everything.
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

    /// Returns the observer of a server's clients; `None` if nothing is recorded.
    pub(super) fn observer(&self) -> Option<Arc<dyn Observer>> {
        self.pending.clone().map(|pending| pending as Arc<dyn Observer>)
    }

    /// Takes the records out.
    pub(super) fn drain(&self) -> Batch {
        self.pending.as_ref().map(|pending| pending.drain()).unwrap_or_default()
    }

    /// Puts back records that could not be written.
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

/// Records that are not written yet.
#[derive(Default)]
pub(super) struct Pending {
    shards: [Mutex<Shard>; SHARDS],
    rest: Mutex<Batch>,
}

/// The requests of some clients.
#[derive(Default)]
struct Shard {
    /// Counts of the current hour. The names are kept when the counts are taken, so a request on a known channel allocates
    /// nothing.
    channels: HashMap<Box<str>, Counts>,
    /// Counts of earlier hours, and errors.
    batch: Batch,
}

/// The requests on a channel in an hour, by the index of their code; the last ones succeeded.
#[derive(Default)]
struct Counts {
    hour: i64,
    at: i64,
    by_code: [Sums; ErrorCode::COUNTERS + 1],
}

impl Counts {
    /// Counts a request. Counts of an earlier hour are moved to a batch.
    fn add(
        &mut self,
        at: i64,
        channel: &str,
        code: Option<&ErrorCode>,
        elapsed: Duration,
        batch: &mut Batch,
    ) {
        let hour = Granularity::Hour.start(at);
        if self.hour != hour {
            self.spill(channel, batch);
            self.hour = hour;
        }
        self.at = at;
        let place = code.map_or(ErrorCode::COUNTERS, ErrorCode::index);
        if let Some(sums) = self.by_code.get_mut(place) {
            sums.count += 1;
            sums.failed += i64::from(code.is_some());
            sums.us += micros(elapsed);
            sums.max_us = sums.max_us.max(micros(elapsed));
        }
    }

    /// Moves the counts to a batch.
    fn spill(&mut self, channel: &str, batch: &mut Batch) {
        let codes = ErrorCode::labels().chain([""]);
        for (code, sums) in codes.zip(&mut self.by_code) {
            if sums.count > 0 {
                batch.add(self.at, Kind::Request, channel, code, &std::mem::take(sums));
            }
        }
    }
}

impl Shard {
    fn add(&mut self, at: i64, channel: &str, code: Option<&ErrorCode>, elapsed: Duration) {
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
    /// A session counts in the hour in which it started.
    fn connected(&self, visit: &Visit<'_>) {
        let at = moment(visit.connected_at_unix_ms);
        self.add(at, Kind::Session, "", "", Sums { count: 1, ..Sums::default() });
    }

    /// Its duration is added to the same hour when it ends.
    fn disconnected(&self, visit: &Visit<'_>) {
        let at = moment(visit.connected_at_unix_ms);
        self.add(at, Kind::Session, "", "", Sums { extra: 1, ..timed(visit.elapsed) });
    }

    fn completed(&self, request: &Completed<'_>) {
        let at = moment(request.at_unix_ms);
        let channel = request.channel.unwrap_or(UNKNOWN);
        let mut shard = self.shard(request.client_id);
        shard.add(at, channel, request.error.map(|error| &error.code), request.elapsed);
        if let Some(error) = request.error {
            let channel = shortened(channel, MAX_NAME_BYTES).into();
            let line = ErrorLine { at, code: error.code.clone(), channel, message: outline(error) };
            shard.batch.add_error(line);
        }
    }
}

/// Returns the part of an error message that is kept. It contains no words of clients or providers, and so no credentials.
///
/// A constant of the program is kept completely. For a payload of the wrong shape the member and the expected type are kept, not
/// the value. Of any other message the text up to its first quote or colon is kept; after a colon only numbers and words like
/// `overloaded_error`, which are error codes of providers.
fn outline(error: &WireError) -> String {
    let text = match &error.message {
        Cow::Borrowed(constant) => (*constant).to_owned(),
        Cow::Owned(message) => wrong_member(error).unwrap_or_else(|| own_words(message)),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shortened(&text, MAX_MESSAGE_BYTES).to_owned()
}

/// Returns which member of a payload was wrong, and what was expected.
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

/// Returns the start of a text, cut between two characters.
fn shortened(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(MAX_COUNT).min(MAX_COUNT)
}

/// Returns billionths of a USD; 0 for a number that is not an amount of money.
fn nano_usd(usd: Option<f64>) -> i64 {
    // `as` saturates, and NaN becomes 0.
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
