//! A server with its backend, in its own folder.

use std::time::Duration;

use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, Server};
use tempfile::TempDir;

pub struct Host {
    pub server: Server,
    pub backend: Backend,
    pub port: u16,
    pub folder: TempDir,
}

impl Host {
    /// Opens the data of an earlier host, or creates them, after adjusting the configuration.
    pub async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig, &mut Config)) -> Host {
        let mut backend = BackendConfig::new(folder.path().join("data"));
        let mut config = Config::default().port(0);
        config.limits.rate_max_requests = u32::MAX;
        // The clients of a test no longer read when it ends.
        config.limits.close_timeout = Duration::from_millis(10);
        adjust(&mut backend, &mut config);
        let backend = Backend::open(backend).unwrap();
        let server = Server::new(config);
        register_all(&server, &backend);
        let port = server.start().await.unwrap();
        Host { server, backend, port, folder }
    }

    /// A new host with the usual configuration.
    pub async fn new() -> Host {
        Host::open(tempfile::tempdir().unwrap(), |_, _| {}).await
    }

    /// Stops the server, closes the database, and returns the folder for the next host.
    pub async fn close(self) -> TempDir {
        self.server.stop().await;
        self.backend.close().await;
        self.folder
    }
}
