//! The checker's own tests: each rule reports a breach that is planted in a small sound crate, with file and line.

use crate::crate_map::Sources;
use crate::rules::check;
use crate::size::{compiled, kept, rows};
use crate::text::tokenize;

/// A small crate that follows every rule.
const SOUND: [(&str, &str); 17] = [
    ("src/lib.rs", "pub mod protocol; pub mod server; pub use server::Config; pub use protocol::a::Payload;"),
    ("src/main.rs", "use switchboard::Config;"),
    ("src/protocol/mod.rs", "pub mod a; pub mod b; pub use a::Payload;"),
    ("src/protocol/a.rs", ""),
    ("src/protocol/b.rs", "use super::a::Payload;"),
    ("src/server/mod.rs", "mod config; mod hub; pub use config::Config; use hub::Hub;"),
    ("src/server/config.rs", ""),
    ("src/server/hub.rs", "use super::Config;"),
    ("src/client/mod.rs", "use crate::protocol::Payload;"),
    ("src/backend/mod.rs", "mod families; mod shared; pub use families::{chat, settings};"),
    ("src/backend/shared/mod.rs", "pub mod db;"),
    ("src/backend/shared/db.rs", ""),
    ("src/backend/families/mod.rs", "pub mod chat; pub mod settings;"),
    ("src/backend/families/settings.rs", "use super::chat::create;"),
    (
        "src/backend/families/chat/mod.rs",
        "//! What other families may use: `create`.\n\nmod rows; mod store; pub use store::create;",
    ),
    ("src/backend/families/chat/rows.rs", "use super::store;"),
    ("src/backend/families/chat/store.rs", "use crate::backend::shared::db;"),
];

fn with(path: &str, text: &str) -> Sources {
    let mut sources: Sources = SOUND.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    sources.insert(path.to_owned(), text.to_owned());
    sources
}

#[test]
fn each_broken_rule_is_reported_with_file_and_line() {
    const PURE: &str = "pure file";
    const ORDER: &str = "room order";
    const FACE: &str = "face only";
    const CYCLE: &str = "import cycle";
    const SETTINGS: &str = "src/backend/families/settings.rs";
    const CHAT: &str = "src/backend/families/chat/mod.rs";
    for (path, text, line, rule) in [
        ("src/protocol/a.rs", "use tokio::time::Sleep;", 1, PURE),
        ("src/protocol/a.rs", "// tokio\n\nfn f() -> hyper::Error {}", 3, PURE),
        ("src/protocol/a.rs", "use std::net::IpAddr;", 1, PURE),
        ("src/protocol/a.rs", "use std::{\n    fmt,\n    net::IpAddr,\n};", 3, PURE),
        ("src/protocol/a.rs", "fn f() { ::std::fs::read(\"x\"); }", 1, PURE),
        ("src/protocol/a.rs", "use std::time::{Duration, Instant};", 1, PURE),
        ("src/protocol/a.rs", "\nfn f(at: std::time::SystemTime) {}", 2, PURE),
        ("src/protocol/a.rs", "fn f() { g()\n    .await }", 2, PURE),
        ("src/protocol/a.rs", "fn f() { println!(\"x\") }", 1, PURE),
        ("src/protocol/a.rs", "const S: &str = \"\n\";\nuse tokio::time::Sleep;", 3, PURE),
        ("src/backend/families/ai/sse.rs", "use tokio::time::Sleep;", 1, PURE),
        ("src/protocol/a.rs", "use crate::server::Config;", 1, ORDER),
        ("src/protocol/a.rs", "use crate::Config;", 1, ORDER),
        ("src/protocol/a.rs", "fn f() { crate::server::config::Config::default(); }", 1, ORDER),
        ("src/protocol/a.rs", "mod tests {\n    use super::super::super::server::Config;\n}", 2, ORDER),
        ("src/server/config.rs", "use crate::client::Client;", 1, ORDER),
        ("src/server/config.rs", "use crate::{\n    backend::chat,\n};", 2, ORDER),
        ("src/client/mod.rs", "use crate::server::Config;", 1, ORDER),
        (CHAT, "use crate::elsewhere::X;", 1, "unknown room"),
        ("src/elsewhere.rs", "", 1, "unknown room"),
        (SETTINGS, "use super::chat::store::Row;", 1, "family internals"),
        (SETTINGS, "use crate::backend::chat::{self, store};", 1, "family internals"),
        (SETTINGS, "use super::chat;\nfn f() { chat::delete(); }", 2, "not offered"),
        (SETTINGS, "use super::{super::shared::db, chat::Row};", 1, "not offered"),
        (SETTINGS, "use crate::backend::chat::Row;", 1, "not offered"),
        (SETTINGS, "fn f() { super::chat::delete(); }", 1, "not offered"),
        // Files.
        ("src/protocol/a.rs", "use super::b::B;", 1, CYCLE),
        ("src/protocol/a.rs", "use super::CONSTANT;", 1, CYCLE),
        ("src/protocol/a.rs", "use super::super::protocol;", 1, CYCLE),
        ("src/server/config.rs", "use super::Hub;", 1, CYCLE),
        ("src/server/config.rs", "\nuse super::Shared;", 2, CYCLE),
        (
            "src/server/mod.rs",
            "mod config; mod hub; pub use config::*; use hub::Hub;\nstruct Shared;",
            2,
            FACE,
        ),
        ("src/backend/families/chat/store.rs", "use super::rows::Row;", 1, CYCLE),
        ("src/backend/families/chat/store.rs", "fn f() { super::rows::g() }", 1, CYCLE),
        ("src/backend/families/chat/store.rs", "use super::create_all;", 1, CYCLE),
        // Folders.
        (CHAT, "mod rows; mod store;\nuse super::settings::S;", 2, "folder cycle"),
        ("src/backend/shared/db.rs", "use super::super::families::settings::S;", 1, "folder cycle"),
        // Faces.
        ("src/lib.rs", "pub mod protocol;\n\npub fn f() {}", 3, FACE),
        ("src/lib.rs", "#![warn(missing_docs)]\n#[cfg(doctest)]\nstruct Readme;", 3, FACE),
        (
            CHAT,
            "mod rows; mod store;\n#[derive(Debug)]\npub(crate) enum E { A }\nuse store::create;",
            3,
            FACE,
        ),
        (CHAT, "mod rows; mod store;\nconst X: [u8; 2] = [1; 2];", 2, FACE),
        (CHAT, "mod rows; mod store;\nmod inner {\n    impl X {}\n}", 3, FACE),
    ] {
        let report = check(&with(path, text));
        let place = format!("{path}:{line}: {rule}");
        assert!(
            report.iter().any(|entry| entry.starts_with(&place)),
            "{place} expected for {text:?}: {report:#?}"
        );
    }
}

#[test]
fn sound_sources_are_reported_for_nothing() {
    for (path, text) in [
        (
            "src/protocol/a.rs",
            "//! Uses no tokio.\nuse core::net::IpAddr;\n/* crate::server::Config /* */ */",
        ),
        ("src/protocol/a.rs", "const S: &str = \"crate::server\"; const R: &str = r#\"tokio \" .await\"#;"),
        ("src/protocol/a.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // println!"),
        ("src/protocol/b.rs", "mod tests { use super::*; use super::super::Payload; }"),
        ("src/server/hub.rs", "use crate::protocol::a; use super::config::Config; use std::time::Instant;"),
        ("src/server/hub.rs", "use crate::Payload; use crate::Config;"),
        (
            "src/server/mod.rs",
            "mod config; mod hub; pub use config::*; pub(crate) use hub::{Hub, Seat as S};",
        ),
        (
            "src/lib.rs",
            "#![warn(missing_docs)]\n#[cfg(x)] mod readme {}\npub mod a { pub use crate::server::Config; }\npub use server::*;",
        ),
        (
            "src/backend/families/settings.rs",
            "use super::{chat, super::shared::db::Db}; fn f() { chat::create(); }",
        ),
        (
            "src/backend/families/settings.rs",
            "use crate::backend::{chat, settings}; fn f() { chat::create(); }",
        ),
        ("src/backend/families/ai.rs", "use tokio::time::Sleep;"),
        ("src/main.rs", "use switchboard::backend::chat; use switchboard::Config;"),
    ] {
        assert_eq!(check(&with(path, text)), [""; 0], "{path}: {text}");
    }
}

#[test]
fn blank_lines_comments_and_tests_are_not_counted() {
    for (text, expected) in [
        ("", 0),
        ("// a\n\n/* b\n c */\n//! d", 0),
        ("fn f() {\n    // a\n    g() // b\n}\n", 3),
        ("const A: &str = \"a\n\nb\";\nconst B: u8 = 1;", 2),
        ("const A: &str = r#\"a\n\"b\n\"#;", 1),
        ("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { h() }\n}\nfn i() {}", 2),
        ("fn f() {}\n#[cfg(all(test, unix))]\nuse x::{self, y};\n", 1),
    ] {
        assert_eq!(rows(&kept(&tokenize(text), &[])), expected, "{text:?}");
    }
}

#[test]
fn what_a_feature_leaves_out_is_not_counted() {
    for (text, without, with) in [
        ("#[cfg(feature = \"a\")]\nuse x::{y,\n    z};\nfn f() {}", 1, 4),
        ("#[cfg(not(feature = \"a\"))]\nfn f() {}\nfn g() {}", 3, 1),
        ("#[cfg(any(feature = \"a\", windows))]\nfn f<A, B>(a: A) -> B {\n    g()\n}\nfn h() {}", 1, 5),
        ("#[cfg(feature = \"a\")]\n#[derive(Debug)]\nstruct S(u8);\nfn h() {}", 1, 4),
        ("struct S {\n    #[cfg(feature = \"a\")]\n    pub m: Map<A, B>,\n    pub n: u8,\n}", 3, 5),
        ("let s = S {\n    #[cfg(feature = \"a\")]\n    m: Map::new(),\n    n: 0,\n};", 3, 5),
        ("match x {\n    #[cfg(feature = \"a\")]\n    A => {\n        f()\n    }\n    B => g(),\n}", 3, 7),
        ("match x {\n    #[cfg(feature = \"a\")]\n    A(n) => f(n, 1),\n    B => g(),\n}", 3, 5),
        ("fn f() {\n    #[cfg(feature = \"a\")]\n    let x = { 1 } + 2;\n    g();\n}", 3, 5),
        (
            "fn f() {\n    #[cfg(feature = \"a\")]\n    if x { g() }\n    #[cfg(feature = \"a\")]\n    h(1, 2)\n}",
            2,
            6,
        ),
        ("#[cfg(feature = \"a\")]\nconst X: [S; 1] = [S { a: 1 }];\nfn f() {}", 1, 3),
        ("#[cfg(feature = \"a\")]\nimpl<T> X<T> for Y {\n    fn f() {}\n}\nfn f() {}", 1, 5),
    ] {
        let tokens = tokenize(text);
        assert_eq!(rows(&kept(&tokens, &[])), without, "{text}");
        assert_eq!(rows(&kept(&tokens, &["a"])), with, "{text}");
    }
}

#[test]
fn a_file_counts_if_the_build_reads_it() {
    let sources = [
        ("src/lib.rs", "mod a;\n#[cfg(feature = \"f\")]\nmod b;\n"),
        ("src/a/mod.rs", "mod inner;\n#[cfg(test)]\nmod tests;"),
        ("src/a/inner.rs", ""),
        ("src/a/tests.rs", ""),
        ("src/b.rs", "mod inner;"),
        ("src/b/inner.rs", ""),
        ("src/c.rs", ""),
    ];
    let sources = sources.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    let names = |features: &[&str]| {
        let mut names: Vec<String> = compiled(&sources, features).into_iter().map(|(path, _)| path).collect();
        names.sort();
        names
    };
    assert_eq!(names(&[]), ["src/a/inner.rs", "src/a/mod.rs", "src/lib.rs"]);
    assert_eq!(names(&["f"]), ["src/a/inner.rs", "src/a/mod.rs", "src/b.rs", "src/b/inner.rs", "src/lib.rs"]);
}
