//! Opening a backend.

use super::config::BackendConfig;
use super::shared::db::{Db, OpenError};
use super::state::Backend;
use super::table::migrations;

impl Backend {
    /// Opens the database, or creates it.
    ///
    /// ```
    /// use switchboard::backend::{Backend, BackendConfig};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let backend = Backend::open(BackendConfig::new(folder))?;
    /// assert!(Backend::open(BackendConfig::new(folder)).is_err()); // it is in use
    /// # drop(backend);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the database is in use, damaged, of a newer version, or not a Switchboard database. It is left unchanged.
    pub fn open(config: BackendConfig) -> Result<Backend, OpenError> {
        let config = config.bounded();
        let db = Db::open(&config.data_dir, &migrations(), config.db.clone())?;
        Ok(Backend::new(db, config))
    }
}
