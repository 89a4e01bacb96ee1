//! Workload certificates: what we present, and who a peer is.
//!
//! This crate knows neither HTTP/2 nor sockets of the tunnel nor where certificates come from.

mod certificate;
mod peer;
mod revocation;
mod roots;
#[cfg(test)]
mod testing;
mod verify;

pub use certificate::{
    CertificateDetails, CertificateError, KeyPair, WorkloadCertificate, gather_entropy, has_expired,
};
pub use peer::{AcceptedPeer, Untrusted};
pub use revocation::{BadRevocationLists, RevocationLists, Revocations};
pub use roots::{RotationChannel, TrustBundle};
pub use verify::{PeerIdentityError, explain, is_revoked, peer_identity};
