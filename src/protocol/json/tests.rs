//! The grammar of RFC 8259, with the byte of each error.

use super::*;

fn check(text: &str, expected: Result<(), (JsonErrorKind, usize)>) {
    let got = validate(text).map_err(|error| (error.kind, error.at));
    assert_eq!(got, expected, "{text:?}");
    // `members` and `validate` accept the same grammar.
    let walked = members(text, |_| ()).map(|_| ()).map_err(|error| (error.kind, error.at));
    assert_eq!(walked, expected, "members of {text:?}");
}

#[test]
fn the_grammar_is_rfc_8259() {
    use JsonErrorKind::*;
    for text in [
        "null",
        " true ",
        "false",
        "0",
        "-0",
        "1.5e-3",
        "1E+2",
        "\"\"",
        "\"\\u00e9\\n\"",
        "[]",
        "[ 1 , [ ] ]",
        "{}",
        "{\"a\" : {\"b\":[null,{}]} , \"a\":2}",
        "\"\\ud800\"",
        "\u{9}\r\n1",
        "\"\u{7f}é😀\"",
    ] {
        check(text, Ok(()));
    }
    for (text, kind, at) in [
        ("", UnexpectedEnd, 0),
        ("  ", UnexpectedEnd, 2),
        ("nul", UnexpectedEnd, 3),
        ("nulx", ExpectedValue, 3),
        ("truefalse", TrailingData, 4),
        ("01", InvalidNumber, 1),
        ("-", UnexpectedEnd, 1),
        ("-a", InvalidNumber, 1),
        ("1.", UnexpectedEnd, 2),
        ("1.x", InvalidNumber, 2),
        ("1e", UnexpectedEnd, 2),
        ("+1", ExpectedValue, 0),
        ("1e999", NumberOutOfRange, 0),
        ("\"a", UnexpectedEnd, 2),
        ("\"a\nb\"", ControlCharacter, 2),
        ("\"\\x\"", InvalidEscape, 2),
        ("\"\\u12g4\"", InvalidEscape, 5),
        ("[1,]", ExpectedValue, 3),
        ("[1 2]", ExpectedCommaOrBracket, 3),
        ("[1}", ExpectedCommaOrBracket, 2),
        ("{\"a\":1]", ExpectedCommaOrBrace, 6),
        ("{\"a\":1,}", ExpectedName, 7),
        ("{a:1}", ExpectedName, 1),
        ("{\"a\" 1}", ExpectedColon, 5),
        ("{\"a\":}", ExpectedValue, 5),
        ("[", UnexpectedEnd, 1),
        ("1 1", TrailingData, 2),
        ("\u{feff}1", ExpectedValue, 0),
        ("\u{a0}1", ExpectedValue, 0),
        ("'a'", ExpectedValue, 0),
    ] {
        check(text, Err((kind, at)));
    }
}

#[test]
fn depth_128_is_accepted_and_129_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| {
            let inner = if open == "[" { "" } else { "1" };
            format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        check(&nested(MAX_DEPTH), Ok(()));
        check(&nested(MAX_DEPTH + 1), Err((JsonErrorKind::TooDeep, MAX_DEPTH * open.len())));
    }
    let error = validate(&"[".repeat(1_000_000)).unwrap_err();
    assert_eq!(error.to_string(), "depth 129 at byte 128, 128 allowed");
}

#[test]
fn a_special_byte_is_found_at_every_offset() {
    for length in 0..200 {
        for (special, kind) in [('"', None), ('\n', Some(JsonErrorKind::ControlCharacter))] {
            let text = format!("\"{}{special}\"", "é".repeat(length / 2) + &"x".repeat(length % 2));
            let expected = match kind {
                None => Err((JsonErrorKind::TrailingData, length + 2)),
                Some(kind) => Err((kind, length + 1)),
            };
            check(&text, expected);
        }
    }
}

#[test]
fn written_strings_unescape_to_the_same_text() {
    let all: String = (0..0x250).filter_map(char::from_u32).chain("😀\u{2028}".chars()).collect();
    let mut out = String::new();
    write_string(&mut out, &all);
    assert_eq!(serde_json::from_str::<String>(&out).unwrap(), all);
    assert_eq!(unescape(string_content(&out).unwrap()).unwrap(), all);
    assert_eq!(unescape("\\ud83d\\ude00").unwrap(), "😀");
    assert_eq!(unescape("\\ud83d"), None);
}
