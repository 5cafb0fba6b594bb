//! A provider's server that plays a script, faults included.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

/// One step of a script, after the request was read.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Sends byte by byte, each in its own packet where the system allows it.
    Trickle(Vec<u8>),
    /// Waits until the other side closes.
    Hold,
    /// Waits for the test.
    Await(Arc<Notify>),
}

/// A server that knows of HTTP only where a request ends. It plays one script per connection, in order.
pub struct Upstream {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
    /// One message per connection that the other side closed during [`Step::Hold`].
    pub closed: mpsc::UnboundedReceiver<()>,
}

impl Upstream {
    pub async fn start(scripts: Vec<Vec<Step>>) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (tell, closed) = mpsc::unbounded_channel();
        let seen = requests.clone();
        tokio::spawn(async move {
            let mut scripts: VecDeque<_> = scripts.into();
            while let Ok((stream, _)) = listener.accept().await {
                let script = scripts
                    .pop_front()
                    .unwrap_or_else(|| vec![Step::Send(status("418 Out of scripts", "", ""))]);
                tokio::spawn(play(stream, script, seen.clone(), tell.clone()));
            }
        });
        Upstream { url, requests, closed }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: Vec<Step>,
    seen: Arc<Mutex<Vec<String>>>,
    closed: mpsc::UnboundedSender<()>,
) {
    let Some(request) = read_request(&mut stream).await else { return };
    seen.lock().unwrap().push(request);
    for step in script {
        // The other side can have closed.
        match step {
            Step::Send(bytes) => drop(stream.write_all(&bytes).await),
            Step::Trickle(bytes) => {
                for byte in bytes {
                    let _ = stream.write_all(&[byte]).await;
                    tokio::task::yield_now().await;
                }
            }
            Step::Hold => {
                while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
                let _ = closed.send(());
            }
            Step::Await(word) => word.notified().await,
        }
    }
    let _ = stream.shutdown().await;
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&buffer[..count]);
    }
}

pub fn status(line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}
