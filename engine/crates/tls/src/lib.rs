//! Workload certificates: what we present, and who a peer is.
//!
//! This crate knows neither HTTP/2 nor sockets of the tunnel nor where certificates come from.

mod certificate;
mod chain;
mod error;
mod peer;
mod pem;
mod profile;
mod revocation;
mod spiffe;
#[cfg(test)]
mod testing;
mod trust_bundle;
mod trust_state;
mod validity;
mod verify;

pub use certificate::{CertificateDetails, KeyPair, WorkloadCertificate, gather_entropy};
pub use error::CertificateError;
pub use peer::{AcceptedPeer, Untrusted};
pub use profile::{Authentication, HBONE, Profile};
pub use revocation::{BadRevocationLists, RevocationLists, Revocations};
pub use spiffe::{PeerIdentityError, peer_identity};
pub use trust_bundle::TrustBundle;
pub use trust_state::RotationChannel;
pub use validity::has_expired;
pub use verify::{explain, is_revoked};
