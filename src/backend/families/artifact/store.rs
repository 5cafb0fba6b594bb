//! The rows of the installed artifacts. Input: a transaction, and what to read or change. Output: the JSON that clients get.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Row, params};

use crate::backend::shared::db::{Change, View};
use crate::backend::shared::encode::{Object, array};
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::manifest::Manifest;

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
fn artifact_json(connection: &rusqlite::Connection, id: &str) -> Result<Option<String>, WireError> {
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

fn unknown() -> WireError {
    wrong("id", "id of an artifact", "an unknown id")
}

/// The new values of a row.
pub(super) struct NewRow<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) source: &'a str,
    pub(super) folder: &'a str,
    /// The JSON of `files`.
    pub(super) files: &'a str,
}

/// Writes the row of a new version. Returns the artifact's JSON and the folder of the previous version. An update keeps the
/// artifact enabled or disabled.
///
/// # Errors
/// When it would be one more than `max` artifacts.
pub(super) fn install(
    change: &mut Change<'_>,
    row: &NewRow<'_>,
    max: u32,
) -> Result<(String, Option<String>), WireError> {
    let NewRow { manifest, source, folder, files } = row;
    let mut statement = change.connection.prepare_cached("SELECT folder FROM artifacts WHERE id = ?")?;
    let previous: Option<String> = statement.query_row([&manifest.id], |row| row.get(0)).optional()?;
    let count: u32 = change
        .connection
        .prepare_cached("SELECT count(*) FROM artifacts")?
        .query_row([], |row| row.get(0))?;
    if previous.is_none() && count >= max {
        return Err(refused(&format!("one more than the {max} artifacts allowed")));
    }
    change
        .connection
        .prepare_cached(
            "INSERT INTO artifacts (id, name, version, description, enabled, source, installed_at, updated_at, folder, manifest, files)
             VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET name = ?2, version = ?3, description = ?4, source = ?5, updated_at = ?6,
                 folder = ?7, manifest = ?8, files = ?9",
        )?
        .execute(params![
            manifest.id,
            manifest.name,
            manifest.version,
            manifest.description,
            source,
            change.unix_ms,
            folder,
            manifest.json,
            files
        ])?;
    let artifact = artifact_json(change.connection, &manifest.id)?;
    Ok((artifact.ok_or_else(|| WireError::new("Internal error"))?, previous))
}

/// Deletes a row. Returns the folder that it named; `None` if the id is unknown.
pub(super) fn remove(change: &mut Change<'_>, id: &str) -> Result<Option<String>, WireError> {
    let mut statement =
        change.connection.prepare_cached("DELETE FROM artifacts WHERE id = ? RETURNING folder")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?)
}

/// The columns of an artifact that are needed to run it.
pub(super) struct Installed {
    pub(super) folder: String,
    pub(super) manifest: String,
    pub(super) enabled: bool,
}

/// Returns what is needed to run an artifact.
///
/// # Errors
/// When the id is unknown.
pub(super) fn installed(view: &View<'_>, id: &str) -> Result<Installed, WireError> {
    let mut statement =
        view.connection.prepare_cached("SELECT folder, manifest, enabled FROM artifacts WHERE id = ?")?;
    let installed = statement.query_row([id], |row| {
        Ok(Installed { folder: row.get(0)?, manifest: row.get(1)?, enabled: row.get(2)? })
    });
    installed.optional()?.ok_or_else(unknown)
}

/// Returns the folders that the rows name.
pub(super) fn folders(view: &View<'_>) -> Result<BTreeSet<String>, WireError> {
    let mut statement = view.connection.prepare_cached("SELECT folder FROM artifacts")?;
    let folders = statement.query_map([], |row| row.get(0))?;
    Ok(folders.collect::<Result<_, _>>()?)
}

/// The error for a source that cannot be installed.
pub(super) fn refused(got: &str) -> WireError {
    wrong("source", "a folder or a .tar of plain files below an --artifact-source", got)
}
