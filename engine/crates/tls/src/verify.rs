//! Verifies a peer: its chain leads to a root of the trust bundle, and its leaf has one SPIFFE identity.
//!
//! Host names play no part. A server accepts any identity of its own trust domain; a client accepts only the identities
//! that it expects. Everything else is refused, and so is a revoked certificate.

use std::sync::Arc;

use culvert_core::identity::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::chain::{AcceptedChain, Chain, PeerRole};
use crate::peer::AcceptedPeer;
use crate::revocation::Revocations;
use crate::spiffe::identities;
use crate::trust_bundle::TrustBundle;
use crate::trust_state::{RotationChannel, TrustState};
use crate::validity::not_after;

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
}

/// Say in words why a handshake failed: our own reasons are buried in the library's errors.
#[must_use]
pub fn explain(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(reason))) => reason.0.to_string(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// The peer's identity is not the one wanted.
#[derive(Debug, thiserror::Error)]
enum Unwanted {
    #[error("identity verification error: peer {presented:?} is not in trust domain {wanted:?}")]
    TrustDomain { presented: Vec<Identity>, wanted: String },
    #[error("identity verification error: peer {presented:?} is none of {wanted:?}")]
    Identity { presented: Vec<Identity>, wanted: Arc<[Identity]> },
}

/// Whether a handshake failed because the peer's certificate, or one above it, has been revoked.
#[must_use]
pub fn is_revoked(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(CertificateError::Revoked)))
}

/// What a peer's chain is held against.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) revocations: Arc<Revocations>,
}

impl Trust {
    /// Check the revocation lists, if there are any; then what a chain is without them, in `otherwise`, the library's own
    /// words and alerts. One verification where all is well.
    fn verify<T>(
        &self,
        role: PeerRole,
        (leaf, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        at: UnixTime,
        accepted: T,
        otherwise: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lists = self.revocations.current();
        if lists.is_empty() {
            return otherwise();
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let roots = &self.bundle.store.roots;
        match lists.verify(&Chain { leaf, intermediates, roots, algorithms, at, role }) {
            Ok(()) => Ok(accepted),
            Err(webpki::Error::CertRevoked) => Err(CertificateError::Revoked.into()),
            Err(error) => otherwise().and_then(|_| Err(refused(UnusableList(error)))),
        }
    }

    /// Keep what it takes to verify `chain` again, on whatever state `rotation` will be then.
    pub(crate) fn accepted(
        &self,
        role: PeerRole,
        chain: Option<&[CertificateDer<'_>]>,
        state: &TrustState,
        rotation: &RotationChannel,
    ) -> AcceptedPeer {
        let chain = chain.unwrap_or_default();
        AcceptedPeer {
            not_after: chain.iter().filter_map(not_after).min().unwrap_or(i64::MAX),
            chain: AcceptedChain {
                certificates: chain.iter().map(|der| der.clone().into_owned()).collect(),
                algorithms: self.provider.signature_verification_algorithms.all,
                role,
                at: UnixTime::now(),
            },
            state: state.clone(),
            rotation: rotation.clone(),
            revocations: self.revocations.clone(),
        }
    }
}

/// The chain is good, but a list of one of its issuers is not.
#[derive(Debug, thiserror::Error)]
#[error("the revocation list of the peer's issuer cannot be used: {0}")]
struct UnusableList(webpki::Error);

/// Verifies clients of an HBONE server.
#[derive(Debug)]
pub(crate) struct TrustDomainVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust: Trust,
    trust_domain: String,
}

impl TrustDomainVerifier {
    pub(crate) fn new(trust: Trust, trust_domain: &str) -> Result<Arc<Self>, rustls::server::VerifierBuilderError> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(trust.bundle.store.clone(), trust.provider.clone()).build()?;
        Ok(Arc::new(Self { chain, trust, trust_domain: trust_domain.to_owned() }))
    }
}

impl ClientCertVerifier for TrustDomainVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The hint would reveal the names of our roots to an unauthenticated peer and costs bytes in each handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let otherwise = || self.chain.verify_client_cert(leaf, intermediates, now);
        let accepted = ClientCertVerified::assertion();
        let verified = self.trust.verify(PeerRole::Client, (leaf, intermediates), now, accepted, otherwise)?;
        let presented = identities(leaf).map_err(refused)?;
        if presented.iter().any(|identity| identity.trust_domain() == self.trust_domain) {
            Ok(verified)
        } else {
            Err(refused(Unwanted::TrustDomain { presented, wanted: self.trust_domain.clone() }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies the server of one tunnel.
#[derive(Debug)]
pub(crate) struct ExpectedIdentities {
    pub(crate) trust: Trust,
    pub(crate) wanted: Arc<[Identity]>,
}

impl ServerCertVerifier for ExpectedIdentities {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust { bundle, provider, .. } = &self.trust;
        let otherwise = || {
            let parsed = ParsedCertificate::try_from(leaf)?;
            let algorithms = provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &bundle.store, intermediates, now, algorithms)
        };
        self.trust.verify(PeerRole::Server, (leaf, intermediates), now, (), otherwise)?;
        let presented = identities(leaf).map_err(refused)?;
        if presented.iter().any(|identity| self.wanted.contains(identity)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(Unwanted::Identity { presented, wanted: self.wanted.clone() }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.trust.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.trust.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}
