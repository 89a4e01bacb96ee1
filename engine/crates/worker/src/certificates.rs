//! Certificates of the identities served here: who is wanted, what is held, and waiting for what is on its way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use culvert_core::identity::Identity;
use culvert_tls::{CertificateError, RotationChannel, TrustBundle, WorkloadCertificate, has_expired};
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
    state: watch::Sender<CertificateState>,
    rotation: RotationChannel,
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
    entries: Mutex<HashMap<Identity, Entry>>,
    /// The last that came: all identities of a mesh have the same, and share it.
    bundle: Mutex<Option<Arc<TrustBundle>>>,
    events: Arc<Events>,
}

impl Certificates {
    /// No identity is served yet.
    #[must_use]
    pub fn new(events: Arc<Events>) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), bundle: Mutex::default(), events })
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

    /// Roots in PEM, made ready.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn bundle(&self, pem: &[u8]) -> Result<Arc<TrustBundle>, CertificateError> {
        let bundle = TrustBundle::from_pem(pem)?;
        let mut last = self.bundle.lock();
        let same = last.take().filter(|last| **last == bundle);
        Ok(last.insert(same.unwrap_or_else(|| Arc::new(bundle))).clone())
    }

    /// Use a certificate from now on, and publish it to open tunnels.
    pub fn take(&self, mut certificate: WorkloadCertificate) {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(certificate.identity()) else { return };
        certificate.subscribe_to(&entry.rotation);
        let certificate = Arc::new(certificate);
        entry.state.send_replace(CertificateState::Available(certificate.clone()));
        certificate.publish();
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
