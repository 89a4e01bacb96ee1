//! The workload identity in a certificate.

use culvert_core::identity::Identity;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum PeerIdentityError {
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    Missing,
    /// The certificate is not X.509.
    #[error("the peer's certificate cannot be parsed")]
    Malformed,
    /// More than one SPIFFE URI.
    #[error("the peer's certificate has more than one SPIFFE identity")]
    Ambiguous,
    /// No URI in the certificate is a workload identity.
    #[error("the peer's certificate has no SPIFFE identity")]
    NoIdentity,
}

/// The one workload identity among a certificate's URIs; URIs of other schemes are skipped.
///
/// # Errors
/// [`PeerIdentityError`] if there is none, or more than one.
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerIdentityError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerIdentityError::Missing)?;
    identities(leaf)?.into_iter().next().ok_or(PeerIdentityError::NoIdentity)
}

/// At most one: with two SPIFFE URIs, one could satisfy a check and the other be taken for the name (X509-SVID, section
/// 2: a validator must reject them). One that is no workload identity counts, so that it cannot hide behind another.
pub(crate) fn identities(leaf: &CertificateDer<'_>) -> Result<Vec<Identity>, PeerIdentityError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| PeerIdentityError::Malformed)?;
    let names = certificate.subject_alternative_name().map_err(|_| PeerIdentityError::Malformed)?;
    let mut spiffe = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .filter(|uri| uri.get(..SPIFFE.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SPIFFE)));
    let first = spiffe.next();
    if spiffe.next().is_some() {
        return Err(PeerIdentityError::Ambiguous);
    }
    Ok(first.and_then(|uri| uri.parse().ok()).into_iter().collect())
}

const SPIFFE: &str = "spiffe:";
