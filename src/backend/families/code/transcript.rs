//! The lines of a transcript. In: bytes of a JSONL file, and single lines. Out: the content of a line, or why it cannot be used.
//! It reads no file and never panics: the files belong to another program, which can be writing at this moment, can have been
//! killed in the middle of a line, and adds new types of lines in many versions.
//!
//! A line is an object with a `type`. `user`, `assistant` and `system` are messages; `summary`, `custom-title` and `ai-title`
//! name a session; `file-history-snapshot` and `file-history-delta` list the backups of a prompt. Lines with a `uuid` and a
//! `parentUuid` form a tree, in which invisible lines can be between visible ones.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::protocol::json;

/// Longest id that is kept, in bytes: requests cannot contain longer ones.
pub const MAX_ID_BYTES: usize = 128;
/// Longest title, in bytes. A longer one is cut.
const MAX_TITLE_BYTES: usize = 200;
/// Longest working directory, and longest name of a model, that are kept, in bytes.
const MAX_NAME_BYTES: usize = 4 << 10;
/// Deepest nesting of an entry's content: the limit for a message, minus what a response puts around the content.
const MAX_CONTENT_DEPTH: usize = 100;

/// Known types without visible content. They are nodes of the tree if they have a `uuid`.
const BOOKKEEPING: [&str; 12] = [
    "agent-name",
    "attachment",
    "bridge-session",
    "cost-state",
    "frame-link",
    "last-prompt",
    "mode",
    "permission-mode",
    "pr-link",
    "progress",
    "queue-operation",
    "tag",
];

/// A decoded line.
#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    /// The session that the line names. The name of a session's main file has priority.
    pub session_id: Option<String>,
    /// The working directory.
    pub cwd: Option<String>,
    /// When it was written, in Unix ms.
    pub at: Option<i64>,
    /// Its id in the tree.
    pub id: Option<String>,
    /// The id of the line that it answers or follows.
    pub parent_id: Option<String>,
    /// Whether it belongs to a subagent.
    pub sidechain: bool,
    /// Its content.
    pub kind: Kind<'a>,
}

/// The content of a line.
#[derive(Debug, PartialEq)]
pub enum Kind<'a> {
    /// A visible entry.
    Entry(Entry<'a>),
    /// A title for the session that has the entry `leaf_id`, which can be another session.
    Summary {
        /// An entry of that session.
        leaf_id: String,
        /// The title.
        title: String,
    },
    /// The title that a person gave the session.
    CustomTitle(String),
    /// The title that a model gave the session.
    AiTitle(String),
    /// Backups of files, as they were before a prompt.
    Backups(Backups),
    /// A known type without visible content. Only its position in the tree is used.
    Bookkeeping,
    /// An unknown type. It is counted, and its position in the tree is used.
    Unknown,
}

/// A message.
#[derive(Debug, PartialEq)]
pub struct Entry<'a> {
    /// `user`, `assistant`, `system`, or `tool` for a user's line with only results of tools.
    pub role: &'static str,
    /// The model that wrote it.
    pub model: Option<String>,
    /// The numbers of input and output tokens.
    pub usage: Option<(i64, i64)>,
    /// Whether the program wrote it on behalf of the user.
    pub is_meta: bool,
    content: &'a str,
    blocks: Vec<Value>,
}

/// The backups of a prompt.
#[derive(Debug, PartialEq)]
pub struct Backups {
    /// The id of the prompt.
    pub message_id: String,
    /// Whether these are all tracked files, or one more.
    pub complete: bool,
    /// The names of the backups by the path of the file; `None` for a file that did not exist.
    pub files: BTreeMap<String, Option<String>>,
}

/// Why a line cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// It is not UTF-8.
    NotUtf8,
    /// It is not JSON, or not an object with a `type`.
    NotJson,
    /// It has a known type, but a member is missing or has the wrong form.
    OddMembers,
    /// Its content is nested too deeply for a response.
    TooDeep,
}

/// Decodes a line.
///
/// # Errors
/// When it cannot be used. The next line is not affected.
pub fn decode(line: &[u8]) -> Result<Line<'_>, LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
    let members = members(text).ok_or(LineError::NotJson)?;
    let kind = members.text("type").ok_or(LineError::NotJson)?;
    let id = members.id("uuid")?;
    let kind = match kind.as_str() {
        "user" | "assistant" if id.is_none() => return Err(LineError::OddMembers),
        "user" => Kind::Entry(message(&members, "user")?),
        "assistant" => Kind::Entry(message(&members, "assistant")?),
        "system" => system(&members, id.is_some())?,
        "summary" => Kind::Summary {
            leaf_id: members.id("leafUuid")?.ok_or(LineError::OddMembers)?,
            title: members.title("summary")?,
        },
        "custom-title" => Kind::CustomTitle(members.title("customTitle")?),
        "ai-title" => Kind::AiTitle(members.title("aiTitle")?),
        "file-history-snapshot" => Kind::Backups(snapshot(&members)?),
        "file-history-delta" => Kind::Backups(delta(&members)?),
        name if BOOKKEEPING.contains(&name) => Kind::Bookkeeping,
        _ => Kind::Unknown,
    };
    // After a conversation was compacted a new tree starts, with a link to the line that it continues.
    let parent_id = match members.id("parentUuid")? {
        None => members.id("logicalParentUuid")?,
        parent_id => parent_id,
    };
    Ok(Line {
        session_id: members.id("sessionId")?,
        cwd: members.text("cwd").filter(|cwd| cwd.len() <= MAX_NAME_BYTES),
        at: members.time("timestamp"),
        parent_id: parent_id.filter(|parent_id| Some(parent_id) != id.as_ref()),
        id,
        sidechain: members.is_true("isSidechain"),
        kind,
    })
}

impl Entry<'_> {
    /// Returns the content as an array of content blocks, unchanged except for lone surrogates, which most JSON parsers refuse.
    pub fn content_json(&self) -> String {
        let content = without_lone_surrogates(self.content);
        if content.starts_with('"') { format!(r#"[{{"type":"text","text":{content}}}]"#) } else { content }
    }

    /// Returns the searchable text, cut to a number of bytes: texts, thinking, and the input and output of tools.
    pub fn text(&self, max_bytes: usize) -> String {
        let mut excerpt = Excerpt { text: String::new(), room: max_bytes };
        excerpt.add_blocks(&self.blocks);
        excerpt.text
    }

    /// Returns the first words if a person wrote them: the title of a session without another one.
    pub fn prompt(&self) -> Option<String> {
        let text = self.text(4 * MAX_TITLE_BYTES);
        // Commands and their output are in tags.
        let is_prompt = self.role == "user" && !self.is_meta && !text.trim_start().starts_with('<');
        title_of(&text).filter(|_| is_prompt)
    }
}

/// Returns the first line of a text that is not blank, shortened.
pub fn title_of(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let title = cut(line, MAX_TITLE_BYTES);
    Some(if title.len() < line.len() { format!("{title}…") } else { title.to_owned() })
}

/// Returns the start of a text, cut between two characters.
fn cut(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// The members of an object, as JSON text. Of two with the same name the last one counts.
struct Members<'a>(BTreeMap<String, &'a str>);

fn members(text: &str) -> Option<Members<'_>> {
    let mut members = BTreeMap::new();
    let shape = json::members(text, |member| {
        members.insert(unescape(member.name), member.value);
    });
    matches!(shape, Ok(json::Shape::Object { .. })).then_some(Members(members))
}

impl<'a> Members<'a> {
    /// Returns a member that exists and is not null.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied().filter(|value| *value != "null")
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(json::string_content).map(unescape)
    }

    fn object(&self, name: &str) -> Option<Members<'a>> {
        self.get(name).and_then(members)
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// Returns an id, which can be missing but must not be anything else.
    fn id(&self, name: &str) -> Result<Option<String>, LineError> {
        if self.get(name).is_none() {
            return Ok(None);
        }
        let id = self.text(name).filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()));
        id.map(Some).ok_or(LineError::OddMembers)
    }

    fn title(&self, name: &str) -> Result<String, LineError> {
        self.text(name).as_deref().and_then(title_of).ok_or(LineError::OddMembers)
    }

    fn count(&self, name: &str) -> i64 {
        self.get(name).and_then(|value| value.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
    }

    fn time(&self, name: &str) -> Option<i64> {
        unix_ms(&self.text(name)?)
    }
}

fn message<'a>(line: &Members<'a>, role: &'static str) -> Result<Entry<'a>, LineError> {
    let message = line.object("message").ok_or(LineError::OddMembers)?;
    let content = message.get("content").ok_or(LineError::OddMembers)?;
    let blocks = blocks(content)?;
    let is_result = |block: &Value| block.get("type").is_some_and(|name| name == "tool_result");
    let only_results = role == "user" && !blocks.is_empty() && blocks.iter().all(is_result);
    let usage = message.object("usage");
    Ok(Entry {
        role: if only_results { "tool" } else { role },
        model: message.text("model").filter(|model| (1..=MAX_NAME_BYTES).contains(&model.len())),
        usage: usage.map(|usage| (usage.count("input_tokens"), usage.count("output_tokens"))),
        is_meta: line.is_true("isMeta"),
        content,
        blocks,
    })
}

/// Reads the content of a system line, which many do not have: durations, results of hooks.
fn system<'a>(line: &Members<'a>, has_id: bool) -> Result<Kind<'a>, LineError> {
    let Some(content) = line.get("content").filter(|content| has_id && *content != r#""""#) else {
        return Ok(Kind::Bookkeeping);
    };
    let blocks = blocks(content)?;
    Ok(Kind::Entry(Entry { role: "system", model: None, usage: None, is_meta: false, content, blocks }))
}

/// Reads the blocks of a content, which is a text or an array of objects with a `type`.
fn blocks(content: &str) -> Result<Vec<Value>, LineError> {
    if let Some(text) = json::string_content(content) {
        return Ok(vec![serde_json::json!({"type": "text", "text": unescape(text)})]);
    }
    if !content.starts_with('[') {
        return Err(LineError::OddMembers);
    }
    if depth(content) > MAX_CONTENT_DEPTH {
        return Err(LineError::TooDeep);
    }
    let blocks: Vec<Value> = serde_json::from_str(content)
        .or_else(|_| serde_json::from_str(&without_lone_surrogates(content)))
        .map_err(|_| LineError::OddMembers)?;
    let has_type = |block: &Value| block.get("type").is_some_and(Value::is_string);
    if blocks.iter().all(has_type) { Ok(blocks) } else { Err(LineError::OddMembers) }
}

fn snapshot(line: &Members<'_>) -> Result<Backups, LineError> {
    let snapshot = line.object("snapshot").ok_or(LineError::OddMembers)?;
    let tracked = snapshot.object("trackedFileBackups").ok_or(LineError::OddMembers)?;
    let message_id = match snapshot.id("messageId")? {
        None => line.id("messageId")?,
        id => id,
    };
    let backup = |(path, value): (String, &str)| Some((path, backup_name(&members(value)?)));
    Ok(Backups {
        message_id: message_id.ok_or(LineError::OddMembers)?,
        complete: true,
        files: tracked.0.into_iter().filter_map(backup).collect(),
    })
}

fn delta(line: &Members<'_>) -> Result<Backups, LineError> {
    let path = line.text("trackingPath").ok_or(LineError::OddMembers)?;
    let backup = line.object("backup").ok_or(LineError::OddMembers)?;
    Ok(Backups {
        message_id: line.id("messageId")?.ok_or(LineError::OddMembers)?,
        complete: false,
        files: BTreeMap::from([(path, backup_name(&backup))]),
    })
}

fn backup_name(backup: &Members<'_>) -> Option<String> {
    backup.text("backupFileName").filter(|name| (1..=MAX_ID_BYTES).contains(&name.len()))
}

/// Collects the texts of blocks, one per line, up to a length. The nesting was limited when the content was accepted.
struct Excerpt {
    text: String,
    room: usize,
}

impl Excerpt {
    /// Adds the texts of blocks, results of tools and the arguments of their calls included.
    fn add_blocks(&mut self, blocks: &[Value]) {
        for block in blocks {
            for name in ["text", "thinking", "name", "input", "content"] {
                if let Some(value) = block.get(name) {
                    self.add_strings(value);
                }
            }
        }
    }

    fn add_strings(&mut self, value: &Value) {
        match value {
            Value::String(part) => self.add(part),
            // Nested blocks have images and ids too.
            Value::Array(values) if values.iter().all(|value| value.get("type").is_some()) => {
                self.add_blocks(values);
            }
            Value::Array(values) => values.iter().for_each(|value| self.add_strings(value)),
            Value::Object(members) => members.values().for_each(|value| self.add_strings(value)),
            _ => {}
        }
    }

    fn add(&mut self, part: &str) {
        let between = if self.text.is_empty() { "" } else { "\n" };
        for part in [between, part] {
            let fits = cut(part, self.room);
            self.text.push_str(fits);
            // After a part that did not fit nothing else is added.
            self.room = if fits.len() < part.len() { 0 } else { self.room - fits.len() };
        }
    }
}

/// Returns the depth of nesting of JSON text.
fn depth(json: &str) -> usize {
    let (mut deepest, mut open, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Decodes the content of a JSON string. JavaScript can cut a text between two surrogates and writes the lone one as an escape;
/// it becomes a replacement character.
fn unescape(content: &str) -> String {
    match json::unescape(content) {
        Some(text) => text.into_owned(),
        None => json::unescape(&without_lone_surrogates(content)).unwrap_or_default().into_owned(),
    }
}

/// Returns the same JSON with a replacement character for each escaped lone surrogate.
fn without_lone_surrogates(json: &str) -> String {
    let mut repaired = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        let low = escape.get(6..).and_then(code_unit).is_some_and(|unit| (0xdc00..=0xdfff).contains(&unit));
        let length = match code_unit(escape) {
            Some(0xd800..=0xdbff) if low => 12,
            Some(0xd800..=0xdfff) => 0,
            Some(_) => 6,
            None => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        let (kept, after) = match length {
            0 => ("\\ufffd", escape.get(6..)),
            length => (escape.get(..length).unwrap_or(escape), escape.get(length..)),
        };
        repaired.push_str(kept);
        rest = after.unwrap_or_default();
    }
    repaired.push_str(rest);
    repaired
}

/// Returns the value of the escape `\uXXXX` at the start of a text.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.get(..6)?.strip_prefix("\\u")?;
    // `from_str_radix` would accept a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

/// Returns the Unix ms of a time like `2026-01-20T11:57:17.716Z` or `2026-01-20T11:57:17+01:00`.
fn unix_ms(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, offset_minutes) = match time.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (time, offset) = time.split_at(at);
            let [hours, minutes] = numbers(offset.get(1..)?, ':')?;
            let minutes = (hours * 60 + minutes).min(24 * 60);
            (time, if offset.starts_with('-') { -minutes } else { minutes })
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':')?;
    let millis: i64 = fraction.bytes().all(|byte| byte.is_ascii_digit()).then(|| {
        let digit = |at: usize| fraction.as_bytes().get(at).map_or(0, |byte| i64::from(byte - b'0'));
        digit(0) * 100 + digit(1) * 10 + digit(2)
    })?;
    let fits = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days of the civil calendar, with years that start in March, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let minutes = (days * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second) * 1000 + millis).filter(|unix_ms| *unix_ms >= 0)
}

/// Reads exactly `N` numbers of at most four digits.
fn numbers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let number = |part: &str| {
        let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse().ok())?
    };
    let numbers: Vec<i64> = text.split(separator).map(number).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// Splits a stream of bytes into lines. It buffers at most one line, and nothing of a line that is too long.
#[derive(Debug)]
pub struct Splitter {
    max_line_bytes: usize,
    line: Vec<u8>,
    /// The position of the line in the file.
    start: u64,
    is_too_long: bool,
}

/// A line that [`Splitter::feed`] has found.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The position of the line in the file or, if it was too long, of its end.
    pub at: u64,
    /// The line without its line feed; `None` if it was too long.
    pub line: Option<&'a [u8]>,
}

impl Splitter {
    /// Starts at a position in the file: at the start of a line, or inside of one that is too long.
    pub fn new(at: u64, inside_long_line: bool, max_line_bytes: usize) -> Splitter {
        Splitter { max_line_bytes, line: Vec::new(), start: at, is_too_long: inside_long_line }
    }

    /// Takes the next bytes, and calls `each` with every line that ends in them.
    pub fn feed(&mut self, bytes: &[u8], mut show: impl FnMut(Piece<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match part.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (part, false),
            };
            if !self.is_too_long && self.line.len() + content.len() > self.max_line_bytes {
                self.is_too_long = true;
                self.start += self.line.len() as u64;
                self.line = Vec::new();
            }
            if self.is_too_long {
                self.start += part.len() as u64;
            } else {
                self.line.extend_from_slice(content);
            }
            if !ends {
                continue;
            }
            if self.is_too_long {
                self.is_too_long = false;
                show(Piece { at: self.start, line: None });
            } else {
                show(Piece { at: self.start, line: Some(&self.line) });
                self.start += self.line.len() as u64 + 1;
                self.line.clear();
            }
        }
    }

    /// Returns the unfinished line and its position.
    pub fn rest(&self) -> (u64, &[u8]) {
        (self.start, &self.line)
    }

    /// Treats the unfinished line as complete.
    pub fn take_rest(&mut self) {
        self.start += self.line.len() as u64;
        self.line.clear();
    }

    /// Whether the current line is too long. Then its bytes so far precede [`rest`](Splitter::rest).
    pub fn is_inside_long_line(&self) -> bool {
        self.is_too_long
    }
}

#[cfg(test)]
mod tests;
