//! Running a program. In: the program, its input, and until when. Out: what it wrote and how it ended; and nothing of it
//! is left, whatever ended it.
//!
//! The program leads a process group of its own. When it has ended, when its time is over, when it writes too much, and
//! when nobody waits for it any more, the whole group is killed. A thread waits for each program and takes it off the
//! system's hands, whatever becomes of the request. It kills the group first: as long as the program has not been taken
//! away its number belongs to nobody else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
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

const CHUNK_BYTES: usize = 64 << 10;
/// How often a pipe is read or written before others have their turn.
const TURNS: usize = 8;
/// What a pipe may hold at most, as Linux allows it to anybody; by default it is 64 KiB.
const MAX_PIPE_BYTES: usize = 1 << 20;
/// How long a group that was killed may take to be gone, before the request is answered all the same. The thread that waits
/// for it goes on.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How often a program that somebody still writes to is tried again, and after which pause. A file that was just written is
/// so for a moment, if another program was started meanwhile.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What to run.
pub(super) struct Order {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// What it has as `HOME` and `TMPDIR`.
    pub scratch: PathBuf,
    /// Longest output, in bytes.
    pub max_output_bytes: usize,
    /// How much of the end of stderr is kept, in bytes.
    pub max_stderr_bytes: usize,
    /// Dropped when the program is gone.
    pub until_gone: Box<dyn Send>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// What ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Itself.
    Exit(i32),
    /// A signal, which was not ours.
    Signal(i32),
    /// It wrote more than it may.
    TooMuchOutput,
    /// Its time was over.
    Deadline,
}

/// Runs a program to its end. Dropped before, it kills the whole group.
///
/// # Errors
/// When the program cannot be started.
pub(super) async fn run(order: Order, input: &str, deadline: Instant) -> io::Result<Ended> {
    let started = spawn_blocking(move || start(order)).await;
    let mut running = started.map_err(|_| io::Error::other("the server stops"))??;
    let end = match timeout_at(deadline, running.talk(input.as_bytes())).await {
        Ok(end) => end?,
        Err(_) => End::Deadline,
    };
    if !matches!(end, End::Exit(_) | End::Signal(_)) {
        running.group.kill();
        // An answer tells of what is over, if it can.
        let _ = timeout(KILL_WAIT, &mut running.gone).await;
    }
    // Whoever has left the group may hold its end of the pipes as long as it likes; what the program itself wrote is there.
    let fits = running.stdout.drain().is_ok();
    let end = if fits || end == End::Deadline { end } else { End::TooMuchOutput };
    let _ = running.stderr.drain();
    Ok(Ended { end, stdout: running.stdout.kept(), stderr: running.stderr.kept() })
}

/// A program that was started.
struct Running {
    group: Arc<Group>,
    gone: oneshot::Receiver<io::Result<ExitStatus>>,
    stdin: Option<pipe::Sender>,
    fed: usize,
    stdout: Capture,
    stderr: Capture,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.kill();
    }
}

/// The processes that a program is made of.
struct Group {
    /// That of the program, and of the group it leads.
    pid: Pid,
    /// Whether the number is still theirs.
    is_there: Mutex<bool>,
}

impl Group {
    fn kill(&self) {
        let is_there = self.is_there.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_there {
            // There may be nobody left in it.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Waits until the program has ended, kills what it leaves behind, and takes it off the system's hands.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid), ended), Err(Errno::INTR)) {}
        let mut is_there = self.is_there.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = kill_process_group(self.pid, Signal::KILL);
        *is_there = false;
        child.wait()
    }
}

fn start(order: Order) -> io::Result<Running> {
    let mut command = Command::new(&order.program);
    command
        .args(&order.arguments)
        .current_dir(&order.folder)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", &order.scratch)
        .env("TMPDIR", &order.scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = spawn(&mut command)?;
    let group = Arc::new(Group { pid: Pid::from_child(&child), is_there: Mutex::new(true) });
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (tell_gone, gone) = oneshot::channel();
    let waiting = group.clone();
    // From here on somebody waits for it, whatever fails below.
    spawn_blocking(move || {
        let status = waiting.wait(child);
        drop(order.until_gone);
        // The request may have been given up.
        let _ = tell_gone.send(status);
    });
    let mut running = Running {
        group,
        gone,
        stdin: None,
        fed: 0,
        stdout: Capture::new(Keep::All(order.max_output_bytes)),
        stderr: Capture::new(Keep::End(order.max_stderr_bytes)),
    };
    running.stdin = stdin.map(|end| pipe::Sender::from_owned_fd(OwnedFd::from(end))).transpose()?;
    running.stdout.from = stdout.map(|end| pipe::Receiver::from_owned_fd(OwnedFd::from(end))).transpose()?;
    running.stderr.from = stderr.map(|end| pipe::Receiver::from_owned_fd(OwnedFd::from(end))).transpose()?;
    Ok(running)
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 1;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            spawned => return spawned,
        }
    }
}

impl Running {
    /// Gives the input and takes the output, until the program has ended or written too much.
    async fn talk(&mut self, input: &[u8]) -> io::Result<End> {
        std::future::poll_fn(|cx| {
            // Its end comes first: somebody may write without end who has left the group.
            if let Poll::Ready(status) = Pin::new(&mut self.gone).poll(cx) {
                let status = status.map_err(|_| io::Error::other("the server stops")).flatten();
                return Poll::Ready(status.map(end_of));
            }
            self.poll_feed(cx, input);
            if self.stdout.poll_read(cx).is_err() {
                return Poll::Ready(Ok(End::TooMuchOutput));
            }
            // The end of stderr never is too much.
            let _ = self.stderr.poll_read(cx);
            Poll::Pending
        })
        .await
    }

    /// Writes the input, and then closes stdin. A program that does not read it to its end need not.
    fn poll_feed(&mut self, cx: &mut Context<'_>, input: &[u8]) {
        for _ in 0..TURNS {
            let Some(stdin) = &mut self.stdin else { return };
            let rest = input.get(self.fed..).unwrap_or_default();
            if rest.is_empty() {
                self.stdin = None;
                return;
            }
            match Pin::new(stdin).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) => self.fed += count,
                Poll::Ready(Err(_)) => self.stdin = None,
                Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// What a program writes into one of its pipes.
struct Capture {
    from: Option<pipe::Receiver>,
    keep: Keep,
    bytes: Vec<u8>,
    chunk: Vec<u8>,
}

/// How much is kept.
#[derive(Clone, Copy)]
enum Keep {
    /// All; more than so many bytes is too much.
    All(usize),
    /// The last so many bytes.
    End(usize),
}

struct TooMuch;

impl Capture {
    fn new(keep: Keep) -> Capture {
        Capture { from: None, keep, bytes: Vec::new(), chunk: vec![0; CHUNK_BYTES] }
    }

    /// Takes what is there.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<(), TooMuch> {
        for _ in 0..TURNS {
            let Some(from) = &mut self.from else { return Ok(()) };
            let mut buffer = ReadBuf::new(&mut self.chunk);
            let count = match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => buffer.filled().len(),
                Poll::Ready(Err(_)) => 0,
                Poll::Pending => return Ok(()),
            };
            if count == 0 {
                self.from = None;
            }
            self.take(count)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Takes what is left in the pipe, without waiting for more, and no more than a pipe holds: that is what was in it when
    /// the program ended, whoever goes on writing.
    fn drain(&mut self) -> Result<(), TooMuch> {
        let mut left = MAX_PIPE_BYTES;
        while let Some(from) = &self.from
            && left > 0
        {
            match rustix::io::read(from, &mut *self.chunk) {
                Ok(0) => self.from = None,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.take(count)?;
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// What was kept, for good.
    fn kept(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if let Keep::End(max) = self.keep {
            bytes.drain(..bytes.len().saturating_sub(max));
        }
        bytes
    }

    fn take(&mut self, count: usize) -> Result<(), TooMuch> {
        self.bytes.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
        match self.keep {
            Keep::All(max) if self.bytes.len() > max => return Err(TooMuch),
            // Not each time, but when there is twice as much.
            Keep::End(max) if self.bytes.len() / 2 > max => drop(self.bytes.drain(..self.bytes.len() - max)),
            Keep::All(_) | Keep::End(_) => {}
        }
        Ok(())
    }
}
