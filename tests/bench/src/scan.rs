//! How fast the JSON scanner checks a text, beside `serde_json` on the same text: skipping it (`IgnoredAny`) and building
//! a `Value`. The best of many short windows is shown, since other work on the machine only ever makes a window slower.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml --bin scan`

use std::hint::black_box;
use std::time::Instant;

use serde::de::IgnoredAny;
use switchboard::protocol::json;

const BYTES: usize = 16 << 10;

/// Members of five sorts, about 16 KiB of them.
fn many_members() -> String {
    let mut text = String::from("{");
    for i in 0.. {
        if text.len() >= BYTES {
            break;
        }
        if i > 0 {
            text.push(',');
        }
        text += &match i % 5 {
            0 => format!("\"k{i}\":{}", i * 37),
            1 => format!("\"name{i}\":\"value {i}\""),
            2 => format!("\"f{i}\":true"),
            3 => format!("\"x{i}\":{i}.5"),
            _ => format!("\"arr{i}\":[1,2,3]"),
        };
    }
    text + "}"
}

/// GB/s of the fastest window.
fn best(text: &str, mut work: impl FnMut(&str)) -> f64 {
    const WINDOWS: usize = 200;
    const RUNS: usize = 100;
    let mut fastest = f64::MAX;
    for _ in 0..WINDOWS {
        let start = Instant::now();
        for _ in 0..RUNS {
            work(black_box(text));
        }
        fastest = fastest.min(start.elapsed().as_secs_f64() / RUNS as f64);
    }
    text.len() as f64 / fastest / 1e9
}

fn main() {
    let texts = [
        ("many small members", many_members()),
        ("one long string", format!("\"{}\"", "abcdefgh ".repeat(BYTES / 9))),
        ("text with escapes", format!("\"{}\"", "abcdefgh\\n".repeat(BYTES / 10))),
        ("numbers", format!("[{}1]", "12345,".repeat(BYTES / 6))),
    ];
    println!("{:<20} {:>12} {:>12} {:>12}   GB/s", "16 KiB", "scanner", "IgnoredAny", "Value");
    for (name, text) in texts {
        let scanner = best(&text, |text| json::validate(black_box(text)).unwrap());
        let ignored = best(&text, |text| {
            black_box(serde_json::from_str::<IgnoredAny>(text).unwrap());
        });
        let value = best(&text, |text| {
            black_box(serde_json::from_str::<serde_json::Value>(text).unwrap());
        });
        println!("{name:<20} {scanner:>12.2} {ignored:>12.2} {value:>12.2}");
    }
}
