//! The table of families. To add a family: its folder in `families/`, one entry here, and what `src/docs/architecture.md` lists.

use crate::server::Server;

use super::families::{ai, analytics, artifact, chat, code, credentials, imagegen, settings, system};
use super::shared::registry::{self, Channel};
use super::state::Backend;

/// What the rest of the backend knows about a family.
struct Family {
    channels: &'static [Channel],
    /// The types that the channels name, in TypeScript.
    types: &'static str,
    /// The tables of the family, each with the version of the database that first had them.
    tables: &'static [(usize, &'static str)],
    /// Registers the handlers, and starts the tasks of the family.
    register: fn(&Server, &Backend),
}

/// Every family, in the order in which its channels are listed.
const FAMILIES: &[Family] = &[
    Family {
        channels: chat::CHANNELS,
        types: chat::TYPES,
        tables: &[(1, chat::TABLES), (10, chat::DELETED)],
        register: |server, backend| chat::register(server, backend.db()),
    },
    Family {
        channels: ai::CHANNELS,
        types: ai::TYPES,
        tables: &[],
        register: |server, backend| {
            let recorder = backend.analytics().recorder().clone();
            ai::register(server, backend.db(), backend.config().ai.clone(), recorder);
        },
    },
    Family {
        channels: code::CHANNELS,
        types: code::TYPES,
        tables: &[(3, code::TABLES), (11, code::INDEXES)],
        register: |server, backend| code::register(server, backend.code()),
    },
    Family {
        channels: imagegen::CHANNELS,
        types: imagegen::TYPES,
        tables: &[(6, imagegen::TABLES), (9, imagegen::CLIENTS)],
        register: |server, backend| {
            let recorder = backend.analytics().recorder().clone();
            let config = backend.config().imagegen.clone();
            backend.spawn(imagegen::register(server, backend.db(), config, recorder));
        },
    },
    Family {
        channels: settings::CHANNELS,
        types: settings::TYPES,
        tables: &[(2, settings::TABLES)],
        register: |server, backend| settings::register(server, backend.db()),
    },
    Family {
        channels: credentials::CHANNELS,
        types: credentials::TYPES,
        tables: &[(4, credentials::TABLES), (8, credentials::ORIGINS)],
        register: |server, backend| {
            credentials::register(server, backend.db());
            backend.spawn(credentials::seal_origins(backend.db().clone()));
        },
    },
    Family {
        channels: artifact::CHANNELS,
        types: artifact::TYPES,
        tables: &[(5, artifact::TABLES)],
        register: |server, backend| {
            artifact::register(server, backend.artifacts(), backend.analytics().recorder().clone());
            backend.spawn(backend.artifacts().sweep());
        },
    },
    Family {
        channels: analytics::CHANNELS,
        types: analytics::TYPES,
        tables: &[(7, analytics::TABLES)],
        register: |server, backend| {
            analytics::register(server, backend.analytics());
            backend.spawn(backend.analytics().clone().keep());
        },
    },
    Family {
        channels: system::CHANNELS,
        types: system::TYPES,
        tables: &[],
        register: |server, backend| {
            system::register(server, &channels());
            backend.spawn(system::beat(server.clone(), backend.config().heartbeat_interval));
        },
    },
];

/// Returns the versions of the tables, oldest first. A released version never changes.
pub(super) fn migrations() -> Vec<&'static str> {
    let mut versions: Vec<_> = FAMILIES.iter().flat_map(|family| family.tables).collect();
    versions.sort_unstable_by_key(|(version, _)| version);
    versions.into_iter().map(|(_, tables)| *tables).collect()
}

/// Returns every channel, family by family.
pub fn channels() -> Vec<Channel> {
    FAMILIES.iter().flat_map(|family| family.channels).copied().collect()
}

/// Returns every channel with its types in TypeScript, as in `src/web/client.d.ts`.
pub fn typescript() -> String {
    let types: Vec<&str> = FAMILIES.iter().map(|family| family.types).collect();
    registry::typescript(&types, &channels())
}

/// Returns every channel as Markdown tables, as on the pages of the families.
pub fn markdown() -> String {
    registry::markdown(&channels())
}

/// Registers the handlers of every family, and starts their tasks: the heartbeat, the worker of `imagegen` and the upkeep of
/// `analytics` (specification, "registerAllHandlers"). Call it once for each backend, within a tokio runtime.
pub fn register_all(server: &Server, backend: &Backend) {
    for family in FAMILIES {
        (family.register)(server, backend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_the_tables_are_numbered_without_gaps() {
        let mut versions: Vec<usize> =
            FAMILIES.iter().flat_map(|family| family.tables).map(|(version, _)| *version).collect();
        versions.sort_unstable();
        assert!(versions.into_iter().eq(1..=migrations().len()));
    }
}
