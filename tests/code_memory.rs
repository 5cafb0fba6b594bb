//! The memory that indexing a large transcript costs. The test has its own program, because it measures the process.
#![cfg(target_os = "linux")]

mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::time::Duration;

use serde_json::json;
use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, Server};

use support::client::Client;

const MIB: usize = 1 << 20;
const FILE_BYTES: usize = 50 * MIB;
/// The most that it may take: a batch and its transaction, whatever the size of the file.
const MEMORY_BYTES: usize = 24 * MIB;

/// The most memory that this process has had.
fn peak_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel counts it");
    let kib: usize =
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB");
    kib << 10
}

#[tokio::test]
async fn a_transcript_of_50_mb_is_indexed_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("projects/p");
    fs::create_dir_all(&project).unwrap();
    // Output of tools, images, and one very long line.
    let mut file = BufWriter::new(File::create(project.join("s.jsonl")).unwrap());
    let (image, output) = ("A".repeat(40_000), "some words ".repeat(500));
    let mut written = 0;
    let mut entries = 0;
    while written < FILE_BYTES - 16 * MIB {
        let content = json!([{"type": "text", "text": output}, {"type": "image", "source": {"data": image}}]);
        let line = json!({"type": "user", "uuid": format!("e{entries}"), "message": {"content": content}});
        let line = format!("{line}\n");
        file.write_all(line.as_bytes()).unwrap();
        written += line.len();
        entries += 1;
    }
    for _ in 0..16 {
        file.write_all(&vec![b'x'; MIB]).unwrap();
    }
    file.into_inner().unwrap();

    let mut config = BackendConfig::new(folder.path().join("data"));
    config.code.code_dir = Some(folder.path().join("projects"));
    config.code.limits.scan_wait = Duration::from_millis(1);
    config.code.limits.scan_interval = Duration::ZERO;
    let backend = Backend::open(config).unwrap();
    let mut config = Config::default().port(0);
    config.limits.rate_max_requests = u32::MAX;
    let server = Server::new(config);
    register_all(&server, &backend);
    let mut client = Client::connect(server.start().await.unwrap()).await;
    client.call("system:ping", json!({})).await;

    let before = peak_bytes();
    loop {
        let session = client.call("code:get-session", json!({"id": "s"})).await;
        if session["messageCount"] == entries && backend.code().stats().bytes_read >= FILE_BYTES as u64 {
            break;
        }
    }
    let taken = peak_bytes() - before;
    println!("{taken} bytes for a file of {FILE_BYTES}");
    assert!(taken <= MEMORY_BYTES, "{taken} bytes");
    server.stop().await;
    backend.close().await;
}
