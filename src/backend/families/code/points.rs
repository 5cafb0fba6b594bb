//! Restore points: which files a session has backed up, and restoring them. In: requests. Out: what the index and the backups on
//! disk contain. `restore` decides what is written where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension, params};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::config::CodeConfig;
use super::entries::FRAME_BYTES;
use super::follow::Code;
use super::restore::{self, BackupStamp, Order, Outcome};
use super::sessions::session_seq;
use super::transcript;
use crate::backend::shared::db::View;
use crate::backend::shared::encode::{Object, array, quoted};
use crate::backend::shared::validate::{Fields, wrong};
use crate::server::Party;

const MAX_TARGET_BYTES: usize = 1 << 10;
/// Backups that are hashed between two writes to the index.
const HASHES_AT_ONCE: usize = 64;

/// A restore point in the index.
struct RestorePoint {
    id: String,
    entry_id: Option<String>,
    label: Option<String>,
    created_at: i64,
    files: BTreeMap<String, Option<String>>,
}

/// The stamp and the SHA-1 of backups, by name.
type Hashes = HashMap<String, (BackupStamp, String)>;

pub(super) async fn list(code: Code, payload: Payload, party: Party) -> Result<Payload, WireError> {
    code.refresh().await;
    let (session_id, points, known) = code
        .db()
        .on_behalf_of(party)
        .read(move |view| {
            let fields = Fields::decode(&payload)?;
            let session_id = fields.required_id("sessionId")?;
            let session = session_seq(view.connection, &fields, &session_id)?;
            let points = read_points(view, session)?;
            Ok((session_id, points, read_hashes(view.connection, session)?))
        })
        .await?;
    let hashes = hash_backups(&code, party, &session_id, &points, known).await?;
    let points: Vec<String> = points.iter().map(|point| point_json(point, &session_id, &hashes)).collect();
    Ok(Payload::trusted(array(&points)))
}

/// Returns the restore points of a session, newest first; as many as can be sent.
fn read_points(view: &View<'_>, session: i64) -> Result<Vec<RestorePoint>, WireError> {
    let mut statement = view.connection.prepare_cached(
        "SELECT r.id, e.id, e.text, r.created_at, r.files FROM code_restore_points r
         LEFT JOIN code_entries e ON e.session = r.session AND e.id = r.message_id AND e.role IS NOT NULL
         WHERE r.session = ? ORDER BY r.seq DESC",
    )?;
    let mut rows = statement.query([session])?;
    let mut points = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let files: BTreeMap<String, Option<String>> =
            serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default();
        // Escapes can double the length of a path.
        bytes += FRAME_BYTES + files.keys().map(|path| 2 * path.len() + 100).sum::<usize>();
        if bytes > view.limits.max_page_bytes && !points.is_empty() {
            break;
        }
        points.push(RestorePoint {
            id: row.get(0)?,
            entry_id: row.get(1)?,
            label: row.get_ref(2)?.as_str_or_null()?.and_then(transcript::title_of),
            created_at: row.get(3)?,
            files,
        });
    }
    Ok(points)
}

fn read_hashes(connection: &Connection, session: i64) -> Result<Hashes, WireError> {
    let mut statement = connection
        .prepare_cached("SELECT name, size, modified_ns, sha1 FROM code_backups WHERE session = ?")?;
    let hashes = statement.query_map([session], |row| {
        Ok((row.get(0)?, (BackupStamp { size: row.get(1)?, modified_ns: row.get(2)? }, row.get(3)?)))
    })?;
    Ok(hashes.collect::<Result<_, _>>()?)
}

/// Returns the sizes and hashes of existing backups. A backup is read once, and again after it has changed.
async fn hash_backups(
    code: &Code,
    party: Party,
    session_id: &str,
    points: &[RestorePoint],
    known: Hashes,
) -> Result<Hashes, WireError> {
    let folder = code.config().code_dir.as_ref().and_then(|dir| restore::backups_of(dir, session_id));
    let Some(folder) = folder else { return Ok(Hashes::new()) };
    let names: BTreeSet<&String> = points.iter().flat_map(|point| point.files.values().flatten()).collect();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let max_bytes = code.config().limits.max_restore_file_bytes;
    let mut hashes = Hashes::new();
    for names in names.chunks(HASHES_AT_ONCE) {
        let (names, folder) = (names.to_vec(), folder.clone());
        let known: Hashes =
            names.iter().filter_map(|name| Some((name.clone(), known.get(name)?.clone()))).collect();
        let turn = code.hash_turn(party).await;
        let (current, new) = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut current = Hashes::new();
            let mut new = Vec::new();
            for name in names {
                let Some(stamp) = restore::stamp(&folder, &name) else { continue };
                let sha1 = match known.get(&name) {
                    Some((before, sha1)) if *before == stamp => sha1.clone(),
                    _ => {
                        let Some(sha1) = restore::sha1(&folder, &name, max_bytes) else { continue };
                        new.push((name.clone(), stamp.clone(), sha1.clone()));
                        sha1
                    }
                };
                current.insert(name, (stamp, sha1));
            }
            (current, new)
        })
        .await?;
        hashes.extend(current);
        if !new.is_empty() {
            let session_id = session_id.to_owned();
            let db = code.db().on_behalf_of(party);
            db.write(move |change| keep_hashes(change.connection, &session_id, &new)).await?;
        }
    }
    Ok(hashes)
}

fn keep_hashes(
    connection: &Connection,
    session_id: &str,
    hashes: &[(String, BackupStamp, String)],
) -> Result<(), WireError> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO code_backups (session, name, size, modified_ns, sha1)
         SELECT seq, ?2, ?3, ?4, ?5 FROM code_sessions WHERE id = ?1",
    )?;
    for (name, stamp, sha1) in hashes {
        statement.execute(params![session_id, name, stamp.size, stamp.modified_ns, sha1])?;
    }
    Ok(())
}

fn point_json(point: &RestorePoint, session_id: &str, hashes: &Hashes) -> String {
    let file = |(path, name): (&String, &Option<String>)| {
        let (stamp, sha1) = hashes.get(name.as_ref()?)?;
        Some(Object::new().text("path", path).integer("size", stamp.size).text("sha1", sha1).finish())
    };
    let files: Vec<String> = point.files.iter().filter_map(file).collect();
    Object::new()
        .text("id", &point.id)
        .text("sessionId", session_id)
        .text_or_null("entryId", point.entry_id.as_deref())
        .text("label", point.label.as_deref().unwrap_or("Restore point"))
        .integer("createdAt", point.created_at)
        .raw("files", &array(&files))
        .finish()
}

pub(super) async fn restore(code: Code, payload: Payload, party: Party) -> Result<Payload, WireError> {
    code.refresh().await;
    let (db, config) = (code.db().on_behalf_of(party), code.config().clone());
    let (id, order) = db.read(move |view| read_order(view, &Fields::decode(&payload)?, config)).await?;
    let turn = code.restore_turn(party).await;
    let restored = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        restore::restore(&order)
    });
    match restored.await? {
        Ok(outcome) => Ok(Payload::trusted(outcome_json(&id, &outcome))),
        Err(error) => {
            Err(wrong("targetDir", "folder that can be made below the restore root", &error.to_string()))
        }
    }
}

fn read_order(
    view: &View<'_>,
    fields: &Fields<'_>,
    config: CodeConfig,
) -> Result<(String, Order), WireError> {
    let id = fields.required_id("restorePointId")?;
    let target = fields.required_text("targetDir", 1..=MAX_TARGET_BYTES)?;
    let overwrite = fields.boolean("overwrite")?.unwrap_or(false);
    let parts = restore::parts(&target)
        .map_err(|wrong| fields.wrong("targetDir", "name of a folder below the restore root", wrong))?;
    let target = parts.into_iter().map(str::to_owned).collect();
    let (session_id, cwd, files): (String, Option<String>, String) = view
        .connection
        .prepare_cached(
            "SELECT s.id, s.cwd, r.files FROM code_restore_points r JOIN code_sessions s ON s.seq = r.session
             WHERE r.id = ?",
        )?
        .query_row([&id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?
        .ok_or_else(|| fields.wrong("restorePointId", "id of a restore point", "an unknown id"))?;
    let backups = config.code_dir.as_ref().and_then(|dir| restore::backups_of(dir, &session_id));
    let backups = backups.ok_or_else(|| WireError::new("the folder of backups is not known"))?;
    let files = serde_json::from_str(&files)?;
    let CodeConfig { restore_root: root, limits, .. } = config;
    Ok((id, Order { root, target, backups, cwd, files, overwrite, limits }))
}

fn outcome_json(id: &str, outcome: &Outcome) -> String {
    let restored: Vec<String> = outcome.restored.iter().map(|path| quoted(path)).collect();
    let skipped = outcome.skipped.iter();
    let skipped: Vec<String> = skipped
        .map(|(path, reason)| Object::new().text("path", path).text("reason", reason).finish())
        .collect();
    Object::new()
        .text("restorePointId", id)
        .text("targetDir", &outcome.target.to_string_lossy())
        .raw("restored", &array(&restored))
        .raw("skipped", &array(&skipped))
        .finish()
}
