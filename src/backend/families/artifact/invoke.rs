//! Handles `artifact:invoke`. Input: an id and the program's input. Output: the JSON that the program wrote, or an error.

use std::time::{Duration, Instant};

use crate::backend::shared::db::Db;
use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Party;

use super::super::analytics::Recorder;
use super::config::ArtifactLimits;
use super::manifest::{Manifest, misfit};

use super::folders::{Artifacts, Lease};
#[cfg(unix)]
use super::run::run;
use super::store::{self, Installed};

/// Runs the artifact that a payload names.
pub(super) async fn invoke(
    artifacts: &Artifacts,
    payload: &Payload,
    recorder: &Recorder,
    party: Party,
) -> Result<Payload, WireError> {
    let fields = Fields::decode(payload)?;
    let id = fields.required_id("id")?;
    let input = if fields.has("input") { fields.required_json("input")? } else { "null" };
    let (installed, lease) = find(artifacts, &id, party).await?;
    if !artifacts.config().allow {
        return Err(WireError::new(
            "running artifacts is not allowed: the server was started without --allow-artifacts",
        ));
    }
    if !installed.enabled {
        return Err(WireError::new(format!("{id} is disabled: enable it with artifact:enable")));
    }
    // The manifest was checked when it was installed, perhaps with a higher limit. `run` applies the current one.
    let wide = ArtifactLimits { max_timeout: Duration::MAX, ..artifacts.config().limits.clone() };
    let manifest = Manifest::decode(installed.manifest.as_bytes(), &wide)?;
    check_input(&manifest, input)?;
    let mut record = InvocationRecord { recorder, id: &id, started: Instant::now(), failed: true };
    let result = run(artifacts, manifest, lease, input, party).await;
    record.failed = result.is_err();
    result
}

/// Records an invocation for the statistics when it ends. One that is dropped because its client left counts as failed.
struct InvocationRecord<'a> {
    recorder: &'a Recorder,
    id: &'a str,
    started: Instant,
    failed: bool,
}

impl Drop for InvocationRecord<'_> {
    fn drop(&mut self) {
        self.recorder.artifact_call(self.id, self.started.elapsed(), self.failed);
    }
}

/// Returns an artifact and a lease of its folder. Reads the row again once the folder is leased, because an update can
/// have replaced the folder in between.
async fn find(artifacts: &Artifacts, id: &str, party: Party) -> Result<(Installed, Lease), WireError> {
    let db = artifacts.db().on_behalf_of(party);
    let mut installed = look_up(&db, id).await?;
    loop {
        let lease = artifacts.lease(&installed.folder);
        let again = look_up(&db, id).await?;
        if again.folder == installed.folder {
            return Ok((again, lease));
        }
        installed = again;
    }
}

async fn look_up(db: &Db, id: &str) -> Result<Installed, WireError> {
    let id = id.to_owned();
    db.read(move |view| store::installed(view, &id)).await
}

fn check_input(manifest: &Manifest, input: &str) -> Result<(), WireError> {
    let Some(schema) = &manifest.input else { return Ok(()) };
    let input =
        serde_json::from_str(input).map_err(|_| wrong("input", "JSON in Unicode", "a lone surrogate"))?;
    schema.check(&input, "input").map_err(misfit)
}

#[cfg(not(unix))]
async fn run(_: &Artifacts, _: Manifest, _: Lease, _: &str) -> Result<Payload, WireError> {
    Err(WireError::new("artifacts are run on Unix systems only"))
}
