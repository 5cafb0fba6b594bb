//! Models and their prices. Input: the data file `models.json`, a provider's own list. Output: `ModelConfig`s, costs. Pure.

use std::sync::OnceLock;

use serde_json::Value;

use crate::backend::shared::encode::Object;

use super::exchange::{Failure, Usage, count, parse, text};
use super::providers;

/// The data file. Its `date` is the day on which the prices were looked up.
const DATA: &str = include_str!("models.json");
/// Most models of a provider's list. The rest is ignored.
const MAX_MODELS: usize = 2000;
const MAX_NAME_BYTES: usize = 256;

/// A model with its limits and prices, as far as they are known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    id: String,
    /// The name of its provider.
    pub(super) provider: &'static str,
    name: String,
    context_window: Option<u64>,
    pub(super) max_output: Option<u64>,
    rates: Rates,
}

/// USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Rates {
    input: Option<f64>,
    output: Option<f64>,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
}

impl Model {
    pub(super) fn to_json(&self) -> String {
        let integer = |value: Option<u64>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
        Object::new()
            .text("id", &self.id)
            .text("provider", self.provider)
            .text("name", &self.name)
            .raw("contextWindow", &integer(self.context_window))
            .raw("maxOutput", &integer(self.max_output))
            .number("inputUsdPerMTok", self.rates.input)
            .number("outputUsdPerMTok", self.rates.output)
            .finish()
    }
}

/// Returns the models of the data file.
pub(super) fn known() -> &'static [Model] {
    static KNOWN: OnceLock<Vec<Model>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let data: Value = serde_json::from_str(DATA).expect("a test reads the data file");
        data.get("models").and_then(Value::as_array).into_iter().flatten().filter_map(model).collect()
    })
}

fn model(line: &Value) -> Option<Model> {
    let rate = |name: &str| line.get(name).and_then(Value::as_f64);
    Some(Model {
        id: text(line, "id").to_owned(),
        provider: providers::find(text(line, "provider"))?.name,
        name: text(line, "name").to_owned(),
        context_window: count(line, "contextWindow"),
        max_output: count(line, "maxOutput"),
        rates: Rates {
            input: rate("input"),
            output: rate("output"),
            cache_read: rate("cacheRead"),
            cache_write: rate("cacheWrite"),
        },
    })
}

/// Looks a model up in the data file. A snapshot, whose id ends with its date, is found by its id without the date.
pub(super) fn find(provider: &str, id: &str) -> Option<&'static Model> {
    let find = |id: &str| known().iter().find(|model| model.provider == provider && model.id == id);
    find(id).or_else(|| find(without_date(id)?))
}

/// Removes the date from `name-20251001` and `name-2025-10-01`.
fn without_date(id: &str) -> Option<&str> {
    let digits =
        |part: &str, count: usize| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = id.rsplit_once('-')?;
    if digits(last, 8) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(rest)
}

/// Returns the cost of an answer, in USD; `None` if the usage or a rate is unknown.
pub(super) fn cost_usd(provider: &str, id: &str, usage: Option<Usage>) -> Option<f64> {
    let (rates, usage) = (find(provider, id)?.rates, usage?);
    let mut micros = 0.0;
    for (count, rate) in [
        (usage.input_tokens, rates.input),
        (usage.output_tokens, rates.output),
        (usage.cache_read_tokens.unwrap_or_default(), rates.cache_read),
        (usage.cache_write_tokens.unwrap_or_default(), rates.cache_write),
    ] {
        if count > 0 {
            micros += count as f64 * rate?;
        }
    }
    // Rounding removes the error of binary fractions.
    Some((micros * 1000.0).round() / 1e9)
}

/// Reads a provider's own list and adds what the data file knows. Both APIs return `{data: [{id, …}]}`; Anthropic adds names
/// and limits, some compatible servers add limits.
///
/// # Errors
/// When the body is not such a list.
pub(super) fn read_list(provider: &'static str, body: &str) -> Result<Vec<Model>, Failure> {
    let body = parse(body)?;
    let Some(lines) = body.get("data").and_then(Value::as_array) else {
        return Err(Failure::new("a list of models without data"));
    };
    let listed = lines.iter().filter_map(|line| {
        let id = text(line, "id");
        let known = find(provider, id);
        let name = line.get("display_name").and_then(Value::as_str).or(known.map(|known| &*known.name));
        let window = count(line, "max_input_tokens").or(count(line, "max_model_len"));
        let fits =
            (1..=MAX_NAME_BYTES).contains(&id.len()) && name.is_none_or(|name| name.len() <= MAX_NAME_BYTES);
        fits.then(|| Model {
            id: id.to_owned(),
            provider,
            name: name.unwrap_or(id).to_owned(),
            context_window: window.filter(|n| *n > 0).or(known.and_then(|known| known.context_window)),
            max_output: count(line, "max_tokens")
                .filter(|n| *n > 0)
                .or(known.and_then(|known| known.max_output)),
            rates: known.map(|known| known.rates).unwrap_or_default(),
        })
    });
    Ok(listed.take(MAX_MODELS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_data_file_is_read_and_the_file_has_a_date() {
        let data: Value = serde_json::from_str(DATA).unwrap();
        let date: Vec<&str> = text(&data, "date").split('-').collect();
        assert_eq!(date.iter().map(|part| part.len()).collect::<Vec<_>>(), [4, 2, 2]);
        assert_eq!(known().len(), data["models"].as_array().unwrap().len());
        for (index, model) in known().iter().enumerate() {
            assert!(!model.id.is_empty() && !model.name.is_empty());
            assert_eq!(known().iter().position(|other| other.id == model.id), Some(index), "{}", model.id);
            let rates =
                [model.rates.input, model.rates.output, model.rates.cache_read, model.rates.cache_write];
            assert!(rates.into_iter().flatten().all(|rate| (0.0..1000.0).contains(&rate)));
            assert_eq!(model.rates.input.is_some(), model.rates.output.is_some());
        }
    }

    #[test]
    fn a_cost_is_known_if_every_needed_rate_is() {
        let usage = |input_tokens, output_tokens, cache_read_tokens| {
            Some(Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens: None })
        };
        for (id, usage, cost) in [
            ("claude-opus-5", usage(1000, 100, None), Some(0.0075)),
            ("claude-haiku-4-5-20251001", usage(3, 0, Some(10)), Some(0.000_004)),
            ("claude-haiku-5-5", usage(1, 1, None), None),
            ("claude-sonnet-5", usage(1, 1, Some(1)), None),
            ("claude-sonnet-5", usage(1, 1, Some(0)), Some(0.000_012)),
            ("claude-opus-5", None, None),
            ("unknown", usage(1, 1, None), None),
        ] {
            assert_eq!(cost_usd("anthropic", id, usage), cost, "{id}");
        }
        assert_eq!(cost_usd("openai", "gpt-4o-2024-11-20", usage(1_000_000, 0, None)), Some(2.5));
        assert_eq!(cost_usd("echo", "echo", usage(5, 5, None)), Some(0.0));
    }

    #[test]
    fn a_list_is_completed_from_the_data_file() {
        let list = read_list(
            "anthropic",
            r#"{"data":[{"id":"claude-opus-5","display_name":"Opus!","max_input_tokens":5},{"id":"new"},{"id":7},{"id":""}]}"#,
        )
        .unwrap();
        let listed: Vec<String> = list.iter().map(Model::to_json).collect();
        assert_eq!(
            listed,
            [
                r#"{"id":"claude-opus-5","provider":"anthropic","name":"Opus!","contextWindow":5,"maxOutput":128000,"inputUsdPerMTok":5.0,"outputUsdPerMTok":25.0}"#,
                r#"{"id":"new","provider":"anthropic","name":"new","contextWindow":null,"maxOutput":null,"inputUsdPerMTok":null,"outputUsdPerMTok":null}"#,
            ]
        );
        for body in ["", "[]", "{}", r#"{"data":{}}"#] {
            assert!(read_list("openai", body).is_err(), "{body}");
        }
    }
}
