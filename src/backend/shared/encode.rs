//! Writing JSON objects whose parts can be JSON text. What a client has stored is returned unchanged: the order of members and
//! numbers of any size are kept, which a `Value` would not do.

use std::fmt::Write;

use crate::protocol::json;

/// Enough for most objects.
const USUAL_BYTES: usize = 256;

/// An object that is being written, member by member.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// An object without members.
    pub(crate) fn new() -> Object {
        let mut text = String::with_capacity(USUAL_BYTES);
        text.push('{');
        Object(text)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        json::write_string(&mut self.0, name);
        self.0.push(':');
    }

    /// Adds a string.
    pub(crate) fn text(mut self, name: &str, value: &str) -> Object {
        self.name(name);
        json::write_string(&mut self.0, value);
        self
    }

    /// Adds a string, or null.
    pub(crate) fn text_or_null(self, name: &str, value: Option<&str>) -> Object {
        match value {
            Some(value) => self.text(name, value),
            None => self.raw(name, "null"),
        }
    }

    /// Adds an integer.
    pub(crate) fn integer(mut self, name: &str, value: i64) -> Object {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    /// Adds a number, or null.
    pub(crate) fn number(self, name: &str, value: impl Into<Option<f64>>) -> Object {
        self.raw(name, &serde_json::Value::from(value.into()).to_string())
    }

    /// Adds a boolean.
    pub(crate) fn boolean(self, name: &str, value: bool) -> Object {
        self.raw(name, if value { "true" } else { "false" })
    }

    /// Adds JSON text.
    pub(crate) fn raw(mut self, name: &str, json: &str) -> Object {
        self.name(name);
        self.0.push_str(json);
        self
    }

    /// Returns the text of the object.
    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Returns a text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json::write_string(&mut json, text);
    json
}

/// Returns a JSON array of elements that are JSON text.
pub(crate) fn array(elements: &[String]) -> String {
    ["[", &elements.join(","), "]"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_strings_are_escaped() {
        let object = Object::new().text("a\"", "\n").integer("b", -1).boolean("c", true).raw("d", "[1.50]");
        assert_eq!(object.finish(), r#"{"a\"":"\n","b":-1,"c":true,"d":[1.50]}"#);
        assert_eq!(Object::new().finish(), "{}");
        let object = Object::new().text_or_null("a", Some("x")).text_or_null("b", None);
        assert_eq!(
            object.number("c", 1.5e-7).number("d", None).finish(),
            r#"{"a":"x","b":null,"c":1.5e-7,"d":null}"#
        );
        assert_eq!(quoted("\"\u{1}"), r#""\"\u0001""#);
        assert_eq!(array(&[]), "[]");
        assert_eq!(array(&["[]".to_owned(), "2".to_owned()]), "[[],2]");
    }
}
