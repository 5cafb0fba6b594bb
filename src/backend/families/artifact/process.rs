//! Runs a program. Input: the program, its input and a deadline. Output: what it wrote and how it ended. No process of it
//! is left afterwards.
//!
//! The program leads its own process group. The group is killed when the program ends, when its deadline passes, when it
//! writes too much, and when the request is dropped. A thread waits for each program and reaps it. It kills the group
//! before it reaps, because the system cannot reuse the process id until then.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::manifest::SEARCH_PATH;
use super::resources::Starter;

const CHUNK_BYTES: usize = 64 << 10;
/// Reads or writes of a pipe before the other pipes get a turn.
const TURNS: usize = 8;
/// Most bytes in a pipe: Linux allows unprivileged processes to set this size; the default is 64 KiB.
const MAX_PIPE_BYTES: usize = 1 << 20;
/// How long a killed group can take to end before the request is answered anyway. The thread keeps waiting for it.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How often a busy program file is tried, and the pause between. A program that is started while a file is written
/// inherits the open file for a moment.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What to run, and within which limits.
pub(super) struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// The working directory.
    pub folder: PathBuf,
    /// Its `HOME` and `TMPDIR`.
    pub scratch: PathBuf,
    /// Longest output, in bytes.
    pub max_output_bytes: usize,
    /// How much of the end of stderr is kept, in bytes.
    pub max_stderr_bytes: usize,
    /// Starts it within the limits of the system.
    pub starter: Starter,
    /// Dropped once the program was reaped.
    pub _held_until_reaped: Box<dyn Send + Sync>,
}

impl Launch {
    fn failure_to_start(&self, completed: &Completed) -> Option<io::Error> {
        let Exit::Code(code) = completed.exit else { return None };
        self.starter.failure(code, &completed.stderr)
    }
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Completed {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal killed it, which we did not send.
    Signal(i32),
    /// We killed it because it wrote too much.
    TooMuchOutput,
    /// We killed it at its deadline.
    Deadline,
}

/// Runs a program to its end. Dropping the future kills the whole group.
///
/// # Errors
/// When the program cannot be started.
pub(super) async fn run(launch: Launch, input: &str, deadline: Instant) -> io::Result<Completed> {
    let launch = Arc::new(launch);
    let mut tries = 1;
    loop {
        let failure = match run_once(launch.clone(), input, deadline).await {
            Ok(completed) => match launch.failure_to_start(&completed) {
                None => return Ok(completed),
                Some(failure) => failure,
            },
            Err(error) => error,
        };
        if failure.kind() != io::ErrorKind::ExecutableFileBusy || tries == BUSY_TRIES {
            return Err(failure);
        }
        tries += 1;
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}

async fn run_once(launch: Arc<Launch>, input: &str, deadline: Instant) -> io::Result<Completed> {
    let started = spawn_blocking(move || start(launch)).await;
    let mut program = started.map_err(|_| io::Error::other("the server is stopping"))??;
    let exit = match timeout_at(deadline, program.exchange(input.as_bytes())).await {
        Ok(exit) => exit?,
        Err(_) => Exit::Deadline,
    };
    if !matches!(exit, Exit::Code(_) | Exit::Signal(_)) {
        program.group.kill();
        // If possible, the request is answered only after the program has ended.
        let _ = timeout(KILL_WAIT, &mut program.reaped).await;
    }
    // A process that left the group can keep the pipes open, but what the program itself wrote is in them.
    let fits = program.stdout.drain().is_ok();
    let exit = if fits || exit == Exit::Deadline { exit } else { Exit::TooMuchOutput };
    let _ = program.stderr.drain();
    Ok(Completed { exit, stdout: program.stdout.take_kept(), stderr: program.stderr.take_kept() })
}

/// A program that was started.
struct RunningProgram {
    group: Arc<Group>,
    reaped: oneshot::Receiver<io::Result<ExitStatus>>,
    stdin: Option<pipe::Sender>,
    /// Bytes of the input that were written.
    written: usize,
    stdout: Capture,
    stderr: Capture,
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        self.group.kill();
    }
}

/// The process group of a program.
struct Group {
    /// The id of the program, and of the group it leads.
    pid: Pid,
    /// Whether the program was reaped. Then the id can belong to another process.
    is_reaped: Mutex<bool>,
}

impl Group {
    fn kill(&self) {
        let is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_reaped {
            // It fails if the group has no more processes.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Waits until the program ends, kills the rest of its group, then reaps it.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid), ended), Err(Errno::INTR)) {}
        let mut is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = kill_process_group(self.pid, Signal::KILL);
        *is_reaped = true;
        child.wait()
    }
}

fn start(launch: Arc<Launch>) -> io::Result<RunningProgram> {
    let mut command = launch.starter.command(&launch.program, &launch.arguments);
    command
        .current_dir(&launch.folder)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", &launch.scratch)
        .env("TMPDIR", &launch.scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn()?;
    let group = Arc::new(Group { pid: Pid::from_child(&child), is_reaped: Mutex::new(false) });
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (notify_reaped, reaped) = oneshot::channel();
    let (waiting, held) = (group.clone(), launch.clone());
    // Before anything below can fail, so that the program is always reaped.
    spawn_blocking(move || {
        let status = waiting.wait(child);
        drop(held);
        // It fails if the request was dropped.
        let _ = notify_reaped.send(status);
    });
    let mut program = RunningProgram {
        group,
        reaped,
        stdin: None,
        written: 0,
        stdout: Capture::new(Keep::All(launch.max_output_bytes)),
        stderr: Capture::new(Keep::Tail(launch.max_stderr_bytes)),
    };
    program.stdin = stdin.map(|end| pipe::Sender::from_owned_fd(OwnedFd::from(end))).transpose()?;
    program.stdout.pipe = stdout.map(|end| pipe::Receiver::from_owned_fd(OwnedFd::from(end))).transpose()?;
    program.stderr.pipe = stderr.map(|end| pipe::Receiver::from_owned_fd(OwnedFd::from(end))).transpose()?;
    Ok(program)
}

impl RunningProgram {
    /// Writes the input and reads the output until the program has ended or written too much.
    async fn exchange(&mut self, input: &[u8]) -> io::Result<Exit> {
        std::future::poll_fn(|cx| {
            // First, because a process that left the group can keep writing.
            if let Poll::Ready(status) = Pin::new(&mut self.reaped).poll(cx) {
                let status = status.map_err(|_| io::Error::other("the server is stopping")).flatten();
                return Poll::Ready(status.map(exit_of));
            }
            self.poll_write_input(cx, input);
            if self.stdout.poll_read(cx).is_err() {
                return Poll::Ready(Ok(Exit::TooMuchOutput));
            }
            // Only its tail is kept, so it is never too much.
            let _ = self.stderr.poll_read(cx);
            Poll::Pending
        })
        .await
    }

    /// Writes the input, then closes stdin. A program can close stdin before it has read everything.
    fn poll_write_input(&mut self, cx: &mut Context<'_>, input: &[u8]) {
        for _ in 0..TURNS {
            let Some(stdin) = &mut self.stdin else { return };
            debug_assert!(self.written <= input.len(), "a pipe takes no more than it is given");
            let rest = input.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                self.stdin = None;
                return;
            }
            match Pin::new(stdin).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(_)) => self.stdin = None,
                Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

/// The output that a program writes to one pipe.
struct Capture {
    pipe: Option<pipe::Receiver>,
    keep: Keep,
    bytes: Vec<u8>,
    chunk: Vec<u8>,
}

/// How much of an output is kept.
#[derive(Clone, Copy)]
enum Keep {
    /// Everything, up to this many bytes. More is [`TooMuch`].
    All(usize),
    /// The last bytes, this many.
    Tail(usize),
}

struct TooMuch;

impl Capture {
    fn new(keep: Keep) -> Capture {
        Capture { pipe: None, keep, bytes: Vec::new(), chunk: vec![0; CHUNK_BYTES] }
    }

    /// Reads the bytes that are available.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<(), TooMuch> {
        for _ in 0..TURNS {
            let Some(pipe) = &mut self.pipe else { return Ok(()) };
            let mut buffer = ReadBuf::new(&mut self.chunk);
            let count = match Pin::new(pipe).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => buffer.filled().len(),
                Poll::Ready(Err(_)) => 0,
                Poll::Pending => return Ok(()),
            };
            if count == 0 {
                self.pipe = None;
            }
            self.keep_chunk(count)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads the rest of the pipe without waiting. It stops after as many bytes as a pipe can hold, which includes
    /// everything that was in it when the program ended, even if another process keeps writing.
    fn drain(&mut self) -> Result<(), TooMuch> {
        let mut left = MAX_PIPE_BYTES;
        while let Some(pipe) = &self.pipe
            && left > 0
        {
            match rustix::io::read(pipe, &mut *self.chunk) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.keep_chunk(count)?;
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Moves the kept bytes out.
    fn take_kept(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if let Keep::Tail(max) = self.keep {
            bytes.drain(..bytes.len().saturating_sub(max));
        }
        bytes
    }

    /// Keeps the first `count` bytes of the chunk.
    fn keep_chunk(&mut self, count: usize) -> Result<(), TooMuch> {
        debug_assert!(count <= self.chunk.len(), "a read fits into the chunk");
        self.bytes.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
        match self.keep {
            Keep::All(max) if self.bytes.len() > max => return Err(TooMuch),
            // Only once the kept bytes are twice the limit, so that they are rarely moved.
            Keep::Tail(max) if self.bytes.len() / 2 > max => drop(self.bytes.drain(..self.bytes.len() - max)),
            Keep::All(_) | Keep::Tail(_) => {}
        }
        Ok(())
    }
}
