//! A server with its backend, in a folder of its own.

use std::time::Duration;

use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::{Config, Server};
use tempfile::TempDir;

pub struct House {
    pub server: Server,
    pub backend: Backend,
    pub port: u16,
    pub folder: TempDir,
}

impl House {
    /// Opens the data of an earlier house, or lays them down, with a configuration that is adjusted first.
    pub async fn open(folder: TempDir, adjust: impl FnOnce(&mut BackendConfig, &mut Config)) -> House {
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
        House { server, backend, port, folder }
    }

    /// A new house with the usual configuration.
    pub async fn new() -> House {
        House::open(tempfile::tempdir().unwrap(), |_, _| {}).await
    }

    /// Stops the server, closes the database, and leaves the folder to the next.
    pub async fn close(self) -> TempDir {
        self.server.stop().await;
        self.backend.close().await;
        self.folder
    }
}
