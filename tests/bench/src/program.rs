//! The program under test as a process, and what it holds: memory, descriptors, threads, data.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::wire::Failure;

/// A new folder for a database. Dropping this value removes it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Folder, Failure> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("switchboard-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program under test. Dropping this value kills it.
pub struct Program {
    child: Child,
    /// Kept open, so that the program can print.
    _stdout: BufReader<ChildStdout>,
    folder: Option<Folder>,
    pub port: u16,
}

/// A command that no setting of this process reaches.
fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    for name in ["WS_PORT", "WS_HOST", "SWITCHBOARD_TOKEN", "SWITCHBOARD_DATA_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Whether the program has this option of `serve`.
pub fn has_option(path: &str, option: &str) -> bool {
    let help = command(path).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(&format!(" {option} ")))
}

impl Program {
    /// Starts it with more options of `serve`.
    pub fn start(path: &str, folder: Folder, options: &[&str]) -> Result<Program, Failure> {
        let mut command = command(path);
        // An empty home folder, so that no transcripts are indexed.
        command.env("HOME", folder.path()).args(["serve", "--port", "0", "--data-dir"]).arg(folder.path());
        command.args(options).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{path}: {error}"))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let mut program = Program { port: 0, child, _stdout: stdout, folder: Some(folder) };
        let port =
            line.trim().strip_prefix("[WS] Server listening on ws://localhost:").ok_or(line.clone())?;
        program.port = port.parse()?;
        Ok(program)
    }

    /// Ends it with SIGKILL: every answered write is on disk. Returns the folder with its data.
    pub fn stop(mut self) -> Result<Folder, Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.folder.take().ok_or("no folder")?)
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn holds(&self) -> Result<Holds, Failure> {
        let folder = self.folder.as_ref().ok_or("no folder")?;
        holds(self.process(), folder.path())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
pub struct Holds {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub threads: u64,
    pub data_kib: u64,
}

fn holds(process: u32, folder: &Path) -> Result<Holds, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(Holds {
        resident_kib: number(&status, "VmRSS:")?,
        descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count(),
        threads: number(&status, "Threads:")?,
        data_kib: bytes_in(folder)? / 1024,
    })
}

/// Returns the resident memory of a process in MiB.
pub fn resident_mib(process: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(number(&status, "VmRSS:")? as f64 / 1024.0)
}

fn number(status: &str, name: &str) -> Result<u64, String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).ok_or(name.to_owned())
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
