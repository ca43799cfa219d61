//! A certificate authority of one test: a CA and a leaf for `127.0.0.1` and `localhost`.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A fresh CA with one server certificate, valid for `127.0.0.1` and `localhost`.
pub struct TestAuthority {
    /// The CA certificate, to be trusted by whoever connects.
    pub ca_pem: String,
    /// The configuration of a server that shows the leaf. ALPN offers `http/1.1` alone.
    pub server: Arc<ServerConfig>,
}

impl TestAuthority {
    /// Makes the CA and the leaf.
    pub fn new() -> Self {
        let ca_key = KeyPair::generate().expect("a key for the CA");
        let mut ca = CertificateParams::new(Vec::<String>::new()).expect("parameters of the CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(DnType::CommonName, "FakeHub test authority");
        let ca_pem = ca.self_signed(&ca_key).expect("a CA certificate").pem();

        let key = KeyPair::generate().expect("a key for the server");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = CertificateParams::new(names)
            .expect("parameters of the leaf")
            .signed_by(&key, &Issuer::new(ca, &ca_key))
            .expect("a server certificate");
        Self {
            ca_pem,
            server: server_config(leaf.der().clone(), &key),
        }
    }
}

fn server_config(leaf: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default TLS versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .expect("a usable certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
