//! Which identities of this node have certificates that their peers would trust. The kernel does not look at any; but who
//! could not open a tunnel opens no direct connection either, and what ends a tunnel ends a direct connection.

use std::collections::HashMap;

use culvert_core::identity::Identity;
use culvert_tls::{Untrusted, has_expired};
use culvert_worker::{CertificateState, Certificates};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has a certificate that has not expired, or is about to get its first one.
    Trusted,
    /// It has none, or one that has expired: what is open goes on.
    Without,
    Revoked,
    RootRemoved,
}

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trust(HashMap<Identity, State>);

impl Trust {
    pub(super) fn of(certificates: &Certificates) -> Self {
        let state_of = |state| match state {
            // An engine that has just started: what an earlier one has allowed stays until the certificate has come.
            CertificateState::Initializing => State::Trusted,
            CertificateState::Available(held) if !has_expired(held.not_after()) => match held.distrusted() {
                None => State::Trusted,
                Some(Untrusted::Revoked) => State::Revoked,
                Some(Untrusted::RootRemoved) => State::RootRemoved,
            },
            CertificateState::Available(_) | CertificateState::Unavailable(_) => State::Without,
        };
        Self(certificates.all().into_iter().map(|(identity, state)| (identity, state_of(state))).collect())
    }

    /// Whether an identity of a pod that is served may open connections, and be connected to. One that is not known is
    /// about to be requested: the workers do that when they open the pod's listeners.
    pub(super) fn is_trusted(&self, identity: &Identity) -> bool {
        self.0.get(identity).is_none_or(|state| *state == State::Trusted)
    }

    /// Why an identity's open connections have to end.
    pub(super) fn lost(&self, identity: &Identity) -> Option<Untrusted> {
        match self.0.get(identity)? {
            State::Trusted | State::Without => None,
            State::Revoked => Some(Untrusted::Revoked),
            State::RootRemoved => Some(Untrusted::RootRemoved),
        }
    }
}
