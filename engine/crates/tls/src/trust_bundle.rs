//! The roots that peers are verified with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::CertificateDer;

use crate::chain::{AcceptedChain, PeerRole};
use crate::error::CertificateError;
use crate::pem::pem_certificates;

/// SHA-256 of a chain, and the role in which it was accepted.
type ChainKey = (PeerRole, Vec<u8>);

/// A set of roots. Immutable, apart from its cache of verdicts.
#[derive(Debug)]
pub struct TrustBundle {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) der: Vec<CertificateDer<'static>>,
    /// Verdicts on chains of tunnels that were open when a root was removed.
    pub(crate) verdicts: Mutex<HashMap<ChainKey, bool>>,
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
    pub(crate) fn includes(&self, others: &Self) -> bool {
        others.der.iter().all(|root| self.der.contains(root))
    }

    /// Whether a chain that another bundle verified leads to one of these roots.
    pub(crate) fn verifies(&self, chain: &AcceptedChain) -> bool {
        let Some(key) = key(chain) else { return false };
        let cache = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&known) = cache().get(&key) {
            return known;
        }
        // Outside of the lock: else all cores would wait for each other's signature checks.
        let verified = chain.to(&self.store.roots).is_some_and(|chain| chain.verify(&[]).is_ok());
        cache().insert(key, verified);
        verified
    }
}

fn key(chain: &AcceptedChain) -> Option<ChainKey> {
    let mut hash = TLS13_AES_128_GCM_SHA256.tls13()?.common.hash_provider.start();
    for der in &chain.certificates {
        // DER states its own length, so the concatenation is unambiguous.
        hash.update(der);
    }
    Some((chain.role, hash.finish().as_ref().to_vec()))
}
