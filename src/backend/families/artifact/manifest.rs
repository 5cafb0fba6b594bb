//! The manifest of an artifact. Input: the text of its `artifact.json`. Output: its members, or which one is wrong.
//!
//! `{id: [a-z0-9-]{1,64}, name, version, description?, command: string[], input?: a subset of JSON Schema, timeoutMs? = 30000}`;
//! other members are kept and ignored.

use std::time::Duration;

use crate::backend::shared::validate::{Fields, wrong};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::config::ArtifactLimits;
use super::plan::{PlannedFile, normalize};
use super::schema::{Misfit, Schema};

/// Where programs without a path are looked up, and the `PATH` of every program.
pub(super) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

const MAX_ID_BYTES: usize = 64;
const MAX_NAME_BYTES: usize = 256;
const MAX_VERSION_BYTES: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 1 << 10;
const MAX_WORDS: usize = 64;
const MAX_WORD_BYTES: usize = 4 << 10;
const DEFAULT_TIMEOUT_MS: i64 = 30_000;
/// The manifest's name in errors.
const PATH: &str = "manifest";

/// A decoded manifest.
#[derive(Debug)]
pub(super) struct Manifest {
    pub id: String,
    pub name: String,
    pub version: String,
    pub description: Option<String>,
    pub program: Program,
    pub arguments: Vec<String>,
    /// The schema of the input; without one any input is valid.
    pub input: Option<Schema>,
    pub timeout: Duration,
    /// The manifest's own text.
    pub json: String,
}

/// The program that is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// An absolute path on this system.
    Absolute(String),
    /// A name that is looked up in [`SEARCH_PATH`].
    Named(String),
    /// A file of the artifact, by its path below the artifact's folder.
    Own(String),
}

impl Manifest {
    /// Decodes a manifest.
    ///
    /// # Errors
    /// Names the first member that is wrong.
    pub(super) fn decode(bytes: &[u8], limits: &ArtifactLimits) -> Result<Manifest, WireError> {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong(PATH, "JSON", "text that is not UTF-8"))?;
        // Only JSON's white space.
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        let payload = Payload::from_json(text);
        let payload = payload.map_err(|error| wrong(PATH, "JSON", &error.to_string()))?;
        debug_assert!(payload.as_str().is_some(), "decoded JSON has a text");
        let fields = Fields::within(payload.as_str().unwrap_or_default(), PATH)?;
        let id = fields.required_text("id", 1..=MAX_ID_BYTES)?;
        if !id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return Err(fields.wrong("id", "string of a-z, 0-9 and -", "another character"));
        }
        let max_ms = i64::try_from(limits.max_timeout.as_millis()).unwrap_or(i64::MAX).max(1);
        let timeout_ms = fields.integer("timeoutMs", 1..=max_ms)?.unwrap_or(DEFAULT_TIMEOUT_MS.min(max_ms));
        let (program, arguments) = command(&fields, limits)?;
        Ok(Manifest {
            id,
            name: fields.required_text("name", 1..=MAX_NAME_BYTES)?,
            version: fields.required_text("version", 1..=MAX_VERSION_BYTES)?,
            description: fields.text("description", 0..=MAX_DESCRIPTION_BYTES)?,
            program,
            arguments,
            input: input(&fields)?,
            timeout: Duration::from_millis(timeout_ms.unsigned_abs()),
            json: text.to_owned(),
        })
    }

    /// Checks that a program of the artifact is among its files, and executable.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn check_own_program(&self, files: &[PlannedFile]) -> Result<(), WireError> {
        let Program::Own(path) = &self.program else { return Ok(()) };
        let got = match files.iter().find(|file| file.path == *path) {
            Some(file) if file.executable => return Ok(()),
            Some(_) => "a file that is not executable (chmod +x)",
            None => "a file that does not exist",
        };
        Err(wrong("manifest.command[0]", "a program among the artifact's files", got))
    }
}

fn command(fields: &Fields<'_>, limits: &ArtifactLimits) -> Result<(Program, Vec<String>), WireError> {
    let words = fields.texts("command", 1..=MAX_WORDS, 0..=MAX_WORD_BYTES)?;
    let words = words.ok_or_else(|| fields.missing("command", "array of strings"))?;
    if let Some(at) = words.iter().position(|word| word.contains('\0')) {
        return Err(fields.wrong(&format!("command[{at}]"), "string without a zero byte", "one"));
    }
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    let program = match &*first {
        "" | "." | ".." => None,
        _ if first.starts_with('/') => Some(Program::Absolute(first.clone())),
        _ if first.contains('/') => normalize(&first, limits).ok().map(Program::Own),
        _ => Some(Program::Named(first.clone())),
    };
    let expected = "an absolute path, a name, or a path below the artifact's folder";
    let program = program.ok_or_else(|| fields.wrong("command[0]", expected, &first))?;
    Ok((program, words.collect()))
}

fn input(fields: &Fields<'_>) -> Result<Option<Schema>, WireError> {
    if !fields.has("input") {
        return Ok(None);
    }
    let path = format!("{PATH}.input");
    let schema = serde_json::from_str(fields.required_json("input")?);
    let schema = schema.map_err(|_| wrong(&path, "object in Unicode", "a lone surrogate"))?;
    Schema::decode(&schema, &path).map(Some).map_err(misfit)
}

/// Converts a schema's error for the client.
pub(super) fn misfit(misfit: Misfit) -> WireError {
    wrong(&misfit.path, &misfit.expected, &misfit.got)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(change: Value) -> Result<Manifest, WireError> {
        let mut manifest = json!({"id": "a", "name": "A", "version": "1", "command": ["run"]});
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(manifest.as_object_mut().unwrap().remove(name)),
                value => manifest[name] = value.clone(),
            }
        }
        Manifest::decode(manifest.to_string().as_bytes(), &ArtifactLimits::default())
    }

    #[test]
    fn an_error_names_the_member_that_is_wrong() {
        for (change, path) in [
            (json!({}), None),
            (
                json!({"id": "a-0".repeat(21) + "x", "timeoutMs": 600_000, "author": 5, "description": ""}),
                None,
            ),
            (json!({"id": null}), Some("id")),
            (json!({"id": ""}), Some("id")),
            (json!({"id": "x".repeat(65)}), Some("id")),
            (json!({"id": "A"}), Some("id")),
            (json!({"id": "../a"}), Some("id")),
            (json!({"id": 5}), Some("id")),
            (json!({"name": null}), Some("name")),
            (json!({"name": "x".repeat(257)}), Some("name")),
            (json!({"version": null}), Some("version")),
            (json!({"version": 1}), Some("version")),
            (json!({"description": []}), Some("description")),
            (json!({"command": null}), Some("command")),
            (json!({"command": "run"}), Some("command")),
            (json!({"command": []}), Some("command")),
            (json!({"command": vec!["x"; 65]}), Some("command")),
            (json!({"command": ["run", 5]}), Some("command[1]")),
            (json!({"command": ["run", "a\0b"]}), Some("command[1]")),
            (json!({"command": [""]}), Some("command[0]")),
            (json!({"command": [".."]}), Some("command[0]")),
            (json!({"command": ["../run"]}), Some("command[0]")),
            (json!({"command": ["bin/../../run"]}), Some("command[0]")),
            (json!({"input": []}), Some("input")),
            (json!({"input": {"properties": {"a": {"pattern": "x"}}}}), Some("input.properties.a.pattern")),
            (json!({"timeoutMs": 0}), Some("timeoutMs")),
            (json!({"timeoutMs": 600_001}), Some("timeoutMs")),
            (json!({"timeoutMs": "1"}), Some("timeoutMs")),
        ] {
            let path = path.map(|path| format!("manifest.{path}"));
            let error = decode(change.clone()).err().map(|error| error.details.parse().unwrap());
            let seen = error.as_ref().map(|details| details["path"].as_str().unwrap().to_owned());
            assert_eq!(seen, path, "{change}: {error:?}");
        }
        for text in ["", "{", "[]", "null", "{}x", "\u{feff}{}", "\u{c}{}"] {
            let error = Manifest::decode(text.as_bytes(), &ArtifactLimits::default()).unwrap_err();
            assert!(error.message.starts_with("manifest"), "{text:?}: {}", error.message);
        }
        assert!(Manifest::decode(b"\xff", &ArtifactLimits::default()).is_err());
    }

    #[test]
    fn the_first_word_of_the_command_is_a_path_or_a_name() {
        for (word, expected) in [
            ("/bin/sh", Program::Absolute("/bin/sh".to_owned())),
            ("python3", Program::Named("python3".to_owned())),
            ("./run.sh", Program::Own("run.sh".to_owned())),
            ("bin/run", Program::Own("bin/run".to_owned())),
        ] {
            assert_eq!(decode(json!({"command": [word]})).unwrap().program, expected);
        }
        let own = decode(json!({"command": ["./run"]})).unwrap();
        let file = |executable| PlannedFile { path: "run".to_owned(), size: 1, executable };
        assert!(own.check_own_program(&[file(true)]).is_ok());
        assert!(own.check_own_program(&[file(false)]).is_err());
        assert!(own.check_own_program(&[]).is_err());
    }
}
