//! Reading the members of a payload. In: the payload of a request. Out: values of the right type and size, or an error that
//! names the wrong member: `details: {path, expected, got}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::protocol::error::WireError;
use crate::protocol::json;
use crate::protocol::payload::Payload;

use super::encode::Object;

/// Longest id that is accepted, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Most members of an object. A payload can have as many as fit into a message; nothing needs more than the settings have.
const MAX_MEMBERS: usize = 10_000;

/// The members of an object. A method takes the name of a member and what it can be, and returns `None` if there is no such
/// member, or it is `null`. Its name starts with `required` if that is an error.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    /// The prefix of a member's name in errors: empty, or for example `usage.`.
    prefix: String,
    members: BTreeMap<Cow<'a, str>, &'a str>,
}

impl<'a> Fields<'a> {
    /// Reads a payload, which must be an object. No payload, or `null`, counts as an object without members. Of two members with
    /// the same name the last one counts.
    ///
    /// # Errors
    /// When the payload is anything else.
    pub(crate) fn decode(payload: &'a Payload) -> Result<Fields<'a>, WireError> {
        match payload.as_str() {
            None | Some("null") => Ok(Fields { prefix: String::new(), members: BTreeMap::new() }),
            Some(text) => Fields::of(text, "payload", String::new()),
        }
    }

    /// Reads an object that is not the payload itself. `path` names it in errors.
    ///
    /// # Errors
    /// When it is anything else.
    pub(crate) fn within(text: &'a str, path: &str) -> Result<Fields<'a>, WireError> {
        Fields::of(text, path, format!("{path}."))
    }

    fn of(text: &'a str, path: &str, prefix: String) -> Result<Fields<'a>, WireError> {
        if kind_of(text) != "object" {
            return Err(wrong(path, "object", kind_of(text)));
        }
        let mut members = BTreeMap::new();
        let (mut count, mut unreadable) = (0, false);
        json::members_of_json(text, |name, value| {
            count += 1;
            match json::unescape(name) {
                Some(name) => drop(members.insert(name, value)),
                None => unreadable = true,
            }
            count <= MAX_MEMBERS && !unreadable
        });
        if unreadable {
            return Err(wrong(path, "object with names in Unicode", "a name with a lone surrogate"));
        }
        if count > MAX_MEMBERS {
            return Err(wrong(path, &format!("object of at most {MAX_MEMBERS} members"), "more"));
        }
        Ok(Fields { prefix, members })
    }

    /// Returns every member with its JSON text, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.members.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// Whether there is such a member, and it is not `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    /// Whether there is such a member, and it is `null`. For the members for which that is a value.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.members.get(name) == Some(&"null")
    }

    /// Returns the JSON text of an optional member. Many clients write `null` for a value that they do not have.
    fn given(&self, name: &str) -> Option<&'a str> {
        self.members.get(name).copied().filter(|value| *value != "null")
    }

    /// Returns the JSON text of a member, `null` too.
    ///
    /// # Errors
    /// When there is no such member.
    pub(crate) fn required_json(&self, name: &str) -> Result<&'a str, WireError> {
        self.members.get(name).copied().ok_or_else(|| self.wrong(name, "JSON value", "nothing"))
    }

    /// Returns a string whose length in bytes is in `bytes`.
    ///
    /// # Errors
    /// When the member is something else.
    pub(crate) fn text(&self, name: &str, bytes: RangeInclusive<usize>) -> Result<Option<String>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let expected = || expected_text(&bytes);
        let Some(content) = json::string_content(value) else {
            return Err(self.wrong(name, &expected(), kind_of(value)));
        };
        let Some(text) = json::unescape(content) else {
            return Err(self.wrong(name, "string in Unicode", "a lone surrogate"));
        };
        if !bytes.contains(&text.len()) {
            return Err(self.wrong(name, &expected(), &format!("{} bytes", text.len())));
        }
        Ok(Some(text.into_owned()))
    }

    /// Returns a string, as [`text`](Fields::text) does.
    ///
    /// # Errors
    /// When the member is missing, or something else.
    pub(crate) fn required_text(
        &self,
        name: &str,
        bytes: RangeInclusive<usize>,
    ) -> Result<String, WireError> {
        let missing = || self.missing(name, &expected_text(&bytes));
        self.text(name, bytes.clone())?.ok_or_else(missing)
    }

    /// Returns an id. It is not checked whether anything has it.
    ///
    /// # Errors
    /// When the member is not a string.
    pub(crate) fn id(&self, name: &str) -> Result<Option<String>, WireError> {
        self.text(name, 1..=MAX_ID_BYTES)
    }

    /// Returns an id, as [`id`](Fields::id) does.
    ///
    /// # Errors
    /// When the member is missing, or not a string.
    pub(crate) fn required_id(&self, name: &str) -> Result<String, WireError> {
        self.required_text(name, 1..=MAX_ID_BYTES)
    }

    /// Returns an integer in a range. `5.0` and `5e0` are integers, as in JavaScript.
    ///
    /// # Errors
    /// When the member is something else.
    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        match integer_of(value) {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ => {
                let expected = format!("integer {}..={}", range.start(), range.end());
                let got = if kind_of(value) == "number" { shortened(value) } else { kind_of(value) };
                Err(self.wrong(name, &expected, got))
            }
        }
    }

    /// Returns an integer, as [`integer`](Fields::integer) does.
    ///
    /// # Errors
    /// When the member is missing, or something else.
    pub(crate) fn required_integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<i64, WireError> {
        let missing = || self.missing(name, &format!("integer {}..={}", range.start(), range.end()));
        self.integer(name, range.clone())?.ok_or_else(missing)
    }

    /// Returns a number in a range.
    ///
    /// # Errors
    /// When the member is something else.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let is_number = kind_of(value) == "number";
        match value.parse().ok().filter(|number| is_number && range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let got = if is_number { shortened(value) } else { kind_of(value) };
                Err(self.wrong(name, &format!("number {}..={}", range.start(), range.end()), got))
            }
        }
    }

    /// Returns the strings of an array. Their number must be in `count`, the length of each, in bytes, in `bytes`.
    ///
    /// # Errors
    /// When the member, or one of its elements, is something else.
    pub(crate) fn texts(
        &self,
        name: &str,
        count: RangeInclusive<usize>,
        bytes: RangeInclusive<usize>,
    ) -> Result<Option<Vec<String>>, WireError> {
        let Some(elements) = self.elements(name, &count)? else { return Ok(None) };
        let members = elements.into_iter().enumerate();
        let named: BTreeMap<Cow<'_, str>, &str> =
            members.map(|(index, value)| (Cow::Owned(format!("{name}[{index}]")), value)).collect();
        let fields = Fields { prefix: self.prefix.clone(), members: named };
        let count = fields.members.len();
        (0..count)
            .map(|index| fields.required_text(&format!("{name}[{index}]"), bytes.clone()))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Returns the objects of an array. Their number must be in `count`.
    ///
    /// # Errors
    /// When the member is missing, or it or one of its elements is something else.
    pub(crate) fn required_objects(
        &self,
        name: &str,
        count: RangeInclusive<usize>,
    ) -> Result<Vec<Fields<'a>>, WireError> {
        let elements = self.elements(name, &count)?;
        let elements = elements.ok_or_else(|| self.missing(name, &expected_array(&count)))?;
        let objects = elements.into_iter().enumerate().map(|(index, element)| {
            let path = format!("{}{name}[{index}]", self.prefix);
            Fields::of(element, &path, format!("{path}."))
        });
        objects.collect()
    }

    fn elements(&self, name: &str, count: &RangeInclusive<usize>) -> Result<Option<Vec<&'a str>>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        if kind_of(value) != "array" {
            return Err(self.wrong(name, &expected_array(count), kind_of(value)));
        }
        let elements = elements_of(value, *count.end());
        if elements.len() > *count.end() {
            return Err(self.wrong(name, &expected_array(count), "more"));
        }
        if !count.contains(&elements.len()) {
            return Err(self.wrong(name, &expected_array(count), &elements.len().to_string()));
        }
        Ok(Some(elements))
    }

    /// Returns a string that is one of `words`.
    ///
    /// # Errors
    /// When the member is missing, or something else.
    pub(crate) fn required_one_of(
        &self,
        name: &str,
        words: &[&'static str],
    ) -> Result<&'static str, WireError> {
        let value = self.members.get(name).copied();
        let text = value.and_then(json::string_content).and_then(json::unescape);
        words
            .iter()
            .find(|word| text.as_deref() == Some(**word))
            .copied()
            .ok_or_else(|| self.wrong(name, &one_of(words), value.map_or("nothing", shortened)))
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// When the member is something else.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, WireError> {
        match self.given(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(value) => Err(self.wrong(name, "boolean", kind_of(value))),
        }
    }

    /// Returns the strings of an array that has one or more of `words`, each at most once.
    ///
    /// # Errors
    /// When the member is something else.
    pub(crate) fn words(
        &self,
        name: &str,
        words: &[&'static str],
    ) -> Result<Option<Vec<&'static str>>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let expected = format!("array of 1..={} different strings of {}", words.len(), one_of(words));
        // Enough for all words with every character escaped, and some white space.
        let longest = words.iter().map(|word| 6 * word.len() + 16).sum::<usize>() + 16;
        if kind_of(value) != "array" || value.len() > longest {
            return Err(self.wrong(name, &expected, shortened(value)));
        }
        let given: Vec<String> =
            serde_json::from_str(value).map_err(|_| self.wrong(name, &expected, shortened(value)))?;
        let mut found = Vec::new();
        for text in &given {
            match words.iter().find(|word| *word == text) {
                Some(word) if !found.contains(word) => found.push(*word),
                _ => return Err(self.wrong(name, &expected, shortened(value))),
            }
        }
        if found.is_empty() {
            return Err(self.wrong(name, &expected, "none"));
        }
        Ok(Some(found))
    }

    /// Returns an object inside this one.
    ///
    /// # Errors
    /// When the member is not an object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let path = format!("{}{name}", self.prefix);
        Fields::of(value, &path, format!("{path}.")).map(Some)
    }

    /// Returns the JSON text of an object of at most `max_bytes`.
    ///
    /// # Errors
    /// When the member is something else, or longer.
    pub(crate) fn object_json(&self, name: &str, max_bytes: usize) -> Result<Option<&'a str>, WireError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let expected = format!("object of at most {max_bytes} bytes");
        match kind_of(value) {
            "object" if value.len() <= max_bytes => Ok(Some(value)),
            "object" => Err(self.wrong(name, &expected, &format!("{} bytes", value.len()))),
            kind => Err(self.wrong(name, &expected, kind)),
        }
    }

    /// Returns the error for a required member that is missing, or `null`.
    pub(crate) fn missing(&self, name: &str, expected: &str) -> WireError {
        self.wrong(name, expected, if self.is_null(name) { "null" } else { "nothing" })
    }

    /// Returns the error for a member of this object.
    pub(crate) fn wrong(&self, name: &str, expected: &str, got: &str) -> WireError {
        wrong(&format!("{}{name}", self.prefix), expected, got)
    }
}

/// Returns the error for a payload of the wrong shape.
pub(crate) fn wrong(path: &str, expected: &str, got: &str) -> WireError {
    let details = Object::new().text("path", path).text("expected", expected).text("got", got).finish();
    WireError::new(format!("{path}: expected {expected}, got {got}")).details(Payload::trusted(details))
}

/// Returns the type of a JSON value.
pub(crate) fn kind_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        Some(_) => "number",
        None => "nothing",
    }
}

/// Returns the integer that a JSON text is, if JavaScript can represent it exactly.
pub(crate) fn integer_of(json: &str) -> Option<i64> {
    const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
    let number: f64 = (kind_of(json) == "number").then(|| json.parse().ok())??;
    (number.fract() == 0.0 && number.abs() <= MAX_SAFE).then_some(number as i64)
}

/// Returns the elements of an array that is known to be JSON; at most `max + 1` of them.
fn elements_of(array: &str, max: usize) -> Vec<&str> {
    let mut elements = Vec::new();
    json::elements_of_json(array, |element| {
        elements.push(element);
        elements.len() <= max
    });
    elements
}

fn expected_array(count: &RangeInclusive<usize>) -> String {
    format!("array of {}..={} elements", count.start(), count.end())
}

fn expected_text(bytes: &RangeInclusive<usize>) -> String {
    format!("string of {}..={} bytes", bytes.start(), bytes.end())
}

/// Describes that one of these words is expected.
pub(crate) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" | ")
}

/// Returns a short value itself, and of a long one its type.
pub(crate) fn shortened(json: &str) -> &str {
    if json.len() <= 40 { json } else { kind_of(json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `path`, `expected` and `got` of an error.
    fn details(error: WireError) -> [String; 3] {
        let details = error.details.parse().unwrap();
        ["path", "expected", "got"].map(|name| details[name].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_member_of_the_wrong_shape_is_named_with_what_was_expected() {
        let payload = Payload::from_json(
            r#"{"n":501,"f":1.5,"s":"abc","l":"x","b":true,"u":{"n":"1"},"role":"boss","lone":"\ud800"}"#,
        )
        .unwrap();
        let fields = Fields::decode(&payload).unwrap();
        let usage = fields.object("u").unwrap().unwrap();
        for (error, expected) in [
            (fields.integer("n", 1..=500).unwrap_err(), ["n", "integer 1..=500", "501"]),
            (fields.integer("f", 1..=500).unwrap_err(), ["f", "integer 1..=500", "1.5"]),
            (fields.integer("s", 1..=500).unwrap_err(), ["s", "integer 1..=500", "string"]),
            (fields.text("s", 0..=2).unwrap_err(), ["s", "string of 0..=2 bytes", "3 bytes"]),
            (fields.text("b", 0..=2).unwrap_err(), ["b", "string of 0..=2 bytes", "boolean"]),
            (fields.text("lone", 0..=9).unwrap_err(), ["lone", "string in Unicode", "a lone surrogate"]),
            (fields.required_id("id").unwrap_err(), ["id", "string of 1..=128 bytes", "nothing"]),
            (fields.object("b").unwrap_err(), ["b", "object", "boolean"]),
            (usage.integer("n", 0..=9).unwrap_err(), ["u.n", "integer 0..=9", "string"]),
            (
                fields.required_one_of("role", &["user", "tool"]).unwrap_err(),
                ["role", "\"user\" | \"tool\"", "\"boss\""],
            ),
            (fields.boolean("n").unwrap_err(), ["n", "boolean", "number"]),
            (
                fields.words("l", &["a", "b"]).unwrap_err(),
                ["l", "array of 1..=2 different strings of \"a\" | \"b\"", "\"x\""],
            ),
            (fields.object_json("u", 5).unwrap_err(), ["u", "object of at most 5 bytes", "9 bytes"]),
        ] {
            assert_eq!(details(error), expected);
        }
        let array = Payload::from_json("[]").unwrap();
        assert_eq!(details(Fields::decode(&array).unwrap_err()), ["payload", "object", "array"]);
    }

    #[test]
    fn the_ends_of_a_range_are_allowed_and_absent_members_are_none() {
        let payload = Payload::from_json(r#"{"a":1,"b":5e2,"c":"","d":"é"}"#).unwrap();
        let fields = Fields::decode(&payload).unwrap();
        assert_eq!(fields.integer("a", 1..=500).unwrap(), Some(1));
        assert_eq!(fields.integer("b", 1..=500).unwrap(), Some(500));
        assert_eq!(fields.integer("x", 1..=500).unwrap(), None);
        assert_eq!(fields.text("c", 0..=0).unwrap().as_deref(), Some(""));
        assert_eq!(fields.text("d", 2..=2).unwrap().as_deref(), Some("é"));
        assert_eq!(fields.text("x", 1..=2).unwrap(), None);
        assert_eq!(fields.object_json("x", 1).unwrap(), None);
        assert_eq!(fields.boolean("x").unwrap(), None);
        assert_eq!(fields.words("x", &["a"]).unwrap(), None);
    }

    #[test]
    fn null_counts_as_absent_unless_the_member_is_required() {
        let payload = Payload::from_json(r#"{"n": null ,"a":1,"a":null,"t":[null],"o":[null]}"#).unwrap();
        let fields = Fields::decode(&payload).unwrap();
        for name in ["n", "a"] {
            assert!(!fields.has(name) && fields.is_null(name));
            assert_eq!(fields.text(name, 1..=2).unwrap(), None);
            assert_eq!(fields.id(name).unwrap(), None);
            assert_eq!(fields.integer(name, 1..=2).unwrap(), None);
            assert_eq!(fields.number(name, 1.0..=2.0).unwrap(), None);
            assert_eq!(fields.texts(name, 1..=2, 1..=2).unwrap(), None);
            assert_eq!(fields.boolean(name).unwrap(), None);
            assert_eq!(fields.words(name, &["a"]).unwrap(), None);
            assert!(fields.object(name).unwrap().is_none());
            assert_eq!(fields.object_json(name, 1).unwrap(), None);
            assert_eq!(fields.required_json(name).unwrap(), "null");
        }
        for (error, expected) in [
            (fields.required_id("n").unwrap_err(), ["n", "string of 1..=128 bytes", "null"]),
            (fields.required_integer("n", 0..=1).unwrap_err(), ["n", "integer 0..=1", "null"]),
            (fields.required_integer("x", 0..=1).unwrap_err(), ["x", "integer 0..=1", "nothing"]),
            (fields.required_objects("n", 0..=1).unwrap_err(), ["n", "array of 0..=1 elements", "null"]),
            (fields.required_one_of("n", &["a"]).unwrap_err(), ["n", "\"a\"", "null"]),
            (fields.texts("t", 0..=1, 0..=1).unwrap_err(), ["t[0]", "string of 0..=1 bytes", "null"]),
            (fields.required_objects("o", 0..=1).unwrap_err(), ["o[0]", "object", "null"]),
        ] {
            assert_eq!(details(error), expected);
        }
    }

    #[test]
    fn words_are_known_and_different() {
        for (json, expected) in [
            (r#"["a"]"#, Some(vec!["a"])),
            (r#"[ "b","\u0061" ]"#, Some(vec!["b", "a"])),
            ("[]", None),
            (r#"["a","a"]"#, None),
            (r#"["c"]"#, None),
            ("[1]", None),
            ("[null]", None),
            ("null", None),
        ] {
            let payload = Payload::from_json(format!(r#"{{"w":{json}}}"#)).unwrap();
            let fields = Fields::decode(&payload).unwrap();
            assert_eq!(fields.words("w", &["a", "b"]).ok().flatten(), expected, "{json}");
        }
    }

    #[test]
    fn arrays_are_cut_at_their_own_commas() {
        for (array, elements) in [
            ("[]", &[][..]),
            ("[ ]", &[]),
            ("[1]", &["1"]),
            (
                r#"[ 1 , [2, 3],{"a":[4,"]"]} , "x,\"],[" ]"#,
                &["1", "[2, 3]", r#"{"a":[4,"]"]}"#, r#""x,\"],[""#],
            ),
        ] {
            assert_eq!(elements_of(array, 9), elements, "{array}");
        }
        assert_eq!(elements_of("[1,2,3,4]", 2).len(), 3);
        let payload =
            Payload::from_json(r#"{"o":[{"a":1},{"a":2}],"t":["x",""],"m":[{},7],"b":true,"n":0.5}"#)
                .unwrap();
        let fields = Fields::decode(&payload).unwrap();
        let objects = fields.required_objects("o", 0..=2).unwrap();
        assert_eq!(objects[1].integer("a", 0..=9).unwrap(), Some(2));
        assert_eq!(fields.texts("t", 0..=2, 0..=1).unwrap().unwrap(), ["x", ""]);
        assert_eq!((fields.boolean("b").unwrap(), fields.boolean("x").unwrap()), (Some(true), None));
        assert_eq!(fields.number("n", 0.0..=0.5).unwrap(), Some(0.5));
        for (error, expected) in [
            (objects[1].integer("a", 0..=1).unwrap_err(), ["o[1].a", "integer 0..=1", "2"]),
            (fields.required_objects("o", 0..=1).unwrap_err(), ["o", "array of 0..=1 elements", "more"]),
            (fields.required_objects("o", 3..=4).unwrap_err(), ["o", "array of 3..=4 elements", "2"]),
            (fields.required_objects("m", 0..=9).unwrap_err(), ["m[1]", "object", "number"]),
            (fields.required_objects("x", 0..=9).unwrap_err(), ["x", "array of 0..=9 elements", "nothing"]),
            (fields.required_objects("b", 0..=9).unwrap_err(), ["b", "array of 0..=9 elements", "boolean"]),
            (fields.texts("t", 0..=2, 1..=1).unwrap_err(), ["t[1]", "string of 1..=1 bytes", "0 bytes"]),
            (fields.boolean("n").unwrap_err(), ["n", "boolean", "number"]),
            (fields.number("n", 0.0..=0.25).unwrap_err(), ["n", "number 0..=0.25", "0.5"]),
            (fields.number("b", 0.0..=1.0).unwrap_err(), ["b", "number 0..=1", "boolean"]),
        ] {
            assert_eq!(details(error), expected);
        }
    }

    #[test]
    fn no_payload_and_null_are_an_object_without_members() {
        for payload in [Payload::none(), Payload::from_json("null").unwrap()] {
            assert_eq!(Fields::decode(&payload).unwrap().iter().count(), 0);
        }
    }

    #[test]
    fn an_object_has_a_most_of_members() {
        for (count, fits) in [(MAX_MEMBERS, true), (MAX_MEMBERS + 1, false)] {
            let members = (0..count).map(|n| format!("\"\\u0061{n}\":[{n},\"]\"]")).collect::<Vec<_>>();
            let payload = Payload::from_json(format!("{{{}}}", members.join(", "))).unwrap();
            match Fields::decode(&payload) {
                Ok(fields) => assert!(fits && fields.iter().count() == count),
                Err(error) => assert!(!fits && details(error)[2] == "more"),
            }
        }
    }

    #[test]
    fn integers_are_those_that_javascript_holds() {
        for (json, integer) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1e3", Some(1000)),
            ("9007199254740991", Some(9_007_199_254_740_991)),
            ("9007199254740992", None),
            ("1e300", None),
            ("0.5", None),
            ("\"5\"", None),
            ("null", None),
        ] {
            assert_eq!(integer_of(json), integer, "{json}");
        }
    }
}
