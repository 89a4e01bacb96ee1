//! The chain of a peer: verified at the handshake, and kept to be verified again while the tunnel is open.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::AcceptedChain;
use crate::revocation::{RevocationLists, Revocations};
use crate::trust_state::{RotationChannel, TrustState};
use crate::validity::seconds_now;

/// Why an accepted peer is no longer trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untrusted {
    /// Its certificate, or one above it, is revoked.
    Revoked,
    /// Its chain leads to a root that was removed from the trust bundle.
    RootRemoved,
}

/// The chain that a handshake accepted, verified again when revocation lists or roots change.
#[derive(Debug)]
pub struct AcceptedPeer {
    pub(crate) chain: AcceptedChain,
    /// Trust state at the handshake.
    pub(crate) state: TrustState,
    /// Publishes later trust states.
    pub(crate) rotation: RotationChannel,
    pub(crate) revocations: Arc<Revocations>,
    /// When the first certificate of the chain expires, seconds since the epoch.
    pub(crate) not_after: i64,
}

impl AcceptedPeer {
    /// The first end of validity in the peer's chain, in seconds since the epoch.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Wait until the tunnel must take no new stream: the peer's chain has expired, or our own certificate was issued by
    /// another root.
    pub async fn superseded(&self) {
        // A certificate is still valid in the second of its `not_after`.
        let left = self.not_after.saturating_sub(seconds_now()).saturating_add(1);
        let mut states = self.rotation.0.subscribe();
        let moved = states.wait_for(|now| now.as_ref().is_some_and(|now| now.root_rotated(&self.state)));
        // `self` holds a sender, so waiting does not fail; the timeout ends it in any case.
        let _ = tokio::time::timeout(Duration::from_secs(u64::try_from(left).unwrap_or(0)), moved).await;
    }

    /// Whether our own certificate has been issued by another root since.
    #[must_use]
    pub fn root_rotated(&self) -> bool {
        self.rotation.0.borrow().as_ref().is_some_and(|now| now.root_rotated(&self.state))
    }

    /// Wait until the peer is no longer trusted; returns at once if it is not.
    pub async fn untrusted(&self) -> Untrusted {
        let mut revocations = self.revocations.0.subscribe();
        let mut states = self.rotation.0.subscribe();
        loop {
            let lists = revocations.borrow_and_update().clone();
            if self.is_revoked_by(&lists) {
                return Untrusted::Revoked;
            }
            drop(lists);
            let state = states.borrow_and_update().clone();
            if state.is_some_and(|now| !now.still_trusts(&self.chain, &self.state)) {
                return Untrusted::RootRemoved;
            }
            // `self` holds both senders.
            let changed = tokio::select! {
                changed = revocations.changed() => changed,
                changed = states.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub(crate) fn is_revoked_by(&self, lists: &RevocationLists) -> bool {
        let chain = self.chain.to(&self.state.bundle.store.roots);
        lists.mentions(&self.chain.certificates)
            && chain.is_some_and(|chain| matches!(lists.verify(&chain), Err(webpki::Error::CertRevoked)))
    }
}
