//! Measures how fast the JSON scanner validates texts, compared with `serde_json` on the same texts: skipping them
//! (`IgnoredAny`) and building a `Value`. The branch predictor would memorise a single text, so there are 4 MiB of different
//! ones. The best of many short windows is printed, because other work on the machine can only make a window slower.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml --bin scan`

use std::hint::black_box;
use std::time::Instant;

use serde::de::IgnoredAny;
use switchboard::protocol::json;

use switchboard_bench::dice::Dice;

const BYTES: usize = 16 << 10;

const TEXTS: usize = 256;

/// A number of one to six digits.
fn number(dice: &mut Dice) -> usize {
    let end = 10_usize.pow(1 + dice.below(6) as u32);
    dice.below(end)
}

/// About 16 KiB of results of `part`, separated by commas.
fn list(mut part: impl FnMut() -> String) -> String {
    let mut text = part();
    while text.len() < BYTES {
        text.push(',');
        text += &part();
    }
    text
}

fn members(dice: &mut Dice) -> String {
    let members = list(|| {
        let n = number(dice);
        match dice.below(6) {
            0 => format!("\"k{n}\":{}", number(dice)),
            1 => format!("\"name{n}\":\"value {}\"", number(dice)),
            2 => format!("\"is{n}\":{}", dice.below(2) == 0),
            3 => format!("\"x{n}\":-{n}.{}", number(dice)),
            4 => format!("\"list{n}\":[1,{n},3]"),
            _ => format!("\"in{n}\":{{\"a\":null,\"b\":{n}}}"),
        }
    });
    format!("{{{members}}}")
}

/// A list of chats, as in a response to `chat:list`.
fn chats(dice: &mut Dice) -> String {
    let chat = || {
        let title = words(dice, " ", 40);
        let id = format!("{:08x}-1c2d-4e3f-8a4b-{:012x}", dice.below(1 << 32), dice.below(1 << 48));
        let (created, count) = (1_767_000_000_000 + dice.below(10_000_000_000), dice.below(400));
        let pinned = dice.below(8) == 0;
        format!(
            "{{\"id\":\"{id}\",\"title\":{title},\"createdAt\":{created},\"updatedAt\":{},\"messageCount\":{count},\
             \"pinned\":{pinned},\"model\":null}}",
            created + number(dice)
        )
    };
    format!("[{}]", list(chat))
}

fn numbers(dice: &mut Dice) -> String {
    format!("[{}]", list(|| number(dice).to_string()))
}

fn words(dice: &mut Dice, end: &str, bytes: usize) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        text += &"abcdefghijklmnop"[..1 + dice.below(16)];
        text += end;
    }
    format!("\"{text}\"")
}

/// The throughput of the fastest window, in GB/s.
fn best(texts: &[String], mut work: impl FnMut(&str)) -> f64 {
    const WINDOWS: usize = 60;
    let mut fastest = f64::MAX;
    for _ in 0..WINDOWS {
        let start = Instant::now();
        for text in texts {
            work(black_box(text));
        }
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    texts.iter().map(String::len).sum::<usize>() as f64 / fastest / 1e9
}

fn main() {
    let dice = &mut Dice(0x9e37_79b9_7f4a_7c15);
    let mut many = |mut one: Box<dyn FnMut(&mut Dice) -> String>| -> Vec<String> {
        (0..TEXTS).map(|_| one(dice)).collect()
    };
    let rows = [
        ("chats", many(Box::new(chats))),
        ("many small members", many(Box::new(members))),
        ("one long string", many(Box::new(|dice| words(dice, " ", BYTES)))),
        ("text with escapes", many(Box::new(|dice| words(dice, "\\n", BYTES)))),
        ("numbers", many(Box::new(numbers))),
    ];
    println!("{:<20} {:>12} {:>12} {:>12}   GB/s", "16 KiB of", "scanner", "IgnoredAny", "Value");
    for (name, texts) in rows {
        let scanner = best(&texts, |text| json::validate(black_box(text)).unwrap());
        let ignored = best(&texts, |text| {
            black_box(serde_json::from_str::<IgnoredAny>(text).unwrap());
        });
        let value = best(&texts, |text| {
            black_box(serde_json::from_str::<serde_json::Value>(text).unwrap());
        });
        println!("{name:<20} {scanner:>12.2} {ignored:>12.2} {value:>12.2}");
    }
}
