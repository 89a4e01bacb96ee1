//! The trust bundle that peers are verified with, and what its changes mean for open tunnels.
//!
//! Rules:
//! 1. Adding a root closes no tunnel.
//! 2. Removing a root closes each tunnel whose peer's chain leads to none of the remaining roots. Chains are verified as of
//!    their handshake: an expiring certificate closes no stream.
//! 3. A chain is verified once per bundle (at most once per core), however many tunnels have it.
//! 4. A tunnel takes no new stream once its own end has a certificate of another root. So in a root rotation, when all
//!    certificates are renewed, all new streams are in tunnels that survive the removal of the old root.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;

use crate::certificate::{CertificateError, pem_certificates};
use crate::peer::{AcceptedPeer, Chain, PeerRole};

/// SHA-256 of a chain, and the role in which it was accepted.
type ChainKey = (PeerRole, Vec<u8>);

/// A set of roots. Immutable, apart from its cache of verdicts.
#[derive(Debug)]
pub struct TrustBundle {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) der: Vec<CertificateDer<'static>>,
    /// Verdicts on chains of tunnels that were open when a root was removed.
    verdicts: Mutex<HashMap<ChainKey, bool>>,
}

/// Equal if the same roots come in the same order.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl TrustBundle {
    /// Read roots from PEM.
    ///
    /// # Errors
    /// [`CertificateError::Roots`]: one bad root makes the whole bundle unusable.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let der = pem_certificates(pem).map_err(CertificateError::Roots)?;
        let mut store = RootCertStore::empty();
        for root in &der {
            store.add(root.clone()).map_err(|error| CertificateError::Roots(error.to_string()))?;
        }
        Ok(Self { store: Arc::new(store), der, verdicts: Mutex::default() })
    }

    /// Whether all of `others` are among these.
    fn includes(&self, others: &Self) -> bool {
        others.der.iter().all(|root| self.der.contains(root))
    }

    /// Whether the chain of `peer`, which another bundle verified, leads to one of these roots.
    fn verifies(&self, peer: &AcceptedPeer) -> bool {
        let Some(key) = key(peer) else { return false };
        let cache = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = cache().get(&key) {
            return known;
        }
        // Outside of the lock: else all cores would wait for each other's signature checks.
        let verified = peer.chain_to(&self.store.roots).is_some_and(|chain| chain.verify(&[]).is_ok());
        cache().insert(key, verified);
        verified
    }
}

fn key(peer: &AcceptedPeer) -> Option<ChainKey> {
    let mut hash = TLS13_AES_128_GCM_SHA256.tls13()?.common.hash_provider.start();
    for der in &peer.chain {
        // DER states its own length, so the concatenation is unambiguous.
        hash.update(der);
    }
    Some((peer.role, hash.finish().as_ref().to_vec()))
}

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
    /// Whether a peer that was accepted under `earlier` is still trusted.
    pub(crate) fn still_trusts(&self, peer: &AcceptedPeer, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.bundle, &earlier.bundle)
            || self.bundle.includes(&earlier.bundle)
            || self.bundle.verifies(peer)
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
#[path = "roots/tests.rs"]
mod tests;
