//! Outages: everything at once goes wrong in one way, until it is over.

use std::str::FromStr;
use std::sync::atomic::Ordering;

use super::super::tls::Identity;
use super::FakeHub;
use super::faults::Fault;
use super::record::Origin;

/// One way in which a whole hub fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Every request is answered 429, without `Retry-After`.
    RateLimited,
    /// Every request is answered 500.
    ServerError,
    /// Connections are accepted and nothing is ever answered, neither on those that are open nor on new ones; what
    /// hangs goes on hanging after the end.
    BlackHole,
    /// Connections are refused, and those that are open end.
    Refused,
    /// Every open connection ends, once; new ones are served. For whoever takes the hub's name away at the same time.
    Disconnected,
    /// Every open connection ends, and new ones are shown a certificate of an authority that nobody trusts.
    UnknownCertificate,
    /// The token endpoint refuses connections, and no token of before is good any more.
    TokenRefused,
    /// No repository has any tag or manifest: 404.
    Deleted,
}

impl Outage {
    /// Every outage.
    pub const ALL: [Self; 8] = [
        Self::RateLimited,
        Self::ServerError,
        Self::BlackHole,
        Self::Refused,
        Self::Disconnected,
        Self::UnknownCertificate,
        Self::TokenRefused,
        Self::Deleted,
    ];

    /// Its name at the control port.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::BlackHole => "black_hole",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::UnknownCertificate => "unknown_certificate",
            Self::TokenRefused => "token_refused",
            Self::Deleted => "deleted",
        }
    }
}

/// There is no outage of that name.
#[derive(Debug)]
pub struct UnknownOutage;

impl FromStr for Outage {
    type Err = UnknownOutage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|it| it.name() == text).ok_or(UnknownOutage)
    }
}

/// The origins that the hub's own clients talk to.
const OWN: [Origin; 3] = [Origin::Registry, Origin::Token, Origin::Cdn];

impl FakeHub {
    /// Fails in that way until [`Self::end_outage`].
    pub async fn begin_outage(&self, outage: Outage) {
        match outage {
            Outage::RateLimited => self.answer_everything(&Fault::status(429)),
            Outage::ServerError => self.answer_everything(&Fault::status(500)),
            Outage::BlackHole => {
                self.shared.deaf.store(true, Ordering::Relaxed);
                self.answer_everything(&Fault::BlackHole);
            }
            Outage::Refused => self.stop().await,
            Outage::Disconnected => {
                self.stop().await;
                self.restart().await;
            }
            Outage::UnknownCertificate => self.pose_as_a_stranger(true).await,
            Outage::TokenRefused => {
                self.stop_origin(Origin::Token).await;
                self.revoke_tokens();
            }
            Outage::Deleted => {
                self.on(Origin::Registry)
                    .manifests()
                    .fault(Fault::status(404));
            }
        }
    }

    /// Serves as before, and ends every rule with it.
    pub async fn end_outage(&self) {
        self.clear_faults();
        self.shared.deaf.store(false, Ordering::Relaxed);
        if self.identity.as_ref().is_some_and(Identity::is_posing) {
            self.pose_as_a_stranger(false).await;
        }
        self.restart().await;
    }

    /// In a hub with TLS, shows the certificate of an authority that is not [`Self::ca_pem`], or the right one again,
    /// on connections to come; those that are open end.
    async fn pose_as_a_stranger(&self, posing: bool) {
        let identity = self.identity.as_ref().expect("this hub has no TLS");
        identity.pose_as_a_stranger(posing);
        self.stop().await;
        self.restart().await;
    }

    fn answer_everything(&self, fault: &Fault) {
        for origin in OWN {
            self.on(origin).fault(fault.clone());
        }
    }
}
