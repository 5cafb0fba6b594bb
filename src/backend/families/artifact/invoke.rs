//! Handles `artifact:invoke`. Input: an id and the program's input. Output: the JSON that the program wrote, or an error.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::super::analytics::Recorder;
use super::config::ArtifactLimits;
use super::manifest::{Manifest, Program, SEARCH_PATH, misfit};
use super::records::{self, Installed};
use super::store::{Artifacts, Lease};

/// Runs the artifact that a payload names.
pub(super) async fn invoke(
    artifacts: &Artifacts,
    payload: &Payload,
    recorder: &Recorder,
) -> Result<Payload, WireError> {
    let fields = Fields::decode(payload)?;
    let id = fields.required_id("id")?;
    let input = if fields.has("input") { fields.required_json("input")? } else { "null" };
    let (installed, lease) = find(artifacts, &id).await?;
    if !artifacts.config().allow {
        return Err(WireError::new(
            "running artifacts is not allowed: the server was started without --allow-artifacts",
        ));
    }
    if !installed.enabled {
        return Err(WireError::new(format!("{id} is disabled: enable it with artifact:enable")));
    }
    // The manifest was checked when it was installed, perhaps with a higher limit. `run` applies the current one.
    let wide = ArtifactLimits { max_timeout: std::time::Duration::MAX, ..artifacts.config().limits.clone() };
    let manifest = Manifest::decode(installed.manifest.as_bytes(), &wide)?;
    check_input(&manifest, input)?;
    let mut invocation = Invocation { recorder, id: &id, started: Instant::now(), failed: true };
    let result = run(artifacts, manifest, lease, input).await;
    invocation.failed = result.is_err();
    result
}

/// Records an invocation for the statistics when it ends. One that is dropped because its client left counts as failed.
struct Invocation<'a> {
    recorder: &'a Recorder,
    id: &'a str,
    started: Instant,
    failed: bool,
}

impl Drop for Invocation<'_> {
    fn drop(&mut self) {
        self.recorder.artifact_call(self.id, self.started.elapsed(), self.failed);
    }
}

/// Returns an artifact and a lease of its folder. Reads the row again once the folder is leased, because an update can
/// have replaced the folder in between.
async fn find(artifacts: &Artifacts, id: &str) -> Result<(Installed, Lease), WireError> {
    let mut installed = look_up(artifacts, id).await?;
    loop {
        let lease = artifacts.lease(&installed.folder);
        let again = look_up(artifacts, id).await?;
        if again.folder == installed.folder {
            return Ok((again, lease));
        }
        installed = again;
    }
}

async fn look_up(artifacts: &Artifacts, id: &str) -> Result<Installed, WireError> {
    let id = id.to_owned();
    artifacts.db().read(move |view| records::installed(view, &id)).await
}

fn check_input(manifest: &Manifest, input: &str) -> Result<(), WireError> {
    let Some(schema) = &manifest.input else { return Ok(()) };
    let input =
        serde_json::from_str(input).map_err(|_| wrong("input", "JSON in Unicode", "a lone surrogate"))?;
    schema.check(&input, "input").map_err(misfit)
}

/// Checks that a program exists on this system. One of the artifact's own files is not checked here.
///
/// # Errors
/// When it does not exist or is not executable.
pub(super) fn check_system_program(program: &Program) -> Result<(), WireError> {
    match (program, locate(program, Path::new("/"))) {
        (Program::Own(_), _) | (_, Some(_)) => Ok(()),
        (Program::Absolute(name) | Program::Named(name), None) => {
            let expected = format!("an existing program, by its path or its name in {SEARCH_PATH}");
            Err(wrong("manifest.command[0]", &expected, name))
        }
    }
}

/// Returns the file of a program; `None` if it does not exist or is not executable.
fn locate(program: &Program, folder: &Path) -> Option<PathBuf> {
    let found = |path: PathBuf| is_program(&path).then_some(path);
    match program {
        Program::Absolute(path) => found(PathBuf::from(path)),
        Program::Own(path) => found(folder.join(path)),
        Program::Named(name) => SEARCH_PATH.split(':').find_map(|folder| found(Path::new(folder).join(name))),
    }
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

#[cfg(not(unix))]
async fn run(_: &Artifacts, _: Manifest, _: Lease, _: &str) -> Result<Payload, WireError> {
    Err(WireError::new("artifacts are run on Unix systems only"))
}

#[cfg(unix)]
async fn run(
    artifacts: &Artifacts,
    manifest: Manifest,
    folder: Lease,
    input: &str,
) -> Result<Payload, WireError> {
    use super::process::{self, Launch};
    use crate::protocol::error::ErrorCode;
    use crate::protocol::uuid::Uuid;
    use tokio::time::{Instant, timeout_at};

    let limits = &artifacts.config().limits;
    let limit = manifest.timeout.min(limits.max_timeout);
    let deadline = Instant::now() + limit;
    let Ok(permit) = timeout_at(deadline, artifacts.running().acquire_owned()).await else {
        let message =
            format!("{} other programs were running for {} ms", limits.max_running, limit.as_millis());
        return Err(WireError::with_code(ErrorCode::Timeout, message));
    };
    let permit = permit.map_err(|_| WireError::new("the server is stopping"))?;
    let program = locate(&manifest.program, &folder.path());
    let program = program
        .ok_or_else(|| WireError::new(format!("{}: its program does not exist any more", manifest.id)))?;
    let scratch = artifacts.lease(&format!(".run.{}", Uuid::v4()));
    scratch.doom();
    super::copy::create_private(&scratch.path())?;
    let launch = Launch {
        program,
        arguments: manifest.arguments,
        folder: folder.path(),
        scratch: scratch.path(),
        max_output_bytes: limits.max_output_bytes,
        max_stderr_bytes: limits.max_stderr_bytes,
        held_until_reaped: Box::new((folder, scratch, permit)),
    };
    let completed = process::run(launch, input, deadline).await;
    let completed =
        completed.map_err(|error| WireError::new(format!("{}: cannot be run: {error}", manifest.id)))?;
    result(&manifest.id, completed, limit, limits)
}

/// Converts the end of a program to the response.
#[cfg(unix)]
fn result(
    id: &str,
    completed: super::process::Completed,
    limit: std::time::Duration,
    limits: &ArtifactLimits,
) -> Result<Payload, WireError> {
    use super::process::Exit;
    use crate::backend::shared::encode::Object;
    use crate::protocol::error::ErrorCode;

    let stderr = String::from_utf8_lossy(&completed.stderr).into_owned();
    let failed = |code: ErrorCode, message: String, exit_code: Option<i32>, signal: Option<i32>| {
        let number =
            |number: Option<i32>| number.map_or_else(|| "null".to_owned(), |number| number.to_string());
        let details = Object::new()
            .raw("exitCode", &number(exit_code))
            .raw("signal", &number(signal))
            .text("stderr", &stderr)
            .finish();
        Err(WireError::with_code(code, format!("{id}: {message}")).details(Payload::trusted(details)))
    };
    match completed.exit {
        Exit::Code(0) => {
            let text = String::from_utf8(completed.stdout).map_err(|_| "its output is not UTF-8".to_owned());
            let json = text.and_then(|text| {
                let text = text.trim_matches([' ', '\t', '\r', '\n']).to_owned();
                Payload::from_json(text).map_err(|error| format!("its output is not JSON: {error}"))
            });
            json.or_else(|message| failed(ErrorCode::HandlerError, message, Some(0), None))
        }
        Exit::Code(code) => {
            failed(ErrorCode::HandlerError, format!("it ended with exit code {code}"), Some(code), None)
        }
        Exit::Signal(signal) => {
            failed(ErrorCode::HandlerError, format!("it was killed by signal {signal}"), None, Some(signal))
        }
        Exit::TooMuchOutput => {
            let message =
                format!("it was killed: its output has more than {} bytes", limits.max_output_bytes);
            failed(ErrorCode::HandlerError, message, None, None)
        }
        Exit::Deadline => {
            let message = format!("it was killed: it ran longer than {} ms", limit.as_millis());
            failed(ErrorCode::Timeout, message, None, None)
        }
    }
}
