//! Certificates of the identities served here: who is wanted, what is held, and waiting for what is on its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use culvert_core::identity::Identity;
use culvert_tls::{
    BadRevocationLists, CertificateError, KeyPair, RevocationLists, Revocations, RotationChannel, TrustBundle,
    WorkloadCertificate, has_expired,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::events::Events;

/// What is known of one identity's certificate.
#[derive(Debug, Clone, Default)]
pub enum CertificateState {
    /// Requested, not yet issued.
    #[default]
    Initializing,
    /// The source says why there is none.
    Unavailable(String),
    /// The certificate; it may have expired.
    Available(Arc<WorkloadCertificate>),
}

#[derive(Debug, Default)]
struct Entry {
    users: usize,
    /// The last good one that came, kept to be used with other roots.
    pair: Option<Arc<KeyPair>>,
    state: watch::Sender<CertificateState>,
    rotation: RotationChannel,
}

impl Entry {
    /// Use the pair with `bundle`, for new connections and for open tunnels.
    fn publish(&self, bundle: &Arc<TrustBundle>, revocations: &Arc<Revocations>) -> Result<(), CertificateError> {
        let Some(pair) = &self.pair else { return Ok(()) };
        let mut certificate = WorkloadCertificate::new(pair.clone(), bundle, revocations)?;
        certificate.subscribe_to(&self.rotation);
        let certificate = Arc::new(certificate);
        self.state.send_replace(CertificateState::Available(certificate.clone()));
        certificate.publish();
        Ok(())
    }
}

/// Held while a workload of an identity is served; dropping it gives the identity up.
#[derive(Debug)]
pub struct CertificateUse {
    certificates: Arc<Certificates>,
    identity: Identity,
    state: watch::Receiver<CertificateState>,
}

/// Certificates of all identities that are served here.
#[derive(Debug)]
pub struct Certificates {
    /// Locked before `entries`. `None` before the first came; all identities of a mesh share it.
    bundle: Mutex<Option<Arc<TrustBundle>>>,
    entries: Mutex<HashMap<Identity, Entry>>,
    revocations: Arc<Revocations>,
    events: Arc<Events>,
}

impl Certificates {
    /// No identity is served yet.
    #[must_use]
    pub fn new(events: Arc<Events>) -> Arc<Self> {
        Arc::new(Self { bundle: Mutex::default(), entries: Mutex::default(), revocations: Arc::default(), events })
    }

    /// Request an identity's certificate for as long as the returned handle is held.
    #[must_use]
    pub fn want(self: &Arc<Self>, identity: &Identity) -> CertificateUse {
        let mut entries = self.entries.lock();
        let entry = entries.entry(identity.clone()).or_default();
        entry.users += 1;
        if entry.users == 1 {
            self.events.certificate_wanted(identity);
        }
        CertificateUse { certificates: self.clone(), identity: identity.clone(), state: entry.state.subscribe() }
    }

    /// Verify peers with other roots, in PEM, from now on. Open tunnels whose peer's chain leads to none of them are closed.
    ///
    /// # Errors
    /// They cannot be used; those in force stay.
    pub fn set_trust_bundle(&self, roots: &[u8]) -> Result<(), CertificateError> {
        let bundle = TrustBundle::from_pem(roots)?;
        let mut held = self.bundle.lock();
        if held.as_deref() == Some(&bundle) {
            return Ok(());
        }
        let bundle = held.insert(Arc::new(bundle));
        self.entries.lock().values().try_for_each(|entry| entry.publish(bundle, &self.revocations))
    }

    /// Use other revocation lists, in PEM, from now on. Open tunnels whose peer is revoked by them are closed.
    ///
    /// # Errors
    /// They cannot be used; those in force stay.
    pub fn set_revocation_lists(&self, lists: &[u8]) -> Result<(), BadRevocationLists> {
        self.revocations.replace(RevocationLists::from_pem(lists)?);
        Ok(())
    }

    /// Use another chain and key, in PEM, for an identity. One that is not served here is ignored.
    ///
    /// # Errors
    /// They cannot be used; a certificate that is held and still valid stays.
    pub fn set_certificate(&self, identity: &Identity, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let pair = KeyPair::from_pem(identity, chain, key)
            .inspect_err(|error| self.unavailable(identity, error.to_string()))?;
        let bundle = self.bundle.lock();
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(identity) else { return Ok(()) };
        entry.pair = Some(Arc::new(pair));
        bundle.as_ref().map_or(Ok(()), |bundle| entry.publish(bundle, &self.revocations))
    }

    /// Record why the source has none. That never replaces a certificate that is still valid.
    pub fn unavailable(&self, identity: &Identity, reason: String) {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(identity) else { return };
        entry.state.send_if_modified(|state| {
            let keep = matches!(state, CertificateState::Available(held) if !has_expired(held.not_after()));
            if !keep {
                *state = CertificateState::Unavailable(reason);
            }
            !keep
        });
    }

    /// All identities and what is held of each.
    #[must_use]
    pub fn all(&self) -> Vec<(Identity, CertificateState)> {
        let entries = self.entries.lock();
        entries.iter().map(|(identity, entry)| (identity.clone(), entry.state.borrow().clone())).collect()
    }

    fn release(&self, identity: &Identity) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(identity) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            entries.remove(identity);
            self.events.certificate_released(identity);
        }
    }
}

impl CertificateUse {
    /// The certificate; waits up to `timeout` for the first one.
    ///
    /// # Errors
    /// Why there is none. An expired certificate is none: a peer would refuse it, and so do we.
    pub async fn get(&self, timeout: Duration) -> Result<Arc<WorkloadCertificate>, String> {
        let mut state = self.state.clone();
        let available = |state: &CertificateState| matches!(state, CertificateState::Available(held) if !has_expired(held.not_after()));
        let found = match tokio::time::timeout(timeout, state.wait_for(available)).await {
            Ok(Ok(found)) => found.clone(),
            Ok(Err(_)) | Err(_) => self.state.borrow().clone(),
        };
        match found {
            CertificateState::Available(held) if !has_expired(held.not_after()) => Ok(held),
            CertificateState::Available(_) => Err(format!("the certificate of {} has expired", self.identity)),
            CertificateState::Initializing => Err(format!("no certificate of {} yet", self.identity)),
            CertificateState::Unavailable(reason) => Err(reason),
        }
    }
}

impl Clone for CertificateUse {
    fn clone(&self) -> Self {
        self.certificates.want(&self.identity)
    }
}

impl Drop for CertificateUse {
    fn drop(&mut self) {
        self.certificates.release(&self.identity);
    }
}
