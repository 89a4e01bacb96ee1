//! Workload certificates: what we present, and who a peer is.
//!
//! This crate knows neither HTTP/2 nor sockets of the tunnel nor where certificates come from.

mod certificate;
mod verify;

pub use certificate::{CertificateDetails, CertificateError, WorkloadCertificate};
pub use verify::{PeerIdentityError, explain, peer_identity};
