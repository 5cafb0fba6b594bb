//! Clients that ask for large pages over HTTP and do not read them.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::{MIB, Target, shown};
use crate::program::resident_mib;
use crate::wire::{Failure, LOCALHOST};

const READERS: usize = 32;
const PAGE_BYTES: usize = 24 * MIB;

/// Makes an image whose file has 24 MiB. Returns its path on the server.
pub async fn large_page(target: &Target) -> Result<String, Failure> {
    let mut socket = target.connect(LOCALHOST).await?;
    socket.call("imagegen:create-entry", &json!({"prompt": "large", "provider": "pattern"})).await?;
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let gallery = socket.call("imagegen:list-images", &json!({})).await?;
        if let Some(url) = gallery["images"][0]["url"].as_str() {
            for file in fs::read_dir(target.folder.join("images"))? {
                fs::write(file?.path(), vec![b' '; PAGE_BYTES])?;
            }
            return Ok(url.to_owned());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("the image was not made".into())
}

fn page_request(target: &Target, path: &str) -> String {
    let token =
        target.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n")
}

/// 32 clients that do not read their page. Others ask for a page meanwhile.
pub async fn pages(target: &Target, path: &str, length: Duration) -> Result<String, Failure> {
    let start = Instant::now();
    let mut held = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4()?;
        socket.bind((target.from, 0).into())?;
        socket.set_recv_buffer_size(4096)?;
        let mut stream = socket.connect((LOCALHOST, target.port).into()).await?;
        stream.write_all(page_request(target, path).as_bytes()).await?;
        held.push(stream);
    }
    sleep(Duration::from_secs(1)).await;
    let mut report = Vec::new();
    for asked in [path, "/client.js"] {
        let asking = Instant::now();
        let page = timeout(Duration::from_secs(20), get(target, asked)).await;
        let name = if asked == path { "24 MiB" } else { "/client.js" };
        report.push(match page {
            Ok(Ok((status, bytes))) => {
                format!("{name}: {status}, {bytes} bytes in {}", shown(asking.elapsed()))
            }
            Ok(Err(error)) => format!("{name}: {error} after {}", shown(asking.elapsed())),
            Err(_) => format!("{name}: nothing in 20 s"),
        });
    }
    let mib = resident_mib(target.process)?;
    tokio::time::sleep_until(start + length).await;
    Ok(format!("{READERS} unread pages of 24 MiB, {mib:.0} MiB; another client: {}", report.join("; ")))
}

async fn get(target: &Target, path: &str) -> Result<(String, usize), Failure> {
    let mut stream: TcpStream = target.dial(LOCALHOST).await?;
    stream.write_all(page_request(target, path).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned();
    Ok((status, answer.len()))
}
