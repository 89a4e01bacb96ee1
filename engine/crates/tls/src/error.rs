//! What makes a certificate or a trust bundle unusable.

use culvert_core::identity::Identity;

/// Why a certificate is unusable.
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
    /// The leaf has another identity.
    #[error("the certificate names {presented}, not {wanted}")]
    WrongIdentity {
        /// Identities in the leaf.
        presented: String,
        /// Expected identity.
        wanted: Identity,
    },
}
