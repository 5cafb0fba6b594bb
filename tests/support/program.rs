//! The `switchboard` command as a process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

pub struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub port: u16,
}

/// The command that starts the server, without settings from this process's environment.
pub fn command(data_dir: &Path) -> Command {
    let mut command = without_settings(Command::new(env!("CARGO_BIN_EXE_switchboard")));
    command.args(["serve", "--port", "0", "--rate-limit", "1000000", "--data-dir"]).arg(data_dir);
    command
}

/// A command without settings from this process's environment.
pub fn without_settings(mut command: Command) -> Command {
    for name in ["WS_PORT", "WS_HOST", "SWITCHBOARD_TOKEN", "SWITCHBOARD_DATA_DIR", "SWITCHBOARD_KEY_ORIGINS"]
    {
        command.env_remove(name);
    }
    command
}

impl Program {
    pub fn start(data_dir: &Path) -> Program {
        Program::spawn(command(data_dir))
    }

    /// Starts a command, and reads the port from its first line.
    pub fn spawn(mut command: Command) -> Program {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let port = line.strip_prefix("[WS] Server listening on ws://localhost:").expect(&line);
        let port = port.trim().parse().unwrap();
        Program { child, stdout, port }
    }

    /// Its stderr, if the command pipes it.
    pub fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal, and returns the exit code and the rest of stdout.
    pub fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (status.code(), rest)
    }
}

impl Drop for Program {
    /// A failing test leaves no process running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server that must refuse to run, and returns its stderr.
pub fn refused(data_dir: &Path) -> String {
    let output = command(data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}
