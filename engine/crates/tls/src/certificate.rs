//! A workload's certificate and the trust bundle, prepared for handshakes.

use std::sync::Arc;

use culvert_core::identity::Identity;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chain::{Chain, PeerRole};
use crate::error::CertificateError;
use crate::peer::{AcceptedPeer, Untrusted};
use crate::pem::{pem_certificates, to_pem};
use crate::profile::{Authentication, HBONE, Profile, provider};
use crate::revocation::Revocations;
use crate::spiffe::identities;
use crate::trust_bundle::TrustBundle;
use crate::trust_state::{RotationChannel, TrustState, issuing_root};
use crate::verify::{ExpectedIdentities, Trust, TrustDomainVerifier};

/// One certificate, for the configuration dump.
#[derive(Debug, Clone)]
pub struct CertificateDetails {
    /// PEM text.
    pub pem: String,
    /// Serial number, decimal.
    pub serial: String,
    /// Start of validity, seconds since the epoch.
    pub not_before: i64,
    /// End of validity, seconds since the epoch.
    pub not_after: i64,
}

/// A workload's certificate chain and private key. Peers are verified with the trust bundle of a [`WorkloadCertificate`].
#[derive(Debug)]
pub struct KeyPair {
    identity: Identity,
    not_after: i64,
    chain: Vec<CertificateDer<'static>>,
    resolver: Arc<SingleCertAndKey>,
}

impl KeyPair {
    /// Read a chain (leaf first) and its key from PEM.
    ///
    /// # Errors
    /// [`CertificateError`], for the first part that is unusable.
    pub fn from_pem(wanted: &Identity, chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = pem_certificates(chain).map_err(CertificateError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| CertificateError::Key(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| CertificateError::Chain("empty".into()))?;
        let presented = identities(leaf).map_err(|error| CertificateError::Chain(error.to_string()))?;
        if presented.first() != Some(wanted) {
            return Err(CertificateError::WrongIdentity {
                presented: format!("{presented:?}"),
                wanted: wanted.clone(),
            });
        }
        let not_after = details(leaf).map_err(CertificateError::Chain)?.not_after;
        let certified = CertifiedKey::from_der(chain.clone(), key, &provider())
            .map_err(|error| CertificateError::Key(error.to_string()))?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(Self { identity: wanted.clone(), not_after, chain, resolver })
    }
}

/// A workload's certificate, key and roots, prepared for handshakes. Immutable; a renewal is a new one.
#[derive(Debug)]
pub struct WorkloadCertificate {
    pair: Arc<KeyPair>,
    server: Arc<ServerConfig>,
    trust: Trust,
    state: TrustState,
    rotation: RotationChannel,
}

impl WorkloadCertificate {
    /// Prepare a certificate. Peers are verified with `roots` and with the revocation lists in force.
    ///
    /// # Errors
    /// [`CertificateError::Roots`] where peers cannot be verified with them.
    pub fn new(
        pair: Arc<KeyPair>,
        roots: &Arc<TrustBundle>,
        revocations: &Arc<Revocations>,
    ) -> Result<Self, CertificateError> {
        let trust = Trust { bundle: roots.clone(), provider: provider(), revocations: revocations.clone() };
        let server = server_config(&trust, pair.resolver.clone(), &pair.identity, &HBONE)?;
        let (leaf, intermediates) = pair.chain.split_first().ok_or_else(|| CertificateError::Chain("empty".into()))?;
        let presented = Chain {
            leaf,
            intermediates,
            roots: &[],
            algorithms: trust.provider.signature_verification_algorithms.all,
            at: UnixTime::now(),
            role: PeerRole::Server,
        };
        let state = TrustState { bundle: roots.clone(), issuing_root: issuing_root(roots, &presented) };
        Ok(Self { pair, server, trust, state, rotation: RotationChannel::default() })
    }

    /// The same, from PEM.
    ///
    /// # Errors
    /// [`CertificateError`], for the first part that is unusable.
    pub fn from_pem(
        wanted: &Identity,
        chain: &[u8],
        key: &[u8],
        roots: &Arc<TrustBundle>,
        revocations: &Arc<Revocations>,
    ) -> Result<Self, CertificateError> {
        Self::new(Arc::new(KeyPair::from_pem(wanted, chain, key)?), roots, revocations)
    }

    /// Use `rotation`, the channel of this identity's earlier certificates, so that their tunnels learn of changes.
    pub fn subscribe_to(&mut self, rotation: &RotationChannel) {
        self.rotation = rotation.clone();
    }

    /// Publish this certificate's trust state to those tunnels. Call it once new tunnels use this certificate.
    pub fn publish(&self) {
        self.rotation.0.send_replace(Some(self.state.clone()));
    }

    /// Whose certificate this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.pair.identity
    }

    /// End of validity, seconds since the epoch.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.pair.not_after
    }

    /// Configuration of an HBONE server: accepts clients of its own trust domain.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Configuration of a server of another profile.
    ///
    /// # Errors
    /// The profile's versions cannot be had, or the roots cannot verify clients.
    pub fn server_config_for(&self, profile: &Profile) -> Result<Arc<ServerConfig>, CertificateError> {
        server_config(&self.trust, self.pair.resolver.clone(), &self.pair.identity, profile)
    }

    /// Configuration of an HBONE client that accepts a server with one of the identities `wanted`.
    ///
    /// # Errors
    /// Never with the built-in provider and versions, although rustls' type allows it.
    pub fn client_config(&self, wanted: Arc<[Identity]>) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.client_config_for(wanted, &HBONE)
    }

    /// The same for another profile.
    ///
    /// # Errors
    /// The profile's versions cannot be had.
    pub fn client_config_for(
        &self,
        wanted: Arc<[Identity]>,
        profile: &Profile,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let verifier = ExpectedIdentities { trust: self.trust.clone(), wanted };
        let builder = ClientConfig::builder_with_provider(profile.extend(&self.trust.provider))
            .with_protocol_versions(profile.versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match profile.authentication {
            Authentication::Mutual => builder.with_client_cert_resolver(self.pair.resolver.clone()),
            Authentication::ServerOnly => builder.with_no_client_auth(),
        };
        config.alpn_protocols = profile.alpn_protocols();
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The client whose chain passed [`Self::server_config`].
    #[must_use]
    pub fn accepted_client(&self, chain: Option<&[CertificateDer<'_>]>) -> AcceptedPeer {
        self.trust.accepted(PeerRole::Client, chain, &self.state, &self.rotation)
    }

    /// The server whose chain passed [`Self::client_config`].
    #[must_use]
    pub fn accepted_server(&self, chain: Option<&[CertificateDer<'_>]>) -> AcceptedPeer {
        self.trust.accepted(PeerRole::Server, chain, &self.state, &self.rotation)
    }

    /// Why peers of the same mesh would not trust this certificate, apart from its expiry.
    #[must_use]
    pub fn distrusted(&self) -> Option<Untrusted> {
        let as_peer = self.accepted_server(Some(&self.pair.chain));
        if as_peer.is_revoked_by(&self.trust.revocations.current()) {
            return Some(Untrusted::Revoked);
        }
        self.state.issuing_root.is_none().then_some(Untrusted::RootRemoved)
    }

    /// The chain, leaf first, and the roots, for the configuration dump.
    #[must_use]
    pub fn details(&self) -> (Vec<CertificateDetails>, Vec<CertificateDetails>) {
        let all = |list: &[CertificateDer<'_>]| list.iter().filter_map(|der| details(der).ok()).collect();
        (all(&self.pair.chain), all(&self.state.bundle.der))
    }
}

/// Seed the random number generator, which takes some 30 ms once per process and would delay the first handshake.
pub fn gather_entropy() {
    // If it fails, the handshake fails too and reports it.
    let _ = provider().secure_random.fill(&mut [0; 32]);
}

fn server_config(
    trust: &Trust,
    resolver: Arc<dyn rustls::server::ResolvesServerCert>,
    identity: &Identity,
    profile: &Profile,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let builder = ServerConfig::builder_with_provider(profile.extend(&trust.provider))
        .with_protocol_versions(profile.versions)
        .map_err(|error| CertificateError::Key(error.to_string()))?;
    let builder = match profile.authentication {
        Authentication::Mutual => {
            let verifier = TrustDomainVerifier::new(trust.clone(), identity.trust_domain())
                .map_err(|error| CertificateError::Roots(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        Authentication::ServerOnly => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = profile.alpn_protocols();
    // Clients of the mesh never resume a session, so tickets would be wasted. A resumed session would also bypass the
    // revocation lists.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn details(der: &CertificateDer<'_>) -> Result<CertificateDetails, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let validity = certificate.validity();
    Ok(CertificateDetails {
        pem: to_pem(der),
        serial: certificate.tbs_certificate.serial.to_string(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

#[cfg(test)]
#[path = "certificate/tests.rs"]
mod tests;
