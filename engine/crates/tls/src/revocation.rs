//! Certificates that their issuers have taken back.
//!
//! Rules, those of Istio's ztunnel where it has one:
//! 1. The whole chain is asked for, from the leaf up to below the root.
//! 2. A certificate of whose issuer there is no list passes; so does one that a list's scope leaves out.
//! 3. An expired list still says what it says: otherwise time would give back what was revoked.
//! 4. All lists of an issuer count, not only the first.
//! 5. A list in the name of an issuer whose key did not sign it makes the issuer's certificates unusable, unless another
//!    list in that name fits (an issuer that was made anew under its old name has two keys).
//! 6. Indirect and delta lists, and those with other critical extensions, are refused as a whole.
//!
//! Who is asked again later keeps the chain as it came: names and serial numbers alone would not tell two issuers of one
//! name apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, UnixTime};
use tokio::sync::watch;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::certificate::seconds_now;

/// A bundle of revocation lists that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRevocationLists {
    /// No list in PEM, or one that is cut short.
    #[error("not PEM with revocation lists: {0}")]
    Pem(String),
    /// One list among them, counted from 1.
    #[error("revocation list {number}: {reason}")]
    List {
        /// Its place in the bundle.
        number: usize,
        /// What is wrong with it.
        reason: webpki::Error,
    },
}

/// Revocation lists of any number of issuers. Immutable.
#[derive(Debug, Default)]
pub struct RevocationLists {
    /// Of issuers with one list each: a chain is held against all of these at once.
    single: Vec<CertRevocationList<'static>>,
    /// By issuer, where one has several: the library looks at the first that fits only, so each is asked by itself.
    several: Vec<Vec<CertRevocationList<'static>>>,
}

impl RevocationLists {
    /// Read lists from PEM; white space alone is no list at all.
    ///
    /// # Errors
    /// [`BadRevocationLists`]: of a bundle that is bad in part, nothing is taken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadRevocationLists> {
        let mut by_issuer: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
        for (index, der) in CertificateRevocationListDer::pem_slice_iter(pem).enumerate() {
            let der = der.map_err(|error| BadRevocationLists::Pem(error.to_string()))?;
            let list = OwnedCertRevocationList::from_der(&der)
                .map_err(|reason| BadRevocationLists::List { number: index + 1, reason })?;
            let list = CertRevocationList::from(list);
            by_issuer.entry(list.issuer().to_vec()).or_default().push(list);
        }
        if by_issuer.is_empty() && !pem.trim_ascii().is_empty() {
            return Err(BadRevocationLists::Pem("holds no block X509 CRL".into()));
        }
        let (single, several): (Vec<_>, Vec<_>) = by_issuer.into_values().partition(|lists| lists.len() == 1);
        Ok(Self { single: single.into_iter().flatten().collect(), several })
    }

    /// Number of lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.single.len() + self.several.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether there is no list.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.single.is_empty() && self.several.is_empty()
    }

    /// Verify a chain, and that no list revokes a part of it.
    pub(crate) fn verify(&self, chain: &Chain<'_>) -> Result<(), webpki::Error> {
        chain.verify(&self.single.iter().collect::<Vec<_>>())?;
        for lists in &self.several {
            let mut fits = Err(webpki::Error::UnknownRevocationStatus);
            for list in lists {
                match chain.verify(&[list]) {
                    Ok(()) => fits = Ok(()),
                    Err(webpki::Error::CertRevoked) => return Err(webpki::Error::CertRevoked),
                    Err(other) => fits = fits.or(Err(other)),
                }
            }
            fits?;
        }
        Ok(())
    }

    /// Whether a list names a certificate of `chain`, whoever signed either: dear checks are left to those it does.
    fn mentions(&self, chain: &[CertificateDer<'_>]) -> bool {
        let all = || self.single.iter().chain(self.several.iter().flatten());
        chain.iter().any(|der| {
            let Ok(certificate) = EndEntityCert::try_from(der) else { return true };
            let mut of_issuer = all().filter(|list| list.issuer() == certificate.issuer());
            of_issuer.any(|list| !matches!(list.find_serial(certificate.serial()), Ok(None)))
        })
    }
}

/// A chain that a peer presents, and what it takes to verify it.
pub(crate) struct Chain<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) roots: &'a RootCertStore,
    pub(crate) algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    pub(crate) at: UnixTime,
    pub(crate) role: PeerRole,
}

impl Chain<'_> {
    fn verify(&self, lists: &[&CertRevocationList<'_>]) -> Result<(), webpki::Error> {
        let usage = match self.role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        let leaf = EndEntityCert::try_from(self.leaf)?;
        let options = options(lists);
        leaf.verify_for_usage(self.algorithms, &self.roots.roots, self.intermediates, self.at, usage, options, None)?;
        Ok(())
    }
}

/// `None` where there is no list to look at.
fn options<'a>(lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(lists).ok()?;
    Some(
        builder
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build(),
    )
}

/// Which end of a tunnel the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerRole {
    Client,
    Server,
}

/// The lists in force: one copy for all identities, exchanged while handshakes go on.
#[derive(Debug)]
pub struct Revocations(watch::Sender<Arc<RevocationLists>>);

impl Default for Revocations {
    fn default() -> Self {
        Self(watch::channel(Arc::default()).0)
    }
}

impl Revocations {
    /// Put other lists in force: for handshakes that begin now, and for tunnels that stand.
    pub fn replace(&self, lists: RevocationLists) {
        self.0.send_replace(Arc::new(lists));
    }

    /// The lists in force.
    #[must_use]
    pub fn current(&self) -> Arc<RevocationLists> {
        self.0.borrow().clone()
    }
}

/// A peer's chain as its handshake has accepted it, to be held against lists that come later.
#[derive(Debug)]
pub struct AcceptedPeer {
    pub(crate) chain: Box<[CertificateDer<'static>]>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) role: PeerRole,
    /// When it was accepted: that certificates expire ends no stream.
    pub(crate) at: UnixTime,
    /// When the first certificate of the chain expires, seconds since the epoch.
    pub(crate) not_after: i64,
}

impl AcceptedPeer {
    /// When the peer's proof is none any more: the first end of validity in its chain, seconds since the epoch.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Wait until then.
    pub async fn expired(&self) {
        // One second more: a certificate is valid in the second of its end too.
        let left = self.not_after.saturating_sub(seconds_now()).saturating_add(1);
        tokio::time::sleep(Duration::from_secs(u64::try_from(left).unwrap_or(0))).await;
    }

    /// Wait until a list revokes the chain; at once, where one does already.
    pub async fn revoked(&self) {
        let mut changes = self.revocations.0.subscribe();
        loop {
            let lists = changes.borrow_and_update().clone();
            if self.is_revoked_by(&lists) {
                return;
            }
            drop(lists);
            // The sender is `self`'s too.
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn is_revoked_by(&self, lists: &RevocationLists) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        let Self { roots, algorithms, role, at, .. } = self;
        let chain = Chain { leaf, intermediates, roots, algorithms, at: *at, role: *role };
        lists.mentions(&self.chain) && matches!(lists.verify(&chain), Err(webpki::Error::CertRevoked))
    }
}

#[cfg(test)]
#[path = "revocation/tests.rs"]
mod tests;
