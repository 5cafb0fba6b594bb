//! The known keys, with their types and defaults.

use crate::backend::shared::origin::Origin;
use crate::backend::shared::validate::{integer_of, kind_of, one_of, shortened, wrong};
use crate::protocol::error::WireError;
use crate::protocol::json;

const MAX_VALUE_BYTES: usize = 64 << 10;

/// The type of a known key.
#[derive(Clone, Copy)]
pub(super) enum Type {
    OneOf(&'static [&'static str]),
    /// A language tag like `en` or `pt-BR`.
    Language,
    /// A name, or null if the provider chooses.
    NameOrNull,
    Name,
    /// An `http` or `https` URL.
    Url,
    /// Such a URL below which a provider's API is: without user, password and query.
    BaseUrl,
    Days,
}

/// The known keys with their types and defaults.
pub(super) const KNOWN: &[(&str, Type, &str)] = &[
    ("ai.anthropic.baseUrl", Type::BaseUrl, r#""https://api.anthropic.com""#),
    ("ai.defaultModel", Type::NameOrNull, "null"),
    ("ai.defaultProvider", Type::Name, r#""anthropic""#),
    ("ai.openai.baseUrl", Type::BaseUrl, r#""https://api.openai.com/v1""#),
    ("analytics.retentionDays", Type::Days, "90"),
    ("imagegen.automatic1111.baseUrl", Type::BaseUrl, r#""http://127.0.0.1:7860""#),
    ("imagegen.defaultProvider", Type::OneOf(&["openai", "automatic1111", "pattern"]), r#""pattern""#),
    ("imagegen.openai.baseUrl", Type::BaseUrl, r#""https://api.openai.com/v1""#),
    ("language", Type::Language, r#""en""#),
    ("theme", Type::OneOf(&["system", "light", "dark"]), r#""system""#),
];

pub(super) fn default_of(key: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, ..)| *known == key).map(|(.., default)| *default)
}

fn type_of_key(key: &str) -> Option<Type> {
    if let Some((_, kind, _)) = KNOWN.iter().find(|(known, ..)| *known == key) {
        return Some(*kind);
    }
    // Other providers have base URLs too.
    let provider = key.strip_suffix(".baseUrl")?;
    let named = provider.strip_prefix("ai.").or(provider.strip_prefix("imagegen."))?;
    (!named.is_empty() && !named.contains('.')).then_some(Type::Url)
}

/// Whether null is a value of this setting: for those that the frontend adds, and for names that a provider can choose.
pub(super) fn accepts_null(key: &str) -> bool {
    matches!(type_of_key(key), None | Some(Type::NameOrNull))
}

/// Whether two JSON texts have the same value.
pub(super) fn same(a: &str, b: &str) -> bool {
    let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).ok();
    a == b || value(a).is_some_and(|a| Some(a) == value(b))
}

/// Checks that a value has the type of its key. `path` names it in errors.
pub(super) fn check_value(key: &str, value: &str, path: &str) -> Result<(), WireError> {
    if value.len() > MAX_VALUE_BYTES {
        let got = format!("{} bytes", value.len());
        return Err(wrong(path, &format!("JSON value of at most {MAX_VALUE_BYTES} bytes"), &got));
    }
    let text = json::string_content(value).and_then(json::unescape);
    let text = text.as_deref();
    let (fits, expected) = match type_of_key(key) {
        None => return Ok(()),
        Some(Type::OneOf(words)) => (text.is_some_and(|text| words.contains(&text)), one_of(words)),
        Some(Type::Language) => (text.is_some_and(is_language), "language tag like \"en\"".to_owned()),
        Some(Type::Name) => (text.is_some_and(is_name), "string of 1..=256 bytes".to_owned()),
        Some(Type::NameOrNull) => {
            (value == "null" || text.is_some_and(is_name), "string of 1..=256 bytes, or null".to_owned())
        }
        Some(Type::Url) => (text.is_some_and(is_url), "http:// or https:// URL".to_owned()),
        Some(Type::BaseUrl) => {
            let expected = "http:// or https:// URL with a host, and without user, password and query";
            // The value is not repeated in the error: a password can be in it.
            let got = if text.is_some() { "another string" } else { kind_of(value) };
            return match text.map(str::parse::<Origin>) {
                Some(Ok(_)) => Ok(()),
                _ => Err(wrong(path, expected, got)),
            };
        }
        Some(Type::Days) => {
            (integer_of(value).is_some_and(|days| (1..=3650).contains(&days)), "integer 1..=3650".to_owned())
        }
    };
    if fits {
        return Ok(());
    }
    Err(wrong(path, &expected, shortened(value)))
}

fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len())
}

fn is_language(text: &str) -> bool {
    let is_subtag = |subtag: &str| {
        (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.len() <= 35
        && text.split('-').all(is_subtag)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    host.is_some_and(|host| !host.is_empty())
        && text.len() <= 2048
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_own_type() {
        for (key, _, default) in KNOWN {
            assert!(check_value(key, default, "value").is_ok(), "{key}");
        }
    }

    #[test]
    fn every_known_key_is_in_the_types() {
        for (key, ..) in KNOWN {
            let member = if key.contains('.') { format!("  \"{key}\": ") } else { format!("  {key}: ") };
            assert!(include_str!("types.d.ts").contains(&member), "{key}");
        }
    }

    #[test]
    fn known_keys_have_types_and_other_keys_accept_anything() {
        for (key, value, fits) in [
            ("theme", r#""dark""#, true),
            ("theme", r#""Dark""#, false),
            ("theme", "1", false),
            ("language", r#""pt-BR""#, true),
            ("language", r#""""#, false),
            ("language", r#""e n""#, false),
            ("ai.defaultModel", "null", true),
            ("ai.defaultModel", r#""""#, false),
            ("ai.defaultProvider", "null", false),
            ("ai.ollama.baseUrl", r#""http://localhost:11434/v1""#, true),
            ("ai.ollama.baseUrl", r#""localhost""#, false),
            ("ai.ollama.baseUrl", r#""https://""#, false),
            ("ai.a.b.baseUrl", "1", true),
            ("ai.ollama.baseUrl", r#""http://a/?b""#, true),
            ("ai.openai.baseUrl", r#""http://localhost:11434/v1""#, true),
            ("ai.openai.baseUrl", r#""HTTPS://A.example.:443""#, true),
            ("ai.openai.baseUrl", r#""http://a/?b""#, false),
            ("ai.openai.baseUrl", r#""https://user:password@a""#, false),
            ("ai.openai.baseUrl", r#""https://a:99999""#, false),
            ("ai.openai.baseUrl", "null", false),
            ("imagegen.openai.baseUrl", r#""localhost""#, false),
            ("analytics.retentionDays", "1", true),
            ("analytics.retentionDays", "3650", true),
            ("analytics.retentionDays", "0", false),
            ("analytics.retentionDays", "3651", false),
            ("analytics.retentionDays", "1.5", false),
            ("my.layout", r#"{"panes":[1,2]}"#, true),
        ] {
            assert_eq!(check_value(key, value, "value").is_ok(), fits, "{key} {value}");
        }
        let long = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert!(check_value("x", &long(MAX_VALUE_BYTES), "value").is_ok());
        assert!(check_value("x", &long(MAX_VALUE_BYTES + 1), "value").is_err());
    }

    #[test]
    fn a_base_url_is_not_repeated_in_errors() {
        for value in [r#""https://me:s3cret@a""#, r#"{"s3cret":1}"#, r#""s3cret""#] {
            let error = check_value("ai.openai.baseUrl", value, "value").unwrap_err();
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn values_are_compared_by_meaning_not_by_text() {
        assert!(same(r#"{"a":1,"b":2}"#, r#"{ "b":2, "a":1 }"#));
        assert!(same(r#""\ud800""#, r#""\ud800""#));
        assert!(!same(r#""\ud800""#, r#""\ud801""#));
        assert!(!same("1", "\"1\""));
    }
}
