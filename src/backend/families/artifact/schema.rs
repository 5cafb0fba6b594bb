//! A subset of JSON Schema for the input of artifacts. Input: the schema from a manifest, later the input of a call. Output:
//! whether the input is valid, or which member is not.
//!
//! Supported are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minItems`, `maxItems`,
//! `minLength`, `maxLength` (in characters), `minimum` and `maximum`, as in JSON Schema 2020-12. The annotations `title`,
//! `description`, `default`, `examples`, `$schema` and `$comment` are ignored. Any other keyword is refused when the
//! artifact is installed: a rule that is silently not checked would be worse than none.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::backend::shared::validate::one_of;

/// Most nested schemas. The check of an input never recurses deeper.
const MAX_DEPTH: usize = 32;

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
const KEYWORDS: [&str; 13] = [
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
];
const ANNOTATIONS: [&str; 6] = ["title", "description", "default", "examples", "$schema", "$comment"];

/// A member that is not valid: where it is, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub path: String,
    pub expected: String,
    pub got: String,
}

impl Misfit {
    fn new(path: &str, expected: impl Into<String>, got: impl Into<String>) -> Misfit {
        Misfit { path: path.to_owned(), expected: expected.into(), got: got.into() }
    }
}

/// A decoded schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    /// The types of `type`; empty if every type is allowed.
    types: Vec<&'static str>,
    /// The values of `enum`, or the one of `const`.
    values: Option<Vec<Value>>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    additional: Additional,
    items: Option<Box<Schema>>,
    item_count: CountRange,
    length: CountRange,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

/// What `additionalProperties` says of members that are not in `properties`.
#[derive(Debug, Default)]
enum Additional {
    #[default]
    Allowed,
    Refused,
    Matching(Box<Schema>),
}

/// A minimum and a maximum count, both inclusive.
#[derive(Debug, Default)]
struct CountRange {
    min: Option<u64>,
    max: Option<u64>,
}

impl Schema {
    /// Decodes a schema. `path` names it in errors.
    ///
    /// # Errors
    /// Names the first keyword that is unknown or malformed.
    pub(super) fn decode(schema: &Value, path: &str) -> Result<Schema, Misfit> {
        Schema::decode_within(schema, path, MAX_DEPTH)
    }

    fn decode_within(schema: &Value, path: &str, depth: usize) -> Result<Schema, Misfit> {
        let Some(members) = schema.as_object() else {
            return Err(Misfit::new(path, "object", type_name(schema)));
        };
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Misfit::new(path, format!("at most {MAX_DEPTH} nested schemas"), "more"));
        };
        let is_known = |name: &str| KEYWORDS.iter().chain(&ANNOTATIONS).any(|known| *known == name);
        if let Some(unknown) = members.keys().find(|name| !is_known(name)) {
            let path = member(path, unknown);
            return Err(Misfit::new(&path, one_of(&KEYWORDS), "a keyword that is not supported"));
        }
        let reader = Reader { members, path, depth };
        Ok(Schema {
            types: reader.types()?,
            values: reader.values()?,
            properties: reader.properties()?,
            required: reader.required()?,
            additional: reader.additional()?,
            items: reader.schema("items")?.map(Box::new),
            item_count: reader.count_range("minItems", "maxItems")?,
            length: reader.count_range("minLength", "maxLength")?,
            minimum: reader.number("minimum")?,
            maximum: reader.number("maximum")?,
        })
    }

    /// Checks an input. `path` names it in errors.
    ///
    /// # Errors
    /// Names the first member that is not valid.
    pub(super) fn check(&self, input: &Value, path: &str) -> Result<(), Misfit> {
        if !self.types.is_empty() && !self.types.iter().any(|name| has_type(input, name)) {
            return Err(Misfit::new(path, self.types.join(" | "), type_name(input)));
        }
        if let Some(values) = &self.values
            && !values.iter().any(|value| is_equal(value, input))
        {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            let expected = if_short(&values.join(" | "), "one of the listed values");
            return Err(Misfit::new(path, expected, summary(input)));
        }
        match input {
            Value::Object(members) => self.check_members(members, path),
            Value::Array(items) => self.check_items(items, path),
            Value::String(text) => self.length.check(text.chars().count(), "string", "characters", path),
            Value::Number(number) => self.check_number(number.as_f64().unwrap_or(f64::NAN), path),
            _ => Ok(()),
        }
    }

    fn check_members(&self, members: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        if let Some(missing) = self.required.iter().find(|name| !members.contains_key(*name)) {
            let expected =
                self.properties.get(missing).map_or_else(String::new, |schema| schema.types.join(" | "));
            let expected = if expected.is_empty() { "a value".to_owned() } else { expected };
            return Err(Misfit::new(&member(path, missing), expected, "nothing"));
        }
        for (name, value) in members {
            let path = member(path, name);
            match (self.properties.get(name), &self.additional) {
                (Some(schema), _) => schema.check(value, &path)?,
                (None, Additional::Matching(schema)) => schema.check(value, &path)?,
                (None, Additional::Refused) => {
                    return Err(Misfit::new(&path, "no such member", type_name(value)));
                }
                (None, Additional::Allowed) => {}
            }
        }
        Ok(())
    }

    fn check_items(&self, items: &[Value], path: &str) -> Result<(), Misfit> {
        self.item_count.check(items.len(), "array", "elements", path)?;
        let Some(schema) = &self.items else { return Ok(()) };
        items.iter().enumerate().try_for_each(|(index, item)| schema.check(item, &format!("{path}[{index}]")))
    }

    fn check_number(&self, number: f64, path: &str) -> Result<(), Misfit> {
        let expected = match (self.minimum, self.maximum) {
            (Some(minimum), _) if number < minimum => format!("number from {minimum}"),
            (_, Some(maximum)) if number > maximum => format!("number up to {maximum}"),
            _ => return Ok(()),
        };
        Err(Misfit::new(path, expected, number.to_string()))
    }
}

impl CountRange {
    fn check(&self, count: usize, what: &str, unit: &str, path: &str) -> Result<(), Misfit> {
        let expected = match (self.min, self.max) {
            (Some(min), _) if (count as u64) < min => format!("{what} of at least {min} {unit}"),
            (_, Some(max)) if count as u64 > max => format!("{what} of at most {max} {unit}"),
            _ => return Ok(()),
        };
        Err(Misfit::new(path, expected, count.to_string()))
    }
}

/// Decodes the members of one schema.
struct Reader<'a> {
    members: &'a Map<String, Value>,
    path: &'a str,
    /// How many levels of schemas can be nested in this one.
    depth: usize,
}

impl Reader<'_> {
    fn types(&self) -> Result<Vec<&'static str>, Misfit> {
        let Some(given) = self.members.get("type") else { return Ok(Vec::new()) };
        let given = given.as_array().map_or(std::slice::from_ref(given), Vec::as_slice);
        let known = |name: &Value| TYPES.iter().find(|known| Some(**known) == name.as_str()).copied();
        let types: Option<Vec<&'static str>> = given.iter().map(known).collect();
        types
            .filter(|types| !types.is_empty())
            .ok_or_else(|| self.wrong("type", &format!("{}, or an array of them", one_of(&TYPES))))
    }

    fn values(&self) -> Result<Option<Vec<Value>>, Misfit> {
        let listed = match self.members.get("enum") {
            None => None,
            Some(Value::Array(values)) if !values.is_empty() => Some(values.clone()),
            Some(_) => return Err(self.wrong("enum", "array of at least one value")),
        };
        match (listed, self.members.get("const")) {
            (listed, None) => Ok(listed),
            (None, Some(value)) => Ok(Some(vec![value.clone()])),
            (Some(_), Some(_)) => Err(self.wrong("const", "either const or enum")),
        }
    }

    fn properties(&self) -> Result<BTreeMap<String, Schema>, Misfit> {
        let Some(given) = self.members.get("properties") else { return Ok(BTreeMap::new()) };
        let given = given.as_object().ok_or_else(|| self.wrong("properties", "object"))?;
        let path = member(self.path, "properties");
        let schemas = given.iter().map(|(name, schema)| {
            let schema = Schema::decode_within(schema, &member(&path, name), self.depth)?;
            Ok((name.clone(), schema))
        });
        schemas.collect()
    }

    fn required(&self) -> Result<Vec<String>, Misfit> {
        let Some(given) = self.members.get("required") else { return Ok(Vec::new()) };
        let names = given.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)));
        let names: Option<Vec<String>> = names.and_then(|mut names| names.by_ref().collect());
        names.ok_or_else(|| self.wrong("required", "array of strings"))
    }

    fn additional(&self) -> Result<Additional, Misfit> {
        match self.members.get("additionalProperties") {
            None | Some(Value::Bool(true)) => Ok(Additional::Allowed),
            Some(Value::Bool(false)) => Ok(Additional::Refused),
            Some(Value::Object(_)) => {
                let schema = self.schema("additionalProperties")?;
                Ok(schema.map_or(Additional::Allowed, |schema| Additional::Matching(Box::new(schema))))
            }
            Some(_) => Err(self.wrong("additionalProperties", "boolean or object")),
        }
    }

    fn schema(&self, name: &str) -> Result<Option<Schema>, Misfit> {
        let Some(schema) = self.members.get(name) else { return Ok(None) };
        Schema::decode_within(schema, &member(self.path, name), self.depth).map(Some)
    }

    fn count_range(&self, min: &str, max: &str) -> Result<CountRange, Misfit> {
        let (min_count, max_count) = (self.count(min)?, self.count(max)?);
        if min_count.zip(max_count).is_some_and(|(min, max)| min > max) {
            return Err(self.wrong(max, &format!("at least {min}")));
        }
        Ok(CountRange { min: min_count, max: max_count })
    }

    fn count(&self, name: &str) -> Result<Option<u64>, Misfit> {
        let Some(given) = self.members.get(name) else { return Ok(None) };
        given.as_u64().map(Some).ok_or_else(|| self.wrong(name, "integer from 0"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Misfit> {
        let Some(given) = self.members.get(name) else { return Ok(None) };
        given.as_f64().map(Some).ok_or_else(|| self.wrong(name, "number"))
    }

    fn wrong(&self, name: &str, expected: &str) -> Misfit {
        let got = self.members.get(name).map_or_else(|| "nothing".to_owned(), summary);
        Misfit::new(&member(self.path, name), expected, got)
    }
}

fn member(path: &str, name: &str) -> String {
    // Keeps error messages short when a client sends a long name.
    let end = name.char_indices().nth(64).map_or(name.len(), |(at, _)| at);
    format!("{path}.{}", name.get(..end).unwrap_or_default())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Returns a short value as JSON, and only the type of a long one.
fn summary(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => type_name(value).to_owned(),
        _ => if_short(&value.to_string(), type_name(value)),
    }
}

fn if_short(text: &str, otherwise: &str) -> String {
    if text.len() <= 200 { text.to_owned() } else { otherwise.to_owned() }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        // JSON Schema: `1.0` is an integer too.
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        name => type_name(value) == name,
    }
}

/// Compares as JSON Schema does: `1` equals `1.0`.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            x == y || (x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64()
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| is_equal(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            let has =
                |(name, value): (&String, &Value)| y.get(name).is_some_and(|other| is_equal(value, other));
            x.len() == y.len() && x.iter().all(has)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({}), |inner, _| json!({"items": inner}))
    }

    #[test]
    fn an_error_names_the_member_of_the_input_that_is_not_valid() {
        let person = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 3},
                "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150.5},
                "tags": {"type": "array", "items": {"enum": ["a", "b", 1]}, "minItems": 1, "maxItems": 2},
                "more": {"additionalProperties": {"type": "boolean"}},
                "one": {"const": {"x": [1]}},
            },
            "required": ["name"],
            "additionalProperties": false,
        });
        let schema = Schema::decode(&person, "s").unwrap();
        for (input, path) in [
            (json!({"name": "x"}), None),
            (
                json!({"name": "äöü", "age": 5.0, "tags": ["a", 1.0], "more": {"y": true}, "one": {"x": [1.0]}}),
                None,
            ),
            (json!({"name": "x", "age": null, "more": 7}), None),
            (json!([]), Some("input")),
            (json!(null), Some("input")),
            (json!({}), Some("input.name")),
            (json!({"name": 5}), Some("input.name")),
            (json!({"name": ""}), Some("input.name")),
            (json!({"name": "äöüß"}), Some("input.name")),
            (json!({"name": "x", "age": 1.5}), Some("input.age")),
            (json!({"name": "x", "age": -1}), Some("input.age")),
            (json!({"name": "x", "age": 151}), Some("input.age")),
            (json!({"name": "x", "age": "1"}), Some("input.age")),
            (json!({"name": "x", "tags": []}), Some("input.tags")),
            (json!({"name": "x", "tags": ["a", "a", "a"]}), Some("input.tags")),
            (json!({"name": "x", "tags": ["a", "c"]}), Some("input.tags[1]")),
            (json!({"name": "x", "tags": ["a", true]}), Some("input.tags[1]")),
            (json!({"name": "x", "more": {"y": 1}}), Some("input.more.y")),
            (json!({"name": "x", "one": {"x": [1], "y": 2}}), Some("input.one")),
            (json!({"name": "x", "one": {"x": [2]}}), Some("input.one")),
            (json!({"name": "x", "other": 1}), Some("input.other")),
        ] {
            let misfit = schema.check(&input, "input").err();
            assert_eq!(misfit.as_ref().map(|misfit| misfit.path.as_str()), path, "{input}: {misfit:?}");
        }
        for anything in [json!(null), json!([1]), json!({"x": "y"})] {
            assert_eq!(Schema::decode(&json!({}), "s").unwrap().check(&anything, "input"), Ok(()));
        }
        // Integers beyond the precision of a double are still told apart.
        let schema = Schema::decode(&json!({"const": 9_007_199_254_740_993_u64}), "s").unwrap();
        assert!(schema.check(&json!(9_007_199_254_740_992_u64), "input").is_err());
    }

    #[test]
    fn unknown_and_malformed_keywords_are_refused() {
        for (schema, path) in [
            (json!({"title": "x", "description": "x", "default": 1, "examples": [], "$schema": "x"}), None),
            (nested(MAX_DEPTH), None),
            (nested(MAX_DEPTH + 1), Some(&*format!("s{}", ".items".repeat(MAX_DEPTH)))),
            (json!(true), Some("s")),
            (json!({"pattern": "x"}), Some("s.pattern")),
            (json!({"$ref": "#"}), Some("s.$ref")),
            (json!({"oneOf": []}), Some("s.oneOf")),
            (json!({"properties": {"a": {"format": "date"}}}), Some("s.properties.a.format")),
            (json!({"type": "text"}), Some("s.type")),
            (json!({"type": []}), Some("s.type")),
            (json!({"type": ["string", 1]}), Some("s.type")),
            (json!({"enum": []}), Some("s.enum")),
            (json!({"enum": "a"}), Some("s.enum")),
            (json!({"enum": ["a"], "const": "a"}), Some("s.const")),
            (json!({"properties": []}), Some("s.properties")),
            (json!({"properties": {"a": 1}}), Some("s.properties.a")),
            (json!({"required": "a"}), Some("s.required")),
            (json!({"required": [1]}), Some("s.required")),
            (json!({"additionalProperties": "no"}), Some("s.additionalProperties")),
            (json!({"additionalProperties": {"type": 1}}), Some("s.additionalProperties.type")),
            (json!({"items": [{}]}), Some("s.items")),
            (json!({"minItems": -1}), Some("s.minItems")),
            (json!({"minLength": 1.5}), Some("s.minLength")),
            (json!({"minLength": 2, "maxLength": 1}), Some("s.maxLength")),
            (json!({"minimum": "1"}), Some("s.minimum")),
        ] {
            let misfit = Schema::decode(&schema, "s").err();
            assert_eq!(misfit.as_ref().map(|misfit| misfit.path.as_str()), path, "{schema}: {misfit:?}");
        }
    }
}
