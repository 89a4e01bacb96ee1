//! Chains of certificates, and their verification.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

/// A presented chain with the inputs of its verification.
#[derive(Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) leaf: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) roots: &'a [TrustAnchor<'a>],
    pub(crate) algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    pub(crate) at: UnixTime,
    pub(crate) role: PeerRole,
}

impl Chain<'_> {
    pub(crate) fn verify(&self, lists: &[&CertRevocationList<'_>]) -> Result<(), webpki::Error> {
        let usage = match self.role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        let leaf = EndEntityCert::try_from(self.leaf)?;
        let options = options(lists);
        leaf.verify_for_usage(self.algorithms, self.roots, self.intermediates, self.at, usage, options, None)?;
        Ok(())
    }
}

/// `None` without any revocation list.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PeerRole {
    Client,
    Server,
}

/// A chain that a handshake accepted, kept to be verified again.
#[derive(Debug)]
pub(crate) struct AcceptedChain {
    pub(crate) certificates: Box<[CertificateDer<'static>]>,
    pub(crate) algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    pub(crate) role: PeerRole,
    /// Time of the handshake: an expiring certificate ends no stream.
    pub(crate) at: UnixTime,
}

impl AcceptedChain {
    /// The chain, to be verified with `roots`.
    pub(crate) fn to<'a>(&'a self, roots: &'a [TrustAnchor<'a>]) -> Option<Chain<'a>> {
        let (leaf, intermediates) = self.certificates.split_first()?;
        Some(Chain { leaf, intermediates, roots, algorithms: self.algorithms, at: self.at, role: self.role })
    }
}
