//! One workload's certificate with the roots it was issued under, made ready for handshakes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_core::identity::Identity;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::peer::{AcceptedPeer, Chain, PeerRole};
use crate::revocation::Revocations;
use crate::roots::{self, Ground, Succession, TrustBundle};
use crate::verify::{ExpectedIdentities, Trust, TrustDomainVerifier, identities};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain holds no certificate, or one that is not X.509.
    #[error("certificate chain: {0}")]
    Chain(String),
    /// The private key cannot be used with the chain.
    #[error("private key: {0}")]
    Key(String),
    /// The trust bundle holds no usable root.
    #[error("trust bundle: {0}")]
    Roots(String),
    /// The leaf is somebody else's.
    #[error("the certificate names {presented}, not {wanted}")]
    WrongIdentity {
        /// What the leaf says.
        presented: String,
        /// What it should say.
        wanted: Identity,
    },
}

/// What an operator sees of one certificate.
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

/// A workload's certificate, key and roots. Immutable; a renewal is a new one.
#[derive(Debug)]
pub struct WorkloadCertificate {
    identity: Identity,
    not_after: i64,
    server: Arc<ServerConfig>,
    client: ClientParts,
    chain: Vec<CertificateDer<'static>>,
    ground: Ground,
    succession: Succession,
}

#[derive(Debug)]
struct ClientParts {
    trust: Trust,
    resolver: Arc<dyn rustls::client::ResolvesClientCert>,
}

const ALPN: &[u8] = b"h2";

impl WorkloadCertificate {
    /// Make a certificate ready from PEM. Peers are held against `roots`, and against what `revocations` has at the time.
    ///
    /// # Errors
    /// [`CertificateError`]: nothing half-usable is returned.
    pub fn from_pem(
        wanted: &Identity,
        chain: &[u8],
        key: &[u8],
        roots: &Arc<TrustBundle>,
        revocations: &Arc<Revocations>,
    ) -> Result<Self, CertificateError> {
        let chain = pem_certificates(chain).map_err(CertificateError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| CertificateError::Key(error.to_string()))?;
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| CertificateError::Chain("empty".into()))?;
        let presented = identities(leaf).map_err(|error| CertificateError::Chain(error.to_string()))?;
        if presented.first() != Some(wanted) {
            return Err(CertificateError::WrongIdentity {
                presented: format!("{presented:?}"),
                wanted: wanted.clone(),
            });
        }
        let not_after = details(leaf).map_err(CertificateError::Chain)?.not_after;

        let trust = Trust { bundle: roots.clone(), provider: provider(), revocations: revocations.clone() };
        let presented = Chain {
            leaf,
            intermediates,
            roots: &[],
            algorithms: trust.provider.signature_verification_algorithms.all,
            at: UnixTime::now(),
            role: PeerRole::Server,
        };
        let ground = Ground { bundle: roots.clone(), own: roots::foundation(roots, &presented) };
        let certified = rustls::sign::CertifiedKey::from_der(chain.clone(), key, &trust.provider)
            .map_err(|error| CertificateError::Key(error.to_string()))?;
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let server = server_config(&trust, resolver.clone(), wanted)?;
        let client = ClientParts { trust, resolver };
        let succession = Succession::default();
        Ok(Self { identity: wanted.clone(), not_after, server, client, chain, ground, succession })
    }

    /// Take the place of those that were in `succession`: tunnels that they have made hear of what is different.
    pub fn succeed(&mut self, succession: &Succession) {
        self.succession = succession.clone();
    }

    /// Tell those tunnels; when new ones are made with this certificate.
    pub fn take_over(&self) {
        self.succession.0.send_replace(Some(self.ground.clone()));
    }

    /// Whose certificate this is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// End of validity, seconds since the epoch.
    #[must_use]
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// For HBONE servers: clients of the own trust domain only.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For an HBONE client that expects one of `wanted`.
    ///
    /// # Errors
    /// Not with the provider and versions built in; rustls' type says it could.
    pub fn client_config(&self, wanted: Arc<[Identity]>) -> Result<Arc<ClientConfig>, rustls::Error> {
        let ClientParts { trust, resolver } = &self.client;
        let verifier = ExpectedIdentities { trust: trust.clone(), wanted };
        let mut config = ClientConfig::builder_with_provider(trust.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// A client that has proved itself to [`Self::server_config`], by the chain that it presented.
    #[must_use]
    pub fn accepted_client(&self, chain: Option<&[CertificateDer<'_>]>) -> AcceptedPeer {
        self.client.trust.accepted(PeerRole::Client, chain, &self.ground, &self.succession)
    }

    /// A server that has proved itself to [`Self::client_config`], by the chain that it presented.
    #[must_use]
    pub fn accepted_server(&self, chain: Option<&[CertificateDer<'_>]>) -> AcceptedPeer {
        self.client.trust.accepted(PeerRole::Server, chain, &self.ground, &self.succession)
    }

    /// The chain, leaf first, and the roots, for an operator.
    #[must_use]
    pub fn details(&self) -> (Vec<CertificateDetails>, Vec<CertificateDetails>) {
        let all = |list: &[CertificateDer<'_>]| list.iter().filter_map(|der| details(der).ok()).collect();
        (all(&self.chain), all(&self.ground.bundle.der))
    }
}

/// Have the generator of random numbers gather entropy, which takes it some 30 ms once in a process: what would wait else
/// is the first handshake.
pub fn gather_entropy() {
    // Where it fails the handshake does too, and tells.
    let _ = provider().secure_random.fill(&mut [0; 32]);
}

/// AES-128 first: half the rounds saved are a fifth of the bulk cost, and every peer offers both.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::X25519MLKEM768,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn server_config(
    trust: &Trust,
    resolver: Arc<dyn rustls::server::ResolvesServerCert>,
    identity: &Identity,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let verifier = TrustDomainVerifier::new(trust.clone(), identity.trust_domain())
        .map_err(|error| CertificateError::Roots(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(trust.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CertificateError::Key(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Clients of the mesh do not resume, so tickets would be bytes and state for nobody. Who resumed would also be spared
    // the look at revocation lists.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

pub(crate) fn pem_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if all.is_empty() { Err("holds no PEM certificate".into()) } else { Ok(all) }
}

/// Seconds since the epoch.
pub(crate) fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a certificate that is good until `not_after`, seconds since the epoch, is good no more.
#[must_use]
pub fn has_expired(not_after: i64) -> bool {
    seconds_now() >= not_after
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

fn to_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    use std::fmt::Write as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
#[path = "certificate/tests.rs"]
mod tests;
