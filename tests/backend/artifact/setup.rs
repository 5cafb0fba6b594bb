//! A server that installs from a folder of sources, and artifacts to install.

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::Config;
use switchboard::backend::BackendConfig;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::host::Host;

/// A host that installs from a folder and runs what it has installed, and a client.
pub(super) struct Shop {
    pub(super) host: Host,
    pub(super) client: Client,
}

impl Shop {
    pub(super) async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig, &mut Config)) -> Shop {
        let sources = folder.path().join("sources");
        fs::create_dir_all(&sources).unwrap();
        let host = Host::open(folder, |backend, config| {
            backend.artifact.sources = vec![sources];
            backend.artifact.allow = true;
            adjust(backend, config);
        })
        .await;
        let client = Client::connect(host.port).await;
        Shop { host, client }
    }

    pub(super) async fn new() -> Shop {
        Shop::open(tempfile::tempdir().unwrap(), |_, _| {}).await
    }

    pub(super) async fn close(self) -> TempDir {
        self.host.close().await
    }

    pub(super) fn sources(&self) -> PathBuf {
        self.host.folder.path().join("sources")
    }

    /// The contents of the folder of installed artifacts.
    pub(super) fn installed(&self) -> Vec<String> {
        names_in(&self.host.folder.path().join("data/artifacts"))
    }

    /// The folder of the only installed version of an artifact.
    pub(super) fn folder_of(&self, id: &str) -> PathBuf {
        let names = self.installed();
        let mut own = names.iter().filter(|name| name.starts_with(&format!("{id}.")));
        let folder = own.next().unwrap_or_else(|| panic!("{id} in {names:?}"));
        assert_eq!(own.next(), None, "{names:?}");
        self.host.folder.path().join("data/artifacts").join(folder)
    }

    /// Writes and installs an artifact that is a shell script.
    pub(super) async fn script(&mut self, id: &str, more: Value, script: &str) {
        write_script(&self.sources(), id, more, script);
        self.client.call("artifact:install", json!({"source": id})).await;
        self.pass_install(id).await;
    }

    /// Takes the events of an installation.
    pub(super) async fn pass_install(&mut self, id: &str) -> Value {
        loop {
            let progress = self.client.event("artifact:progress").await;
            assert_eq!(progress["id"], id);
            if progress["progress"] == json!(1) {
                break;
            }
        }
        let (_, payload) = self.client.any_event().await;
        payload
    }

    pub(super) async fn invoke(&mut self, id: &str, input: Value) -> Value {
        self.client.call("artifact:invoke", json!({"id": id, "input": input})).await
    }

    pub(super) async fn refuse_invoke(&mut self, id: &str, input: Value) -> Value {
        self.client.refuse("artifact:invoke", json!({"id": id, "input": input})).await
    }
}

pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A manifest, with some members changed.
pub(super) fn manifest(id: &str, more: Value) -> Value {
    let mut manifest = json!({"id": id, "name": id, "version": "1.0.0", "command": ["./run"]});
    for (name, value) in more.as_object().unwrap() {
        manifest[name] = value.clone();
    }
    manifest
}

pub(super) fn write_file(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(super) fn write_script(sources: &Path, id: &str, more: Value, script: &str) {
    let folder = sources.join(id);
    write_file(&folder.join("artifact.json"), manifest(id, more).to_string(), 0o644);
    write_file(&folder.join("run"), format!("#!/bin/sh\n{script}\n"), 0o755);
}

pub(super) fn command(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

pub(super) async fn answer_to(client: &mut Client, id: &str) -> Value {
    loop {
        let message = client.next().await.unwrap();
        if message["type"] == "response" && message["id"] == id {
            return message;
        }
    }
}
