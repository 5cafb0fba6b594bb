//! The program under test as a process, and what it holds: memory, descriptors, threads, data.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::shared::Failure;

/// The program under test. Dropping this value ends it.
pub struct Program {
    child: Child,
    /// Kept open, so that the program can print.
    _stdout: BufReader<ChildStdout>,
    folder: PathBuf,
    pub port: u16,
}

impl Program {
    pub fn start(path: &str) -> Result<Program, Failure> {
        let folder = std::env::temp_dir().join(format!("switchboard-soak-{}", std::process::id()));
        let mut command = Command::new(path);
        for name in ["WS_PORT", "WS_HOST", "SWITCHBOARD_TOKEN", "SWITCHBOARD_DATA_DIR"] {
            command.env_remove(name);
        }
        // An empty home folder, so that no transcripts are indexed.
        command.env("HOME", &folder).args(["serve", "--port", "0", "--data-dir"]).arg(&folder);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{path}: {error}"))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let port =
            line.trim().strip_prefix("[WS] Server listening on ws://localhost:").ok_or(line.clone())?;
        Ok(Program { port: port.parse()?, child, _stdout: stdout, folder })
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    pub fn holds(&self) -> Result<Holds, Failure> {
        let status = fs::read_to_string(self.proc("status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).ok_or(name.to_owned())
        };
        Ok(Holds {
            resident_kib: number("VmRSS:")?,
            descriptors: fs::read_dir(self.proc("fd"))?.count(),
            threads: number("Threads:")?,
            data_kib: bytes_in(&self.folder)? / 1024,
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[derive(Clone, Copy)]
pub struct Holds {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub threads: u64,
    pub data_kib: u64,
}

fn bytes_in(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file can disappear after it was listed.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
