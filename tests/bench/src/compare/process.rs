//! A server as a process on its own cores, and its cost as accounted by the kernel.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Failure;

pub struct Process {
    child: Child,
    pub port: u16,
}

impl Process {
    /// Starts `command PORT WORKERS` on these cores, and waits until it prints its port. With a folder, the server also has
    /// chats.
    pub fn start(
        command: &[String],
        cores: &str,
        workers: usize,
        chats: Option<&Path>,
    ) -> Result<Process, Failure> {
        let mut child = Command::new("taskset")
            .envs(chats.map(|folder| ("CHATS", folder)))
            .args(["-c", cores])
            .args(command)
            .args(["0", &workers.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().strip_prefix("listening on ").and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ = child.kill();
            return Err(format!("{command:?} printed {line:?}").into());
        };
        Ok(Process { child, port })
    }

    /// The CPU time of its threads, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64, Failure> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
