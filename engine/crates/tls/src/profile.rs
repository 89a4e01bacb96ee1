//! What a TLS connection is for: the protocols and versions that it offers, and who presents a certificate.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Protocols (ALPN), the preferred one first.
    pub alpn: &'static [&'static [u8]],
    /// Versions of TLS.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Who presents a certificate.
    pub authentication: Authentication,
}

/// Who presents a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// Both ends; the server accepts clients of its own trust domain.
    Mutual,
    /// The server alone.
    ServerOnly,
}

/// The tunnels of the mesh.
pub const HBONE: Profile = Profile { alpn: &[b"h2"], versions: &[&TLS13], authentication: Authentication::Mutual };

impl Profile {
    /// `provider`, with cipher suites for all of the profile's versions.
    pub(crate) fn extend(&self, provider: &Arc<CryptoProvider>) -> Arc<CryptoProvider> {
        if !self.versions.contains(&&TLS12) {
            return provider.clone();
        }
        let mut made = CryptoProvider::clone(provider);
        let defaults = aws_lc_rs::default_provider().cipher_suites;
        made.cipher_suites.extend(defaults.into_iter().filter(|suite| suite.version() == &TLS12));
        Arc::new(made)
    }

    pub(crate) fn alpn_protocols(&self) -> Vec<Vec<u8>> {
        self.alpn.iter().map(|protocol| protocol.to_vec()).collect()
    }
}

/// AES-128 comes first: fewer rounds save a fifth of the cost of bulk transfer, and every peer offers both suites.
pub(crate) fn provider() -> Arc<CryptoProvider> {
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
