//! The providers of images, as a table. To add one, write a file with its [`Dialect`], add a row here, its name to
//! `ImageProvider` in `types.d.ts`, and its base URL to `settings`.

use super::dialect::Dialect;
use super::job::{Batch, GeneratedImage};
use super::{automatic1111, openai, pattern};

/// A provider of images.
pub(super) struct ImageProvider {
    /// The name on the wire.
    pub(super) name: &'static str,
    /// The model of an entry that names none; `None` for whichever the provider has loaded.
    pub(super) default_model: Option<&'static str>,
    pub(super) engine: Engine,
}

/// What produces the images of a provider.
pub(super) enum Engine {
    /// This program. The number is the seed of a batch that has none.
    BuiltIn(fn(&Batch, u32) -> Vec<GeneratedImage>),
    /// A server with this API.
    Network(&'static Dialect),
}

/// All providers.
pub(super) static PROVIDERS: [ImageProvider; 3] = [
    ImageProvider {
        name: "openai",
        default_model: Some("gpt-image-1"),
        engine: Engine::Network(&openai::DIALECT),
    },
    ImageProvider {
        name: "automatic1111",
        default_model: None,
        engine: Engine::Network(&automatic1111::DIALECT),
    },
    ImageProvider { name: "pattern", default_model: None, engine: Engine::BuiltIn(pattern::generate) },
];

/// Returns the names of all providers.
pub(super) fn names() -> [&'static str; PROVIDERS.len()] {
    PROVIDERS.each_ref().map(|provider| provider.name)
}

/// Returns the provider with this name.
pub(super) fn find(name: &str) -> Option<&'static ImageProvider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_is_in_the_types_and_has_a_base_url() {
        let listed = names().map(|name| format!("\"{name}\"")).join(" | ");
        let types = include_str!("types.d.ts");
        assert!(types.contains(&format!("export type ImageProvider = {listed};")), "{listed}");
        let settings = include_str!("../settings/types.d.ts");
        for ImageProvider { name, engine, .. } in &PROVIDERS {
            let is_network = matches!(engine, Engine::Network(_));
            assert_eq!(
                settings.contains(&format!("\"imagegen.{name}.baseUrl\": string;")),
                is_network,
                "{name}"
            );
        }
    }
}
