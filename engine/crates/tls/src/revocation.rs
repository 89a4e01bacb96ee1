//! Certificate revocation lists (RFC 5280, section 5).
//!
//! Rules, those of Istio's ztunnel where it has one:
//! 1. The whole chain is checked, from the leaf up to below the root.
//! 2. A certificate whose issuer has no list passes; so does one outside of a list's scope.
//! 3. An expired list stays in force: otherwise a revoked certificate would be accepted again.
//! 4. All lists of an issuer count, not only the first.
//! 5. A list in the name of an issuer whose key did not sign it makes the issuer's certificates unusable, unless another
//!    list in that name fits (an issuer that was made anew under its old name has two keys).
//! 6. Indirect and delta lists, and those with other critical extensions, are refused as a whole.
//!
//! An accepted peer keeps its whole chain for later checks: names and serial numbers alone cannot distinguish two issuers
//! of one name.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::sync::watch;
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use crate::chain::Chain;

/// An unusable bundle of revocation lists.
#[derive(Debug, thiserror::Error)]
pub enum BadRevocationLists {
    /// No list in PEM, or one that is cut short.
    #[error("not PEM with revocation lists: {0}")]
    Pem(String),
    /// One list among them, counted from 1.
    #[error("revocation list {number}: {reason}")]
    List {
        /// Its position in the bundle.
        number: usize,
        /// What is wrong with it.
        reason: webpki::Error,
    },
}

/// Revocation lists of any number of issuers. Immutable.
#[derive(Debug, Default)]
pub struct RevocationLists {
    /// Lists of issuers with one list each: a chain is checked with all of them at once.
    single: Vec<CertRevocationList<'static>>,
    /// Lists by issuer, for issuers with several: webpki uses only the first matching list, so each is checked alone.
    several: Vec<Vec<CertRevocationList<'static>>>,
}

impl RevocationLists {
    /// Read lists from PEM; white space alone is no list at all.
    ///
    /// # Errors
    /// [`BadRevocationLists`]: one bad list makes the whole bundle unusable.
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

    /// Whether a list names a certificate of `chain`, without checking who signed either: a cheap test before signatures are verified.
    pub(crate) fn mentions(&self, chain: &[CertificateDer<'_>]) -> bool {
        let all = || self.single.iter().chain(self.several.iter().flatten());
        chain.iter().any(|der| {
            let Ok(certificate) = EndEntityCert::try_from(der) else { return true };
            let mut of_issuer = all().filter(|list| list.issuer() == certificate.issuer());
            of_issuer.any(|list| !matches!(list.find_serial(certificate.serial()), Ok(None)))
        })
    }
}

/// The lists in force: one copy for all identities, exchanged while handshakes go on.
#[derive(Debug)]
pub struct Revocations(pub(crate) watch::Sender<Arc<RevocationLists>>);

impl Default for Revocations {
    fn default() -> Self {
        Self(watch::channel(Arc::default()).0)
    }
}

impl Revocations {
    /// Put other lists in force: for new handshakes, and for established tunnels.
    pub fn replace(&self, lists: RevocationLists) {
        self.0.send_replace(Arc::new(lists));
    }

    /// The lists in force.
    #[must_use]
    pub fn current(&self) -> Arc<RevocationLists> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
#[path = "revocation/tests.rs"]
mod tests;
