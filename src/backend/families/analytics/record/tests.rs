//! Sums, limits, and which part of an error message is kept.

use crate::protocol::payload::Payload;

use super::super::calendar::HOUR_MS;
use super::*;

const NOW: i64 = 500_000 * HOUR_MS;

fn sums_of(batch: &Batch, kind: Kind, a: &str, b: &str) -> Sums {
    let facts = batch.facts.iter().filter(|(key, _)| (key.kind, &*key.a, &*key.b) == (kind, a, b));
    facts.fold(Sums::default(), |mut sums, (_, fact)| {
        sums.add(&fact.sums);
        sums
    })
}

fn count(batch: &Batch) -> i64 {
    batch.facts.values().map(|fact| fact.sums.count).sum()
}

#[test]
fn calls_are_added_up_by_hour_and_name() {
    let pending = Pending::default();
    let call = AiCall {
        provider: "p",
        model: "m",
        input_tokens: 5,
        output_tokens: 7,
        cache_read_tokens: 1,
        cache_write_tokens: 2,
        cost_usd: Some(0.1),
        latency: Duration::from_millis(3),
        failed: false,
        tools: &["t", "u", "t"],
    };
    for _ in 0..10 {
        pending.add_ai_call(NOW, &call);
    }
    let failed = AiCall { provider: "p", model: "m", failed: true, ..AiCall::default() };
    pending.add_ai_call(NOW + HOUR_MS, &failed);
    let images = ImageBatch { provider: "p", model: "", images: 4, ..ImageBatch::default() };
    pending.add_images(NOW, &images);
    pending.add_artifact_call(NOW, "t", Duration::from_micros(1500), true);
    let batch = pending.drain();
    let ai = Sums { us: 30_000, max_us: 3_000, ..Sums::default() };
    let ai = Sums { count: 11, failed: 1, input: 50, output: 70, cache_read: 10, cache_write: 20, ..ai };
    // Ten times 0.1 is 1, unlike in binary floating point.
    assert_eq!(sums_of(&batch, Kind::Ai, "p", "m"), Sums { nano_usd: 1_000_000_000, ..ai });
    assert_eq!(sums_of(&batch, Kind::Tool, "ai", "t"), Sums { count: 20, ..Sums::default() });
    let artifact = Sums { count: 1, failed: 1, extra: 1, us: 1500, max_us: 1500, ..Sums::default() };
    assert_eq!(sums_of(&batch, Kind::Tool, "artifact", "t"), artifact);
    assert_eq!(sums_of(&batch, Kind::Images, "p", ""), Sums { count: 1, extra: 4, ..Sums::default() });
    assert_eq!(batch.facts.len(), 6, "a fact an hour, sort and name");
    assert_eq!(pending.drain(), Batch::default(), "each is taken once");
}

#[test]
fn absurd_numbers_are_cut_so_that_sums_cannot_overflow() {
    let pending = Pending::default();
    for cost_usd in [Some(f64::NAN), Some(-1.0), Some(f64::NEG_INFINITY), None] {
        pending.add_ai_call(NOW, &AiCall { cost_usd, ..AiCall::default() });
    }
    assert_eq!(sums_of(&pending.drain(), Kind::Ai, "", "").nano_usd, 0);
    let call = AiCall {
        input_tokens: u64::MAX,
        cost_usd: Some(f64::INFINITY),
        latency: Duration::MAX,
        ..AiCall::default()
    };
    for at in [i64::MIN, i64::MAX] {
        pending.add_ai_call(at, &call);
    }
    let batch = pending.drain();
    let sums = sums_of(&batch, Kind::Ai, "", "");
    assert_eq!((sums.input, sums.nano_usd, sums.us), (2 * MAX_COUNT, 2 * MAX_NANO_USD, 2 * MAX_US));
    assert!(batch.facts.values().all(|fact| (0..END_UNIX_MS).contains(&fact.at)));
    let mut sums = Sums { us: i64::MAX, ..Sums::default() };
    sums.add(&sums.clone());
    assert_eq!(sums.us, i64::MAX);
}

#[test]
fn a_record_beyond_the_limits_loses_its_name_but_counts() {
    let mut batch = Batch::default();
    let one = Sums { count: 1, ..Sums::default() };
    for n in 0..MAX_SUMS + 10 {
        batch.add(NOW, Kind::Ai, "p", &n.to_string(), &one);
    }
    batch.add(NOW, Kind::Ai, "p", "0", &one);
    assert_eq!(batch.facts.len(), MAX_SUMS + 1);
    assert_eq!(sums_of(&batch, Kind::Ai, OTHER, OTHER).count, 10);
    assert_eq!(sums_of(&batch, Kind::Ai, "p", "0").count, 2);
    assert_eq!(count(&batch) as usize, MAX_SUMS + 11);

    let mut shard = Shard::default();
    for n in 0..MAX_CHANNELS + 10 {
        shard.add(NOW, &n.to_string(), None, Duration::ZERO);
    }
    assert_eq!(shard.channels.len(), MAX_CHANNELS + 1);

    let name = "é".repeat(MAX_NAME_BYTES);
    let mut batch = Batch::default();
    batch.add(NOW, Kind::Ai, &name, "", &one);
    let key = batch.facts.keys().next().unwrap();
    assert_eq!((key.a.len(), name.starts_with(&*key.a)), (MAX_NAME_BYTES, true));
}

#[test]
fn requests_count_in_the_hour_in_which_they_ended() {
    let mut shard = Shard::default();
    for (at, code) in [
        (NOW, None),
        (NOW + 1, None),
        (NOW + 2, Some(ErrorCode::Timeout)),
        (NOW + HOUR_MS, None),
        // The clock is set back.
        (NOW, None),
    ] {
        shard.add(at, "c", code.as_ref(), Duration::from_micros(10));
    }
    let pending = Pending::default();
    *lock(&pending.shards[3]) = shard;
    let batch = pending.drain();
    let hours: Vec<_> = batch
        .facts
        .iter()
        .map(|(key, fact)| (key.hour - NOW, &*key.b, fact.sums.count, fact.sums.us))
        .collect();
    assert_eq!(hours, [(0, "", 3, 30), (0, "TIMEOUT", 1, 10), (HOUR_MS, "", 1, 10)]);
    assert_eq!(pending.drain(), Batch::default());
}

#[test]
fn records_that_could_not_be_written_are_put_back() {
    let recorder = Recorder::new(true);
    let pending = recorder.pending.clone().unwrap();
    let line =
        |at: i64| ErrorLine { at, code: ErrorCode::Timeout, channel: "c".into(), message: String::new() };
    pending.add_artifact_call(NOW, "a", Duration::ZERO, false);
    (0..40).for_each(|n| lock(&pending.shards[0]).batch.add_error(line(2 * n)));
    let first = recorder.drain();
    pending.add_artifact_call(NOW, "a", Duration::ZERO, false);
    (0..40).for_each(|n| lock(&pending.shards[1]).batch.add_error(line(2 * n + 1)));
    recorder.put_back(first);
    let all = recorder.drain();
    assert_eq!(sums_of(&all, Kind::Tool, "artifact", "a").count, 2);
    let times: Vec<i64> = all.errors.iter().map(|line| line.at).collect();
    assert_eq!(times, (30..80).collect::<Vec<_>>(), "the newest, in order");

    let off = Recorder::new(false);
    off.artifact_call("a", Duration::ZERO, false);
    off.put_back(all);
    assert_eq!(off.drain(), Batch::default());
    assert!(off.observer().is_none());
}

#[test]
fn only_the_programs_own_words_of_an_error_are_kept() {
    let shape =
        |path: &str| crate::backend::shared::validate::wrong(path, "integer 1..=500", "\"sk-secret\"");
    for (error, kept) in [
        (WireError::new("Internal error"), "Internal error"),
        (shape("limit"), "limit: expected integer 1..=500"),
        (WireError::new("anthropic: 400: Your diary is secret".to_owned()), "anthropic: 400…"),
        (WireError::new("openai: secret".to_owned()), "openai…"),
        (WireError::new("openai: 4000: secret".to_owned()), "openai…"),
        (WireError::new("anthropic: overloaded_error: secret".to_owned()), "anthropic: overloaded_error…"),
        (WireError::new("anthropic: my secret_error: x".to_owned()), "anthropic…"),
        (WireError::new("no chat \"secret\" here".to_owned()), "no chat…"),
        (WireError::new("no chat 'secret'".to_owned()), "no chat…"),
        (WireError::new("no chat `secret`".to_owned()), "no chat…"),
        (WireError::new("No handler for: secret".to_owned()), "No handler for…"),
        (WireError::new("no answer within 5 ms".to_owned()), "no answer within 5 ms"),
        (WireError::new("two\nlines".to_owned()), "two lines"),
        (WireError::new(String::new()), ""),
        (WireError::new("x".to_owned()).details(Payload::trusted("[".repeat(9000))), "x"),
    ] {
        assert_eq!(outline(&error), kept, "{error}");
    }
    let long = outline(&WireError::new("é".repeat(300)));
    assert_eq!(long.len(), MAX_MESSAGE_BYTES);
}
