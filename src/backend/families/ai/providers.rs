//! The providers of models, as a table. To add one, write a file with its [`Dialect`], add a row here, its name to `AiProvider`
//! in `types.d.ts`, and its base URL to `settings`.

use super::dialect::Dialect;
use super::exchange::{ChatRequest, Chunk, Finish};
use super::{anthropic, echo, openai};

/// A provider of models.
pub(super) struct AiProvider {
    /// The name on the wire.
    pub(super) name: &'static str,
    pub(super) engine: Engine,
}

/// What produces the answers of a provider.
pub(super) enum Engine {
    /// This program, without a key.
    BuiltIn(fn(&ChatRequest) -> (Vec<Chunk>, Finish)),
    /// A server with this API.
    Network(&'static Dialect),
}

/// All providers, in the order in which models are listed.
pub(super) static PROVIDERS: [AiProvider; 3] = [
    AiProvider { name: "anthropic", engine: Engine::Network(&anthropic::DIALECT) },
    AiProvider { name: "openai", engine: Engine::Network(&openai::DIALECT) },
    AiProvider { name: "echo", engine: Engine::BuiltIn(echo::answer) },
];

/// Returns the names of all providers.
pub(super) fn names() -> [&'static str; PROVIDERS.len()] {
    PROVIDERS.each_ref().map(|provider| provider.name)
}

/// Returns the provider with this name.
pub(super) fn find(name: &str) -> Option<&'static AiProvider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_is_in_the_types_and_has_a_base_url() {
        let listed = names().map(|name| format!("\"{name}\"")).join(" | ");
        let types = include_str!("types.d.ts");
        assert!(types.contains(&format!("export type AiProvider = {listed};")), "{listed}");
        let settings = include_str!("../settings/types.d.ts");
        for AiProvider { name, engine, .. } in &PROVIDERS {
            let is_network = matches!(engine, Engine::Network(_));
            assert_eq!(settings.contains(&format!("\"ai.{name}.baseUrl\": string;")), is_network, "{name}");
        }
    }
}
