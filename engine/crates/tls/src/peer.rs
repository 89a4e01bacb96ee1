//! The chain of a peer: verified at its handshake, and kept to be asked again while its tunnel stands.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::certificate::seconds_now;
use crate::revocation::{RevocationLists, Revocations};
use crate::roots::{Ground, Succession};

/// A chain that a peer presents, and what it takes to verify it.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PeerRole {
    Client,
    Server,
}

/// Why a peer that was accepted is trusted no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untrusted {
    /// Its certificate, or one above it, is revoked.
    Revoked,
    /// The root that its chain leads to was taken out of the trust bundle.
    RootRemoved,
}

/// A peer's chain as its handshake has accepted it, to be held against lists and roots that come later.
#[derive(Debug)]
pub struct AcceptedPeer {
    pub(crate) chain: Box<[CertificateDer<'static>]>,
    /// On which it was accepted.
    pub(crate) ground: Ground,
    /// Where to hear of other ground.
    pub(crate) succession: Succession,
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

    /// Wait until a tunnel with this peer should take nothing new: its proof has expired, or our own certificate has
    /// moved to another root.
    pub async fn outlived(&self) {
        // One second more: a certificate is valid in the second of its end too.
        let left = self.not_after.saturating_sub(seconds_now()).saturating_add(1);
        let mut grounds = self.succession.0.subscribe();
        let moved = grounds.wait_for(|now| now.as_ref().is_some_and(|now| now.has_moved(&self.ground)));
        // The sender is `self`'s too, so waiting does not fail; the end of validity comes in either case.
        let _ = tokio::time::timeout(Duration::from_secs(u64::try_from(left).unwrap_or(0)), moved).await;
    }

    /// Whether our own certificate has moved to another root since.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.succession.0.borrow().as_ref().is_some_and(|now| now.has_moved(&self.ground))
    }

    /// Wait until the peer is trusted no more; at once, where it is not already.
    pub async fn untrusted(&self) -> Untrusted {
        let mut revocations = self.revocations.0.subscribe();
        let mut grounds = self.succession.0.subscribe();
        loop {
            let lists = revocations.borrow_and_update().clone();
            if self.is_revoked_by(&lists) {
                return Untrusted::Revoked;
            }
            drop(lists);
            let ground = grounds.borrow_and_update().clone();
            if ground.is_some_and(|now| !now.bears(self, &self.ground)) {
                return Untrusted::RootRemoved;
            }
            // Both senders are `self`'s too.
            let changed = tokio::select! {
                changed = revocations.changed() => changed,
                changed = grounds.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub(crate) fn is_revoked_by(&self, lists: &RevocationLists) -> bool {
        let chain = self.chain_to(&self.ground.bundle.store.roots);
        lists.mentions(&self.chain)
            && chain.is_some_and(|chain| matches!(lists.verify(&chain), Err(webpki::Error::CertRevoked)))
    }

    /// The chain as one that may lead to any of `roots`.
    pub(crate) fn chain_to<'a>(&'a self, roots: &'a [TrustAnchor<'a>]) -> Option<Chain<'a>> {
        let (leaf, intermediates) = self.chain.split_first()?;
        Some(Chain { leaf, intermediates, roots, algorithms: self.algorithms, at: self.at, role: self.role })
    }
}
