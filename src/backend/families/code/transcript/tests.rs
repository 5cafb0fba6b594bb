//! Decoding of lines, and splitting, wherever the bytes are cut.

use super::*;

fn entry(line: &str) -> Entry<'_> {
    match decode(line.as_bytes()).unwrap().kind {
        Kind::Entry(entry) => entry,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn each_type_of_line_says_what_it_is() {
    let user = r#"{"type":"user","uuid":"a","parentUuid":null,"sessionId":"s","cwd":"/w","isSidechain":true,
        "timestamp":"1970-01-02T00:00:00.5Z","message":{"role":"user","content":"Hi <b>"}}"#
        .replace('\n', "");
    let line = decode(user.as_bytes()).unwrap();
    assert_eq!((line.id.as_deref(), line.parent_id, line.at), (Some("a"), None, Some(86_400_500)));
    assert_eq!((line.session_id.as_deref(), line.cwd.as_deref()), (Some("s"), Some("/w")));
    assert!(line.sidechain);
    assert_eq!(entry(&user).content_json(), r#"[{"type":"text","text":"Hi <b>"}]"#);
    assert_eq!(entry(&user).prompt().as_deref(), Some("Hi <b>"));

    let assistant = r#"{"type":"assistant","uuid":"b","parentUuid":"a","message":{"model":"m","content":[{"type":"thinking","thinking":"hm","signature":"zzz"},{"type":"tool_use","id":"t","name":"Bash","input":{"command":"ls 1.50"}}],"usage":{"input_tokens":3,"output_tokens":4}}}"#;
    let said = entry(assistant);
    assert_eq!((said.role, said.model.as_deref(), said.usage), ("assistant", Some("m"), Some((3, 4))));
    assert_eq!(said.text(1000), "hm\nBash\nls 1.50");
    assert!(assistant.contains(&said.content_json()));

    let result = r#"{"type":"user","uuid":"c","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"out"},{"type":"image","source":{"data":"AAAA"}}]}]}}"#;
    assert_eq!((entry(result).role, entry(result).text(1000).as_str()), ("tool", "out"));
    assert_eq!(entry(result).prompt(), None);

    let kind = |line: &str| format!("{:?}", decode(line.as_bytes()).map(|line| line.kind));
    for (line, expected) in [
        (r#"{"type":"system","uuid":"d","content":"","subtype":"x"}"#, "Ok(Bookkeeping)"),
        (r#"{"type":"progress","uuid":"d"}"#, "Ok(Bookkeeping)"),
        (r#"{"type":"yet-to-come","uuid":"d"}"#, "Ok(Unknown)"),
        (
            r#"{"type":"summary","summary":" A\nB","leafUuid":"a"}"#,
            r#"Ok(Summary { leaf_id: "a", title: "A" })"#,
        ),
        (r#"{"type":"custom-title","customTitle":"T"}"#, r#"Ok(CustomTitle("T"))"#),
        (r#"{"type":"ai-title","aiTitle":"\ud83d"}"#, "Ok(AiTitle(\"\u{fffd}\"))"),
        (
            r#"{"type":"file-history-snapshot","messageId":"m","snapshot":{"messageId":"m","trackedFileBackups":{"a":{"backupFileName":"h@v1"},"b":{"backupFileName":null},"c":1}}}"#,
            r#"Ok(Backups(Backups { message_id: "m", complete: true, files: {"a": Some("h@v1"), "b": None} }))"#,
        ),
        (
            r#"{"type":"file-history-delta","messageId":"m","trackingPath":"a","backup":{"backupFileName":"h@v2"}}"#,
            r#"Ok(Backups(Backups { message_id: "m", complete: false, files: {"a": Some("h@v2")} }))"#,
        ),
        ("", "Err(NotJson)"),
        ("[]", "Err(NotJson)"),
        (r#"{"uuid":"a"}"#, "Err(NotJson)"),
        (r#"{"type":"user","uuid":"a","message":{"content":"#, "Err(NotJson)"),
        (r#"{"type":"user","message":{"content":"x"}}"#, "Err(OddMembers)"),
        (r#"{"type":"user","uuid":7,"message":{"content":"x"}}"#, "Err(OddMembers)"),
        (r#"{"type":"user","uuid":"a","message":{"content":[1]}}"#, "Err(OddMembers)"),
        (r#"{"type":"user","uuid":"a"}"#, "Err(OddMembers)"),
        (r#"{"type":"summary","summary":"x"}"#, "Err(OddMembers)"),
    ] {
        assert_eq!(kind(line), expected, "{line}");
    }
    assert_eq!(decode(b"\xff{}").unwrap_err(), LineError::NotUtf8);
}

#[test]
fn content_is_as_deep_as_can_be_sent_on() {
    let line = |depth: usize| {
        let inner = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"type":"user","uuid":"a","message":{{"content":[{{"type":"x","x":{inner}}}]}}}}"#)
    };
    assert!(decode(line(MAX_CONTENT_DEPTH - 2).as_bytes()).is_ok());
    assert_eq!(decode(line(MAX_CONTENT_DEPTH - 1).as_bytes()), Err(LineError::TooDeep));
}

#[test]
fn a_text_is_cut_between_characters() {
    let line = r#"{"type":"user","uuid":"a","message":{"content":"ééé"}}"#;
    for (max, text) in [(0, ""), (1, ""), (2, "é"), (5, "éé"), (6, "ééé")] {
        assert_eq!(entry(line).text(max), text);
    }
}

#[test]
fn halves_of_characters_are_replaced_and_whole_ones_stay() {
    for (json, repaired) in [
        (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
        (r#""\ud83d""#, r#""\ufffd""#),
        (r#""\ude00\ud83d\ud83d\ude00x""#, r#""\ufffd\ufffd\ud83d\ude00x""#),
        (r#""\\ud83d \n""#, r#""\\ud83d \n""#),
    ] {
        assert_eq!(without_lone_surrogates(json), repaired);
    }
    let line = r#"{"type":"user","uuid":"a","message":{"content":[{"type":"text","text":"cut \ud83d"}]}}"#;
    assert_eq!(entry(line).text(100), "cut \u{fffd}");
    assert_eq!(entry(line).content_json(), r#"[{"type":"text","text":"cut \ufffd"}]"#);
}

#[test]
fn times_are_read_in_utc_and_with_an_offset() {
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2000-03-01T00:00:00.000Z", Some(951_868_800_000)),
        ("2024-02-29T23:59:59.9876Z", Some(1_709_251_199_987)),
        ("2026-01-20T12:57:17.716+01:00", Some(1_768_910_237_716)),
        ("2026-01-20T11:57:17.716Z", Some(1_768_910_237_716)),
        ("2026-01-20", None),
        ("2026-13-20T11:57:17Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("2026-01-20T11:57Z", None),
        ("T-Z", None),
        ("2026-01-20T11:57:17.+5Z", None),
    ] {
        assert_eq!(unix_ms(text), expected, "{text}");
    }
}

#[test]
fn lines_are_the_same_however_the_bytes_come() {
    let bytes = b"one\n\n0123456789\ntwo\n01234567890\nrest";
    let expected = [(0, Some("one")), (4, Some("")), (5, Some("0123456789")), (16, Some("two")), (32, None)];
    for step in 1..=bytes.len() {
        let mut splitter = Splitter::new(0, false, 10);
        let mut seen = Vec::new();
        for chunk in bytes.chunks(step) {
            splitter.feed(chunk, |piece| {
                let line = piece.line.map(|line| String::from_utf8(line.to_vec()).unwrap());
                seen.push((piece.at, line));
            });
        }
        let seen: Vec<_> = seen.iter().map(|(at, line)| (*at, line.as_deref())).collect();
        assert_eq!(seen, expected, "{step} bytes at a time");
        assert_eq!(splitter.rest(), (32, &b"rest"[..]));
    }
    let mut seen = Vec::new();
    let mut splitter = Splitter::new(7, true, 10);
    splitter.feed(b"end of it\nnext\n", |piece| seen.push((piece.at, piece.line.map(<[u8]>::len))));
    assert_eq!(seen, [(17, None), (17, Some(4))]);
}
