//! The start, the same for all: `PORT [THREADS]`, and `listening on PORT` when clients can connect.

use std::io::{self, Write};
use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// The command line.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub port: u16,
    pub threads: usize,
}

impl Options {
    fn from_args() -> Result<Options, String> {
        let mut args = std::env::args().skip(1);
        let port = args.next().ok_or("usage: PORT [THREADS]")?;
        let port = port.parse().map_err(|_| format!("PORT: expected 0..=65535, got {port:?}"))?;
        let threads = args.next().unwrap_or_else(|| "1".to_owned());
        let count = threads.parse().ok().filter(|count| (1..=1024).contains(count));
        let threads = count.ok_or(format!("THREADS: expected 1..=1024, got {threads:?}"))?;
        Ok(Options { port, threads })
    }
}

/// Runs a server until it is killed. For one thread it uses tokio's current-thread runtime: with one worker of the other one, the
/// servers used the same CPU time or up to a third more.
pub fn start<F: Future<Output = io::Result<()>>>(serve: impl FnOnce(Options) -> F) -> io::Result<()> {
    let options = Options::from_args().map_err(|wrong| io::Error::new(io::ErrorKind::InvalidInput, wrong))?;
    let mut builder = match options.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(options.threads).enable_all().build()?.block_on(serve(options))
}

/// Listens on the loopback interface, and prints the port.
pub async fn listen(options: Options) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
    announce(listener.local_addr()?.port())?;
    Ok(listener)
}

/// Prints that clients can connect.
pub fn announce(port: u16) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on {port}")?;
    stdout.flush()
}
