//! The JSON scanner, compared with `serde_json`.

use serde_json::{Deserializer, Map, Value};
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::json::{self, JsonError, JsonErrorKind, MAX_DEPTH, Member, Shape};
use switchboard::protocol::payload::Payload;

use super::offset;

/// We accept what `serde_json` accepts, except for lone surrogates and one level of depth. An error is at the first byte
/// that is not allowed there. The members are those of `serde_json`'s map, as exact slices of the text. A written string
/// reads back unchanged. A payload is its text, and parses to the value that `serde_json` reads.
pub fn json(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let verdict = json::validate(&text);
    verdict_matches_serde_json(&text, verdict);
    error_is_at_the_first_wrong_byte(&text, verdict);

    let mut seen = Vec::new();
    let shape = json::members(&text, |member| seen.push(member));
    assert_eq!(shape.map(|_| ()), verdict, "`members` and `validate` accept the same grammar: {text:?}");
    if let Ok(shape) = shape {
        members_cover_the_text(&text, shape, &seen);
        members_are_skipped_alike(&text, &seen);
        elements_are_those_of_serde_json(&without_lone_surrogates(&text));
        members_are_those_of_serde_json(&text, shape, &seen);
    }
    code_is_right(&text);
    let mut written = String::new();
    json::write_string(&mut written, &text);
    string_means(&written, &text);
    payload_is_the_text(&text, Payload::from_json(&*text), verdict);
    if verdict.is_ok() && text.len() < 300 {
        errors_name_the_member(&text);
    }
}

/// A name of up to 64 capitals, digits and underscores is a code, and any other text is not. All codes of an app are counted
/// together, and those of the specification each by itself.
fn code_is_right(name: &str) {
    let is_code = (1..=64).contains(&name.len())
        && name.chars().all(|char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_');
    let code = WireError::custom(name, "said").code;
    assert_eq!(code, if is_code { name } else { "HANDLER_ERROR" });
    let is_known = ErrorCode::ALL.contains(&code);
    assert_eq!(code.label(), if is_known { code.as_str() } else { "custom" });
    assert_eq!(ErrorCode::labels().nth(code.index()), Some(code.label()));
}

/// An error of `serde_json` at any byte is reported with that byte, and with the path of the innermost value there.
fn errors_name_the_member(text: &str) {
    let clean = without_lone_surrogates(text);
    if serde_json::from_str::<Value>(&clean).is_err() {
        // It is deeper than `serde_json` reads at once.
        return;
    }
    let mut paths = vec!["payload".to_owned(); text.len()];
    name_bytes(&clean, text, text.len() - text.trim_start_matches(is_space).len(), "", &mut paths);
    let payload = Payload::from_json(text).expect("it is JSON");
    for end in (1..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let mut was_cut = false;
        let read = payload.read(|text| {
            let read = serde_json::from_str::<Value>(&text[..end]);
            was_cut = read.as_ref().is_err_and(serde_json::Error::is_eof);
            read
        });
        let Err(error) = read else { continue };
        let details = error.details.parse().expect("details are JSON");
        let at = details["byte"].as_u64().expect("a byte") as usize;
        assert!(!was_cut || at == end - 1, "{text:?} ends before {end}, not at {at}");
        assert!(error.message.ends_with(&format!(" at byte {at}")), "{}", error.message);
        path_is_that_of_the_byte(&paths, at, details["path"].as_str().expect("a path"));
    }
}

pub fn path_is_that_of_the_byte(paths: &[String], at: usize, path: &str) {
    let expected = match paths[at].as_str() {
        "" => "payload",
        long if long.len() > 200 => return,
        path => path,
    };
    assert_eq!(path, expected, "byte {at}");
}

/// Gives each byte inside a container the path of the value that it belongs to. What follows a value, up to the comma, belongs to
/// it. Values are found by reading one after the other.
pub fn name_bytes(clean: &str, text: &str, start: usize, path: &str, paths: &mut [String]) {
    let space = |at: usize| at + clean[at..].len() - clean[at..].trim_start_matches(is_space).len();
    let value_end = |at: usize| {
        let (_, rest) = next_value(&clean[at..]).expect("a value");
        clean.len() - rest.len()
    };
    let is_object = match clean.as_bytes()[start] {
        b'{' => true,
        b'[' => false,
        _ => return,
    };
    let (mut at, mut index) = (start + 1, 0);
    loop {
        let first = space(at);
        let mut member = format!("{path}[{index}]");
        if is_object {
            paths[at..first].fill(path.to_owned());
        } else {
            paths[at..first].fill(member.clone());
        }
        if matches!(clean.as_bytes()[first], b']' | b'}') {
            paths[first] = path.to_owned();
            return;
        }
        let mut value = first;
        if is_object {
            let name_end = value_end(first);
            let raw = &text[first + 1..name_end - 1];
            let dot = if path.is_empty() { "" } else { "." };
            member = format!("{path}{dot}{}", json::unescape(raw).unwrap_or(raw.into()));
            value = space(space(name_end) + 1);
        }
        let end = space(value_end(value));
        let is_last = clean.as_bytes()[end] != b',';
        paths[first..end + usize::from(!is_last)].fill(member.clone());
        name_bytes(clean, text, value, &member, paths);
        if is_last {
            paths[end] = path.to_owned();
            return;
        }
        (at, index) = (end + 1, index + 1);
    }
}

/// The text with each lone surrogate escape replaced by an `A`. All lengths stay the same.
pub fn without_lone_surrogates(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let Some(unit) = code_unit(&bytes, at) else {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
            continue;
        };
        let next = code_unit(&bytes, at + 6);
        if matches!(unit, 0xd800..=0xdbff) && matches!(next, Some(0xdc00..=0xdfff)) {
            at += 12;
            continue;
        }
        if matches!(unit, 0xd800..=0xdfff) {
            bytes[at + 2..at + 6].copy_from_slice(b"0041");
        }
        at += 6;
    }
    String::from_utf8(bytes).expect("ASCII was replaced by ASCII")
}

/// The value of the escape `\uXXXX` at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    // `from_str_radix` would accept a sign.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u16::from_str_radix(digits, 16).ok()
}

/// The result of `serde_json` for a text, which can be one level deeper than `serde_json` reads.
enum Serde {
    Reads(Value),
    ReadsInParts,
    Refuses { ends_too_early: bool },
    RefusesDepth,
}

fn serde(text: &str) -> Serde {
    match serde_json::from_str(text) {
        Ok(value) => Serde::Reads(value),
        Err(error) if error.to_string().starts_with("recursion limit exceeded") => {
            if reads_in_parts(text).is_some() { Serde::ReadsInParts } else { Serde::RefusesDepth }
        }
        Err(error) => Serde::Refuses { ends_too_early: error.is_eof() },
    }
}

/// Removes the outermost container and reads its elements with `serde_json`.
fn reads_in_parts(text: &str) -> Option<()> {
    let text = trim(text);
    let object = text.starts_with('{');
    let close = if object { '}' } else { ']' };
    let mut rest = text.get(1..)?;
    loop {
        if object {
            let (name, after) = next_value(rest)?;
            name.as_str()?;
            rest = trim(after).strip_prefix(':')?;
        }
        rest = trim(next_value(rest)?.1);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return trim(rest.strip_prefix(close)?).is_empty().then_some(()),
        }
    }
}

fn next_value(text: &str) -> Option<(Value, &str)> {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, text.get(values.byte_offset()..)?))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

pub fn verdict_matches_serde_json(text: &str, verdict: Result<(), JsonError>) {
    let kind = verdict.map_err(|error| error.kind);
    match serde(&without_lone_surrogates(text)) {
        Serde::Reads(_) | Serde::ReadsInParts => {
            assert_eq!(kind, Ok(()), "serde_json reads {text:?}");
        }
        Serde::Refuses { ends_too_early } => {
            let alike = match kind {
                Ok(()) => false,
                Err(JsonErrorKind::UnexpectedEnd) => ends_too_early,
                // `serde_json` needs all four digits of `\uXXXX` before it checks the first.
                Err(JsonErrorKind::InvalidEscape) => true,
                Err(_) => !ends_too_early,
            };
            assert!(alike, "serde_json refuses {text:?}, ends too early: {ends_too_early}, we say {kind:?}");
        }
        Serde::RefusesDepth => assert!(kind.is_err(), "serde_json refuses {text:?}"),
    }
}

pub fn error_is_at_the_first_wrong_byte(text: &str, verdict: Result<(), JsonError>) {
    let Err(error) = verdict else { return };
    let before = text.get(..error.at).expect("an error is at a character boundary");
    assert!(error.to_string().contains(&format!("byte {}", error.at)), "{error} does not name the byte");
    match json::validate(before) {
        // `0` of `01`, or a value before trailing data.
        Ok(()) => assert!(matches!(error.kind, JsonErrorKind::InvalidNumber | JsonErrorKind::TrailingData)),
        Err(cut) => {
            let expected = JsonError { kind: JsonErrorKind::UnexpectedEnd, at: error.at };
            assert_eq!(cut, expected, "{text:?} is wrong before byte {}", error.at);
        }
    }
    match error.kind {
        JsonErrorKind::UnexpectedEnd => assert_eq!(error.at, text.len()),
        // Only the whole number shows that it is too large.
        JsonErrorKind::NumberOutOfRange => {
            let rest = &text[error.at..];
            let longest = rest.find(|c| !"+-.eE0123456789".contains(c)).unwrap_or(rest.len());
            let number = (1..=longest).rev().find_map(|end| rest[..end].parse::<f64>().ok());
            assert!(number.is_some_and(f64::is_infinite), "{text:?} has no number out of range there");
        }
        JsonErrorKind::TooDeep => {
            assert_eq!(open_containers(before), MAX_DEPTH, "{text:?} is not too deep there");
            assert!(text[error.at..].starts_with(['[', '{']));
        }
        _ => {
            let wrong = text[error.at..].chars().next().map_or(0, char::len_utf8);
            assert_eq!(json::validate(&text[..error.at + wrong]), Err(error), "{text:?}");
        }
    }
}

/// The number of open containers at the end of a text without errors so far.
fn open_containers(text: &str) -> usize {
    let (mut open, mut in_string, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open -= 1,
            _ => {}
        }
    }
    open
}

/// Between the visited parts there is only punctuation, so no member was skipped.
pub fn members_cover_the_text(text: &str, shape: Shape, seen: &[Member<'_>]) {
    let end = match shape {
        Shape::Object { end } => end,
        Shape::Other { at } => {
            assert_eq!(Some(at), text.find(|c| !is_space(c)));
            assert!(seen.is_empty() && !text[at..].starts_with('{'));
            return;
        }
    };
    let punctuation = |from: usize, to: usize| text[from..to].replace(is_space, "");
    let mut at = 0;
    for (index, member) in seen.iter().enumerate() {
        let (name, value) = (offset(text, member.name), offset(text, member.value));
        assert_eq!(punctuation(at, name), if index == 0 { "{\"" } else { ",\"" }, "{text:?}");
        assert_eq!(punctuation(name + member.name.len(), value), "\":", "{text:?}");
        assert_eq!(member.at, value, "{text:?}");
        assert_eq!(member.value, trim(member.value), "{text:?}");
        at = value + member.value.len();
    }
    assert_eq!(punctuation(at, text.len()), if seen.is_empty() { "{}" } else { "}" }, "{text:?}");
    assert_eq!(trim(&text[end..]), "}", "{text:?}");
}

/// The members that are found by quotes and brackets alone are the same, and the visitor can end the search.
pub fn members_are_skipped_alike(text: &str, seen: &[Member<'_>]) {
    for most in [usize::MAX, 1, 2] {
        let mut skipped = Vec::new();
        json::members_of_json(text, |name, value| {
            skipped.push((name, value));
            skipped.len() < most
        });
        let expected: Vec<_> = seen.iter().map(|member| (member.name, member.value)).take(most).collect();
        assert_eq!(skipped, expected, "{text:?}");
    }
}

fn elements_are_those_of_serde_json(text: &str) {
    if let Ok(Value::Array(expected)) = serde_json::from_str(text) {
        let mut elements = Vec::new();
        json::elements_of_json(text, |element| {
            elements.push(serde_json::from_str::<Value>(element).expect("an element is JSON"));
            true
        });
        assert_eq!(elements, expected, "{text:?}");
    }
}

/// The last of duplicate members counts, and names unescape to what `serde_json` reads.
pub fn members_are_those_of_serde_json(text: &str, shape: Shape, seen: &[Member<'_>]) {
    let clean = without_lone_surrogates(text);
    let in_clean = |part: &str| {
        let at = offset(text, part);
        clean[at..at + part.len()].to_owned()
    };
    let mut members = Map::new();
    for member in seen {
        let name = in_clean(member.name);
        let lone_surrogate = name != member.name;
        assert_eq!(json::unescape(member.name).is_none(), lone_surrogate, "{:?}", member.name);
        let name = json::unescape(&name).expect("the name has no lone surrogate").into_owned();
        // Compared with the other names, too, most of which are different.
        for known in seen.iter().filter_map(|other| json::unescape(other.name)).take(20) {
            let is_same = known == name && !lone_surrogate;
            assert_eq!(json::content_is(member.name, &known), is_same, "{:?} is {known:?}", member.name);
        }
        let value = serde_json::from_str(&in_clean(member.value)).expect("a member's value is JSON");
        members.insert(name, value);
    }
    match serde(&clean) {
        Serde::Reads(Value::Object(object)) => assert_eq!(members, object, "{text:?}"),
        Serde::Reads(_) => assert!(matches!(shape, Shape::Other { .. }), "{text:?}"),
        // The values were read one by one above.
        Serde::ReadsInParts => {}
        Serde::Refuses { .. } | Serde::RefusesDepth => panic!("serde_json refuses {text:?}"),
    }
}

pub fn string_means(written: &str, meaning: &str) {
    assert_eq!(serde_json::from_str::<String>(written).expect("a JSON string"), meaning);
    assert_eq!(json::validate(written), Ok(()));
    let content = json::string_content(written).expect("it has quotes");
    assert_eq!(json::unescape(content).as_deref(), Some(meaning));
    let start = meaning.char_indices().next_back().map_or("x", |(at, _)| &meaning[..at]);
    let compared = [meaning, &format!("{meaning}x"), start].map(|text| json::content_is(content, text));
    assert_eq!(compared, [true, false, false], "{written}");
}

/// A payload accepts only JSON, its debug output does not show it, and `?` in a handler converts its errors.
pub fn payload_is_the_text(text: &str, made: Result<Payload, JsonError>, verdict: Result<(), JsonError>) {
    assert_eq!(made.as_ref().map(|_| ()).map_err(|error| *error), verdict, "{text:?}");
    let payload = match made {
        Ok(payload) => payload,
        Err(error) => return converts(WireError::from(error), &error.to_string()),
    };
    assert_eq!((payload.as_str(), payload.is_none()), (Some(text), false));
    assert_eq!(format!("{payload:?}"), format!("Payload({} bytes)", text.len()));
    match (payload.parse(), serde_json::from_str::<Value>(text)) {
        (Ok(value), Ok(expected)) => {
            assert_eq!(value, expected, "{text:?}");
            assert_eq!(Payload::from(value).as_str(), Some(expected.to_string().as_str()));
        }
        (Err(error), Err(theirs)) => {
            converts(error.into(), &format!("payload cannot be read: {theirs}"));
        }
        (ours, theirs) => panic!("{text:?} is {ours:?}, and {theirs:?} to serde_json"),
    }
    let none = Payload::from(());
    assert!(none.is_none() && none.parse().is_ok_and(|value| value.is_null()));
    assert_eq!(format!("{none:?}"), "Payload(none)");
}

fn converts(error: WireError, message: &str) {
    let (display, debug) = (format!("HANDLER_ERROR: {message}"), format!("{error:?}"));
    assert_eq!(error.to_string(), display);
    let any: Box<dyn std::error::Error> = error.clone().into();
    let on_any_thread: Box<dyn std::error::Error + Send + Sync> = error.into();
    assert_eq!((any.to_string(), on_any_thread.to_string()), (display.clone(), display));
    assert_eq!((format!("{any:?}"), format!("{on_any_thread:?}")), (debug.clone(), debug));
}
