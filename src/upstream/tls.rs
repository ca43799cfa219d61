//! The TLS configuration that every connection of an upstream shares.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::BuildError;

/// Trusts the system's authorities and `ca`; where the system has none, Mozilla's.
///
/// The application protocol is left to whoever connects.
pub(super) fn client_config(ca: &[Vec<u8>]) -> Result<ClientConfig, BuildError> {
    let mut roots = system_roots();
    for pem in ca {
        add_authorities(&mut roots, pem)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Tls {
            reason: error.to_string(),
        })?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a system certificate could not be read");
    }
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "system certificates were left out");
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn add_authorities(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), BuildError> {
    let unusable = |reason: String| BuildError::Certificate { reason };
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(unusable("it holds no PEM certificate".into()));
    }
    Ok(())
}
