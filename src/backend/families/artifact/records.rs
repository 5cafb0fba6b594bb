//! The rows of the installed artifacts. Input: a transaction, and what to read or change. Output: the JSON that clients get.

use rusqlite::{OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, View};
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

const METADATA: &str = "SELECT id, name, version, description, enabled, source, installed_at, updated_at FROM artifacts ORDER BY id";

const ARTIFACT: &str =
    "SELECT id, name, version, description, enabled, source, installed_at, updated_at, manifest, files
     FROM artifacts WHERE id = ?";

pub(super) fn list(view: &View<'_>, _: &Fields<'_>) -> Result<Payload, WireError> {
    let mut statement = view.connection.prepare_cached(METADATA)?;
    let artifacts = statement.query_map([], |row| metadata(row).map(Object::finish))?;
    Ok(Payload::trusted(array(&artifacts.collect::<Result<Vec<_>, _>>()?)))
}

pub(super) fn get(view: &View<'_>, fields: &Fields<'_>) -> Result<Payload, WireError> {
    let id = fields.required_id("id")?;
    let artifact = artifact_json(view.connection, &id)?;
    Ok(Payload::trusted(artifact.unwrap_or_else(|| "null".to_owned())))
}

/// Whether an artifact can be run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Availability {
    Enabled,
    Disabled,
}

pub(super) fn set_availability(
    change: &mut Change<'_>,
    fields: &Fields<'_>,
    availability: Availability,
) -> Result<Payload, WireError> {
    let enabled = availability == Availability::Enabled;
    let id = fields.required_id("id")?;
    let changed = change
        .connection
        .prepare_cached("UPDATE artifacts SET enabled = ?2, updated_at = ?3 WHERE id = ?1 AND enabled <> ?2")?
        .execute(params![id, enabled, change.unix_ms])?;
    let Some(artifact) = artifact_json(change.connection, &id)? else { return Err(unknown()) };
    if changed > 0 {
        change.emit("artifact:updated", artifact_event(&artifact));
    }
    Ok(Payload::none())
}

/// Returns the JSON of an artifact; `None` if the id is unknown.
pub(super) fn artifact_json(
    connection: &rusqlite::Connection,
    id: &str,
) -> Result<Option<String>, WireError> {
    let mut statement = connection.prepare_cached(ARTIFACT)?;
    let artifact = statement.query_row([id], |row| {
        let artifact = metadata(row)?;
        Ok(artifact
            .raw("manifest", row.get_ref(8)?.as_str()?)
            .raw("files", row.get_ref(9)?.as_str()?)
            .finish())
    });
    Ok(artifact.optional()?)
}

fn metadata(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object::new()
        .text("id", row.get_ref(0)?.as_str()?)
        .text("name", row.get_ref(1)?.as_str()?)
        .text("version", row.get_ref(2)?.as_str()?)
        .text_or_null("description", row.get_ref(3)?.as_str_or_null()?)
        .boolean("enabled", row.get(4)?)
        .text("source", row.get_ref(5)?.as_str()?)
        .integer("installedAt", row.get(6)?)
        .integer("updatedAt", row.get(7)?))
}

pub(super) fn artifact_event(artifact: &str) -> Payload {
    Payload::trusted(Object::new().raw("artifact", artifact).finish())
}

pub(super) fn unknown() -> WireError {
    wrong("id", "id of an artifact", "an unknown id")
}
