//! Runs the program of an artifact and turns its end into a response. Input: the manifest, the leased folder and the
//! program's input. Output: the JSON that the program wrote, or an error with its exit code and the end of its stderr.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::backend::shared::encode::Object;
use crate::backend::shared::files::private_folder;
use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;
use crate::server::Party;

use super::config::ArtifactLimits;
use super::folders::{Artifacts, Lease};
use super::manifest::Manifest;
use super::process::{self, Completed, Exit, Launch};
use super::program::locate;
use super::resources::Starter;

/// So that the end of a duration can always be calculated.
const MAX_DURATION: Duration = Duration::from_secs(u32::MAX as u64);

/// Runs the program of a manifest in its folder.
///
/// # Errors
/// When it cannot be started, does not write JSON, fails, or exceeds a limit.
pub(super) async fn run(
    artifacts: &Artifacts,
    manifest: Manifest,
    folder: Lease,
    input: &str,
    party: Party,
) -> Result<Payload, WireError> {
    let limits = &artifacts.config().limits;
    let limit = manifest.timeout.min(limits.max_timeout);
    let deadline = Instant::now() + limit.min(MAX_DURATION);
    let Ok(place) = timeout_at(deadline, artifacts.run_place(party)).await else {
        let message =
            format!("{} other programs were running for {} ms", limits.max_running, limit.as_millis());
        return Err(WireError::with_code(ErrorCode::Timeout, message));
    };
    let program = locate(&manifest.program, &folder.path());
    let program = program
        .ok_or_else(|| WireError::new(format!("{}: its program does not exist any more", manifest.id)))?;
    let scratch = artifacts.lease(&format!(".run.{}", Uuid::v4()));
    scratch.doom();
    private_folder().create(scratch.path())?;
    let launch = Launch {
        program,
        arguments: manifest.arguments,
        folder: folder.path(),
        scratch: scratch.path(),
        max_output_bytes: limits.max_output_bytes,
        max_stderr_bytes: limits.max_stderr_bytes,
        starter: Starter::new(limits),
        _held_until_reaped: Box::new((folder, scratch, place)),
    };
    let completed = process::run(launch, input, deadline).await;
    let completed =
        completed.map_err(|error| WireError::new(format!("{}: cannot be run: {error}", manifest.id)))?;
    result(&manifest.id, completed, limit, limits)
}

/// Converts the end of a program to the response.
fn result(
    id: &str,
    completed: Completed,
    limit: Duration,
    limits: &ArtifactLimits,
) -> Result<Payload, WireError> {
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
