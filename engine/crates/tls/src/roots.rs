//! The roots that peers are verified by, and tunnels that stand when those change.
//!
//! Rules:
//! 1. A root that is added ends nothing.
//! 2. One that is taken out ends each tunnel whose peer's chain leads to none of those that are left. Chains are verified
//!    as of the time when they were accepted: that certificates expire ends no stream.
//! 3. What becomes of a chain is found out once for a bundle (by each core at most), however many tunnels stand on it.
//! 4. Tunnels take nothing new once their own end has a certificate of another root. So in an exchange of roots, when all
//!    have new certificates, all new streams are in tunnels that outlive the old root.

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

/// The roots of one time. Immutable, but for what it remembers.
#[derive(Debug)]
pub struct TrustBundle {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) der: Vec<CertificateDer<'static>>,
    /// Chains of tunnels that stood when a root was taken out: as many as there were, at most.
    judged: Mutex<HashMap<ChainKey, bool>>,
}

/// The same roots in the same order.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl TrustBundle {
    /// Read roots from PEM.
    ///
    /// # Errors
    /// [`CertificateError::Roots`]: of a bundle that is bad in part, nothing is taken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let der = pem_certificates(pem).map_err(CertificateError::Roots)?;
        let mut store = RootCertStore::empty();
        for root in &der {
            store.add(root.clone()).map_err(|error| CertificateError::Roots(error.to_string()))?;
        }
        Ok(Self { store: Arc::new(store), der, judged: Mutex::default() })
    }

    /// Whether all of `others` are among these.
    fn includes(&self, others: &Self) -> bool {
        others.der.iter().all(|root| self.der.contains(root))
    }

    /// Whether one of these vouches for `peer`, whom other roots have vouched for.
    fn vouches_for(&self, peer: &AcceptedPeer) -> bool {
        let Some(key) = key(peer) else { return false };
        let remembered = || self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = remembered().get(&key) {
            return known;
        }
        // Not under the lock, where all cores would wait for each other's signatures.
        let verified = peer.chain_to(&self.store.roots).is_some_and(|chain| chain.verify(&[]).is_ok());
        remembered().insert(key, verified);
        verified
    }
}

fn key(peer: &AcceptedPeer) -> Option<ChainKey> {
    let mut hash = TLS13_AES_128_GCM_SHA256.tls13()?.common.hash_provider.start();
    for der in &peer.chain {
        // Each states its own length, so what follows what is no question.
        hash.update(der);
    }
    Some((peer.role, hash.finish().as_ref().to_vec()))
}

/// The root that a chain of our own leads to; `None` where that is none of `bundle`'s.
pub(crate) fn foundation(bundle: &TrustBundle, chain: &Chain<'_>) -> Option<Arc<CertificateDer<'static>>> {
    let leads_to =
        |anchor: &TrustAnchor<'_>| Chain { roots: std::slice::from_ref(anchor), ..*chain }.verify(&[]).is_ok();
    // A store has one anchor for each certificate, in the same order.
    let place = bundle.store.roots.iter().position(leads_to)?;
    bundle.der.get(place).cloned().map(Arc::new)
}

/// What an identity trusts, and what it stands on itself.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) bundle: Arc<TrustBundle>,
    /// The root of its own certificate, if that is one of the bundle's.
    pub(crate) own: Option<Arc<CertificateDer<'static>>>,
}

impl Ground {
    /// Whether who was accepted on `earlier` ground is still.
    pub(crate) fn bears(&self, peer: &AcceptedPeer, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.bundle, &earlier.bundle)
            || self.bundle.includes(&earlier.bundle)
            || self.bundle.vouches_for(peer)
    }

    /// Whether our own certificate has moved to another root since.
    pub(crate) fn has_moved(&self, earlier: &Self) -> bool {
        matches!((&self.own, &earlier.own), (Some(now), Some(then)) if !Arc::ptr_eq(now, then) && now != then)
    }
}

/// One identity's certificates, one after the other: tunnels that were made with any of them hear of the latest.
#[derive(Debug, Clone, Default)]
pub struct Succession(pub(crate) watch::Sender<Option<Ground>>);

#[cfg(test)]
#[path = "roots/tests.rs"]
mod tests;
