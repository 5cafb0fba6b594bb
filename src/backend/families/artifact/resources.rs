//! The limits of the system for a program. Input: a program and the configured limits. Output: the command that starts it
//! with these limits, and why the program could not be started.
//!
//! `/bin/sh` sets the limits and then becomes the program, so that it never runs without them. Where there is no `/bin/sh`,
//! or a system does not know a limit, the program runs without it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::protocol::uuid::Uuid;

use super::config::ArtifactLimits;

const SHELL: &str = "/bin/sh";
/// A limit that cannot be raised stays as it is. Some shells call the number of processes `-u`, others `-p`. If memory runs
/// out, Linux ends the program rather than the server.
const SCRIPT: &str = r#"
{
    ulimit -c 0; ulimit -t "$1"; ulimit -d "$2"; ulimit -f "$3"; ulimit -n "$4"; ulimit -u "$5" || ulimit -p "$5"
    echo 1000 > /proc/self/oom_score_adj
} 2> /dev/null
shift 5
unset PWD OLDPWD SHLVL
exec "$@"
"#;
/// The exit codes of a shell that could not become the program.
const NOT_STARTED: [i32; 2] = [126, 127];

/// The command that becomes a program.
#[derive(Debug)]
pub(super) struct Starter {
    /// What the shell's own messages begin with. No program knows it, so none can imitate them.
    name: Option<String>,
    limits: [String; 5],
}

impl Starter {
    pub(super) fn new(limits: &ArtifactLimits) -> Starter {
        // The limit counts all processes and threads of the user. Those that run already do not count for the program.
        let processes = running_tasks().map_or(u64::MAX, |tasks| tasks.saturating_add(limits.max_processes));
        Starter {
            name: Path::new(SHELL).exists().then(|| Uuid::v4().to_string()),
            limits: [
                in_units(limits.max_cpu_time.as_secs().max(1), 1),
                in_units(limits.max_memory_bytes, 1 << 10),
                in_units(limits.max_written_file_bytes, 512),
                in_units(limits.max_open_files, 1),
                in_units(processes, 1),
            ],
        }
    }

    pub(super) fn command(&self, program: &Path, arguments: &[String]) -> Command {
        let Some(name) = &self.name else {
            let mut command = Command::new(program);
            command.args(arguments);
            return command;
        };
        let mut command = Command::new(SHELL);
        command.args(["-c", SCRIPT, name]).args(&self.limits).arg(program).args(arguments);
        command
    }

    /// Returns why the shell could not become the program; `None` if the program ran.
    pub(super) fn failure(&self, exit_code: i32, stderr: &[u8]) -> Option<io::Error> {
        let stderr = String::from_utf8_lossy(stderr);
        let said = stderr.strip_prefix(self.name.as_deref()?)?;
        if !NOT_STARTED.contains(&exit_code) {
            return None;
        }
        let is_busy = said.to_ascii_lowercase().contains("text file busy");
        let kind = if is_busy { io::ErrorKind::ExecutableFileBusy } else { io::ErrorKind::Other };
        let reason = said.trim().rsplit(": ").next().unwrap_or_default();
        Some(io::Error::new(kind, reason.to_owned()))
    }
}

/// A number for `ulimit`. Larger ones than this are no limit on any system.
fn in_units(value: u64, unit: u64) -> String {
    match value.div_ceil(unit) {
        units if units < u64::from(u32::MAX) => units.to_string(),
        _ => "unlimited".to_owned(),
    }
}

/// Returns how many processes and threads there are, on Linux: `0.20 0.18 0.12 1/80 11206`.
fn running_tasks() -> Option<u64> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_whole_units_or_none() {
        for (value, unit, expected) in [
            (0, 512, "0"),
            (1, 512, "1"),
            (513, 512, "2"),
            (u64::from(u32::MAX) - 1, 1, "4294967294"),
            (u64::from(u32::MAX), 1, "unlimited"),
            (u64::MAX, 1 << 10, "unlimited"),
        ] {
            assert_eq!(in_units(value, unit), expected, "{value}");
        }
    }

    #[test]
    fn only_the_shells_own_words_are_a_failure_to_start() {
        let starter = Starter { name: Some("n1".to_owned()), limits: Default::default() };
        let failure = |code, stderr: &str| {
            starter.failure(code, stderr.as_bytes()).map(|error| (error.kind(), error.to_string()))
        };
        let busy = Some((io::ErrorKind::ExecutableFileBusy, "Text file busy".to_owned()));
        let missing = Some((io::ErrorKind::Other, "not found".to_owned()));
        assert_eq!(failure(126, "n1: 9: exec: /a/run: Text file busy\n"), busy, "dash");
        assert_eq!(failure(126, "n1: line 9: /a/run: Text file busy\n"), busy, "bash");
        assert_eq!(failure(127, "n1: 9: exec: /a/run: not found\n"), missing);
        assert_eq!(failure(126, "sh: 9: exec: /a/run: Text file busy\n"), None);
        assert_eq!(failure(1, "n1: 9: exec: /a/run: Text file busy\n"), None);
        assert_eq!(failure(126, ""), None);
    }
}
