//! How a provider is reached. In: the settings, the credentials, and the keys of the configuration. Out: a base URL, and the
//! key with the origins that it was given for.

use std::collections::BTreeMap;

use crate::backend::shared::db::Db;
use crate::backend::shared::origin::Origin;
use crate::backend::shared::provider::{Access, Host, Key, KeySource};
use crate::backend::shared::token::Token;
use crate::protocol::error::WireError;

use super::super::settings;
use super::store::{key_path, stored_key};

/// Returns how a family reaches a provider: the base URL in the settings, and the credential, else the key in `api_keys`. Such
/// a key is for the provider's own origin and for `key_origins`.
///
/// # Errors
/// When the database cannot be read, or the key file is missing or is not the one with which the credential was encrypted.
pub(crate) async fn access(
    db: &Db,
    family: &str,
    provider: &'static str,
    api_keys: &BTreeMap<String, Token>,
    key_origins: &[Origin],
) -> Result<Access, WireError> {
    let (setting, path) = (format!("{family}.{provider}.baseUrl"), key_path(db));
    // One snapshot, so that both are of the same moment.
    let read = db.read(move |view| {
        let base_url = settings::text_in(view.connection, &setting)?;
        Ok((base_url, stored_key(view.connection, &path, provider)?))
    });
    let (base_url, stored) = read.await?;
    let stored =
        stored.map(|sealed| Key { token: sealed.token, origins: sealed.origins, source: KeySource::Stored });
    let key = stored.or_else(|| {
        let own = settings::base_urls::<()>(provider, |_| Ok(None)).unwrap_or_default();
        let own = own.iter().filter_map(|url| url.parse().ok());
        let origins = own.chain(key_origins.iter().cloned()).collect();
        let token = api_keys.get(provider)?.clone();
        Some(Key { token, origins, source: KeySource::Configured })
    });
    let host = if base_url.is_default { Host::Own } else { Host::Compatible };
    Ok(Access { provider, base_url: base_url.text, host, key })
}
