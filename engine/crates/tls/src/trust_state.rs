//! The trust bundle in force for an identity, and what its changes mean for open tunnels.
//!
//! Rules:
//! 1. Adding a root closes no tunnel.
//! 2. Removing a root closes each tunnel whose peer's chain leads to none of the remaining roots. Chains are verified as of
//!    their handshake: an expiring certificate closes no stream.
//! 3. A chain is verified once per bundle (at most once per core), however many tunnels have it.
//! 4. A tunnel takes no new stream once its own end has a certificate of another root. So in a root rotation, when all
//!    certificates are renewed, all new streams are in tunnels that survive the removal of the old root.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;

use crate::chain::{AcceptedChain, Chain};
use crate::trust_bundle::TrustBundle;

/// The root in `bundle` that issued our own chain, if any.
pub(crate) fn issuing_root(bundle: &TrustBundle, chain: &Chain<'_>) -> Option<Arc<CertificateDer<'static>>> {
    let leads_to =
        |anchor: &TrustAnchor<'_>| Chain { roots: std::slice::from_ref(anchor), ..*chain }.verify(&[]).is_ok();
    // A store has one anchor for each certificate, in the same order.
    let place = bundle.store.roots.iter().position(leads_to)?;
    bundle.der.get(place).cloned().map(Arc::new)
}

/// The trust bundle in force for an identity, and the root that issued its own certificate.
#[derive(Debug, Clone)]
pub(crate) struct TrustState {
    pub(crate) bundle: Arc<TrustBundle>,
    /// The root that issued its own certificate, if it is in the bundle.
    pub(crate) issuing_root: Option<Arc<CertificateDer<'static>>>,
}

impl TrustState {
    /// Whether a peer whose `chain` was accepted under `earlier` is still trusted.
    pub(crate) fn still_trusts(&self, chain: &AcceptedChain, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.bundle, &earlier.bundle)
            || self.bundle.includes(&earlier.bundle)
            || self.bundle.verifies(chain)
    }

    /// Whether our own certificate has been issued by another root since.
    pub(crate) fn root_rotated(&self, earlier: &Self) -> bool {
        matches!((&self.issuing_root, &earlier.issuing_root), (Some(now), Some(then)) if !Arc::ptr_eq(now, then) && now != then)
    }
}

/// Connects the successive certificates of one identity: their tunnels learn of the latest trust state.
#[derive(Debug, Clone, Default)]
pub struct RotationChannel(pub(crate) watch::Sender<Option<TrustState>>);

#[cfg(test)]
#[path = "trust_state/tests.rs"]
mod tests;
