//! A certificate authority of one test: a CA and a leaf for `127.0.0.1`, `localhost` and one more name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A fresh CA with one server certificate.
pub struct TestAuthority {
    /// The CA certificate, to be trusted by whoever connects.
    pub ca_pem: String,
    /// The configuration of a server that shows the leaf. ALPN offers `http/1.1` alone.
    pub server: Arc<ServerConfig>,
}

impl TestAuthority {
    /// Makes the CA and a leaf for `127.0.0.1` and `localhost`.
    pub fn new() -> Self {
        Self::of("localhost")
    }

    /// Makes the CA and a leaf that is good for `host` as well.
    pub fn of(host: &str) -> Self {
        let ca_key = KeyPair::generate().expect("a key for the CA");
        let mut ca = CertificateParams::new(Vec::<String>::new()).expect("parameters of the CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(DnType::CommonName, "FakeHub test authority");
        let ca_pem = ca.self_signed(&ca_key).expect("a CA certificate").pem();

        let key = KeyPair::generate().expect("a key for the server");
        let mut names = vec![
            "127.0.0.1".to_owned(),
            "localhost".to_owned(),
            host.to_owned(),
        ];
        names.dedup();
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

/// Who a server says it is: what its clients trust, or for a time a stranger of the same name.
pub struct Identity {
    own: TestAuthority,
    stranger: TestAuthority,
    is_posing: AtomicBool,
}

impl Identity {
    /// A server of that name.
    pub fn of(host: &str) -> Self {
        Self {
            own: TestAuthority::of(host),
            stranger: TestAuthority::of(host),
            is_posing: AtomicBool::new(false),
        }
    }

    /// The CA certificate to trust.
    pub fn ca_pem(&self) -> &str {
        &self.own.ca_pem
    }

    /// Whether a stranger's certificate is shown.
    pub fn is_posing(&self) -> bool {
        self.is_posing.load(Ordering::Relaxed)
    }

    /// Shows a stranger's certificate from now on, or the right one again.
    pub fn pose_as_a_stranger(&self, posing: bool) {
        self.is_posing.store(posing, Ordering::Relaxed);
    }

    /// The configuration of a server that shows what is to be shown now.
    pub fn shown(&self) -> Arc<ServerConfig> {
        let shown = if self.is_posing() {
            &self.stranger
        } else {
            &self.own
        };
        Arc::clone(&shown.server)
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
