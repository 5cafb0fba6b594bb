//! TLS for `wss://`, by rustls, with the certificates that the system trusts, and further ones.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

/// The authorities whose certificates are accepted.
pub(crate) struct Trust {
    further: Vec<CertificateDer<'static>>,
    /// Made at the first connection, because reading the system's certificates takes time.
    config: OnceLock<Arc<ClientConfig>>,
}

/// Those of the system.
static SYSTEM: Trust = Trust { further: Vec::new(), config: OnceLock::new() };

impl Trust {
    /// Those of the system, and further ones in PEM.
    ///
    /// # Errors
    /// `InvalidInput` when the text contains no certificate, or one that is not of an authority.
    pub(crate) fn with(pem: &str) -> io::Result<Trust> {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let further = read
            .ok()
            .filter(|read| !read.is_empty())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "expected certificates in PEM"))?;
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(further.iter().cloned());
        if usable < further.len() {
            let what = "not every certificate is one of an authority";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Trust { further, config: OnceLock::new() })
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let all = found.certs.into_iter().chain(self.further.iter().cloned());
        let (usable, _) = roots.add_parsable_certificates(all);
        if usable == 0 {
            let cause = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
            return Err(io::Error::other(format!("the system has no certificates to trust{cause}")));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.config.get_or_init(|| Arc::new(config)).clone())
    }
}

/// Performs the TLS handshake with a server, whose certificate must be valid for `host`, and issued by an authority of the
/// system, or of `trust`.
///
/// # Errors
/// When it is not, or the system's certificates cannot be read.
pub(crate) async fn wrap(
    host: &str,
    stream: TcpStream,
    trust: Option<&Trust>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let connector = TlsConnector::from(trust.unwrap_or(&SYSTEM).config()?);
    let wrapped = connector.connect(name, stream).await;
    wrapped.map_err(|error| io::Error::new(error.kind(), format!("TLS with {host}: {}", describe(&error))))
}

/// The texts of rustls for the two most common mistakes are names of its types.
fn describe(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "no trusted authority has issued the server's certificate".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            "the server's certificate is one of an authority: it must not have CA:TRUE".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::OtherError;

    use super::*;

    #[test]
    fn the_two_most_common_mistakes_have_plain_texts() {
        let describe = |certificate| {
            let error = rustls::Error::InvalidCertificate(certificate);
            describe(&io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let issuer = "no trusted authority has issued the server's certificate";
        assert_eq!(describe(CertificateError::UnknownIssuer), issuer);
        let of_webpki = OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        assert!(describe(CertificateError::Other(of_webpki)).contains("CA:TRUE"));
        assert!(describe(CertificateError::Revoked).contains("Revoked"));
    }
}
