//! Which identities of this node have certificates that their peers would trust. The kernel does not look at any; but who
//! could not open a tunnel opens no direct connection either, and what ends a tunnel ends a direct connection.

use std::collections::HashMap;

use culvert_core::identity::Identity;
use culvert_tls::{Untrusted, has_expired};
use culvert_worker::{CertificateState, Certificates};

/// Of an identity that has a certificate which has not expired, or is about to get its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trusted,
    Revoked,
    RootRemoved,
}

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trust(HashMap<Identity, State>);

impl Trust {
    pub(super) fn of(certificates: &Certificates) -> Self {
        let held = certificates.all().into_iter().filter_map(|(identity, state)| match state {
            // An engine that has just started: what an earlier one has allowed stays until the certificate has come.
            CertificateState::Initializing => Some((identity, State::Trusted)),
            CertificateState::Available(held) if !has_expired(held.not_after()) => Some((
                identity,
                match held.distrusted() {
                    None => State::Trusted,
                    Some(Untrusted::Revoked) => State::Revoked,
                    Some(Untrusted::RootRemoved) => State::RootRemoved,
                },
            )),
            _ => None,
        });
        Self(held.collect())
    }

    /// Whether an identity may open connections, and be connected to.
    pub(super) fn is_trusted(&self, identity: &Identity) -> bool {
        self.0.get(identity) == Some(&State::Trusted)
    }

    /// Why an identity's open connections have to end.
    pub(super) fn lost(&self, identity: &Identity) -> Option<Untrusted> {
        match self.0.get(identity)? {
            State::Trusted => None,
            State::Revoked => Some(Untrusted::Revoked),
            State::RootRemoved => Some(Untrusted::RootRemoved),
        }
    }
}
