//! A server that follows a folder of transcripts, and lines of transcripts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::BackendConfig;
use switchboard::backend::code::CodeStats;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::host::Host;

/// A host that follows a folder of transcripts, and a client.
pub(super) struct Reader {
    pub(super) host: Host,
    pub(super) client: Client,
}

impl Reader {
    pub(super) async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig)) -> Reader {
        let code_dir = projects(folder.path());
        let host = Host::open(folder, |backend, config| {
            backend.db.max_page_bytes = 100_000;
            backend.code.code_dir = Some(code_dir);
            // Each request waits for a scan, however long it takes.
            backend.code.limits.scan_interval = Duration::ZERO;
            backend.code.limits.scan_wait = Duration::from_secs(60);
            config.limits.handler_timeout = Duration::from_secs(60);
            adjust(backend);
        })
        .await;
        let client = Client::connect(host.port).await;
        Reader { host, client }
    }

    pub(super) async fn new(folder: TempDir) -> Reader {
        Reader::open(folder, |_| {}).await
    }

    pub(super) async fn close(self) -> TempDir {
        self.host.close().await
    }

    pub(super) async fn call(&mut self, channel: &str, payload: Value) -> Value {
        self.client.call(channel, payload).await
    }

    pub(super) async fn session(&mut self, id: &str) -> Value {
        self.call("code:get-session", json!({"id": id})).await
    }

    /// The ids of a page.
    pub(super) async fn page(&mut self, query: Value) -> Vec<String> {
        let page = self.call("code:get-transcript", query).await;
        pluck(&page["entries"], "id")
    }

    pub(super) fn stats(&self) -> CodeStats {
        self.host.backend.code().stats()
    }
}

pub(super) fn projects(folder: &Path) -> PathBuf {
    folder.join("home/projects")
}

pub(super) fn pluck(list: &Value, member: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.as_array().unwrap().iter().map(|object| text(&object[member])).collect()
}

/// A folder for transcripts.
pub(super) struct Agent {
    pub(super) folder: TempDir,
}

impl Agent {
    pub(super) fn new() -> Agent {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(projects(folder.path())).unwrap();
        Agent { folder }
    }

    pub(super) fn write(&self, path: &str, lines: &[String]) -> &Agent {
        write_lines(self.folder.path(), path, lines);
        self
    }

    pub(super) fn backup(&self, session: &str, name: &str, content: &str) -> &Agent {
        let folder = self.folder.path().join("home/file-history").join(session);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
        self
    }
}

pub(super) fn write_lines(folder: &Path, path: &str, lines: &[String]) {
    let path = projects(folder).join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

pub(super) fn append(folder: &Path, path: &str, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(projects(folder).join(path)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A time on the first of March, the given seconds after noon.
pub(super) fn at(seconds: u64) -> String {
    format!("2026-03-01T12:{:02}:{:02}.000Z", seconds / 60, seconds % 60)
}

pub(super) const NOON: i64 = 1_772_366_400_000;

pub(super) fn user(id: &str, parent: Option<&str>, seconds: u64, text: &str) -> String {
    json!({"type": "user", "uuid": id, "parentUuid": parent, "timestamp": at(seconds), "cwd": "/home/me/work",
        "sessionId": "elsewhere", "isSidechain": false, "message": {"role": "user", "content": text}})
    .to_string()
}

pub(super) fn assistant(id: &str, parent: Option<&str>, seconds: u64, text: &str) -> String {
    json!({"type": "assistant", "uuid": id, "parentUuid": parent, "timestamp": at(seconds), "cwd": "/home/me/work",
        "message": {"role": "assistant", "model": "model-1", "content": [{"type": "text", "text": text}],
            "usage": {"input_tokens": 7, "output_tokens": 8, "cache_read_input_tokens": 9}}})
    .to_string()
}

pub(super) fn snapshot(message: &str, files: Value, update: bool) -> String {
    json!({"type": "file-history-snapshot", "messageId": message, "isSnapshotUpdate": update,
        "snapshot": {"messageId": message, "timestamp": at(0), "trackedFileBackups": files}})
    .to_string()
}

pub(super) fn backup(name: Option<&str>) -> Value {
    json!({"backupFileName": name, "version": 1, "backupTime": at(0)})
}
