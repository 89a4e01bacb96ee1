//! Authorities, their certificates, and handshakes in memory, for the tests of this crate.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use culvert_core::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::ServerName;

use crate::{Revocations, TrustBundle, WorkloadCertificate};

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub(crate) const DATABASE: &str = "spiffe://cluster.local/ns/shop/sa/db";

/// A root, or what it has signed to sign below it.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    /// From itself up to below the root; empty at the root.
    intermediates: String,
    roots: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("root")
    }

    pub(crate) fn named(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority_params(name, 1), KeyPair::generate().unwrap()).unwrap();
        Self { intermediates: String::new(), roots: issuer.pem(), issuer }
    }

    /// One below this, with a serial number of its own.
    pub(crate) fn below(&self, name: &str, serial: u64) -> Self {
        let params = authority_params(name, serial);
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        let intermediates = format!("{}{}", issuer.pem(), self.intermediates);
        Self { issuer, intermediates, roots: self.roots.clone() }
    }

    /// Another certificate of this root's, for the same key.
    pub(crate) fn made_anew(&self) -> Self {
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        let issuer = CertifiedIssuer::self_signed(authority_params("root", 2), key).unwrap();
        Self { intermediates: String::new(), roots: issuer.pem(), issuer }
    }

    /// The same, trusting the roots of `other` too.
    pub(crate) fn trusting(mut self, other: &Self) -> Self {
        self.roots.push_str(&other.roots);
        self
    }

    pub(crate) fn roots(&self) -> &[u8] {
        self.roots.as_bytes()
    }

    /// A chain and its key, PEM.
    pub(crate) fn issue(&self, uris: &[&str], serial: u64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        (format!("{leaf}{}", self.intermediates), key.serialize_pem())
    }

    pub(crate) fn certificate(&self, uri: &str) -> WorkloadCertificate {
        self.certificate_of(uri, 7, &Arc::default())
    }

    pub(crate) fn certificate_of(&self, uri: &str, serial: u64, revocations: &Arc<Revocations>) -> WorkloadCertificate {
        self.make(uri, serial, &Arc::new(TrustBundle::from_pem(self.roots()).unwrap()), revocations)
    }

    pub(crate) fn certificate_trusting(&self, uri: &str, roots: &Arc<TrustBundle>) -> WorkloadCertificate {
        self.make(uri, 7, roots, &Arc::default())
    }

    fn make(
        &self,
        uri: &str,
        serial: u64,
        roots: &Arc<TrustBundle>,
        revocations: &Arc<Revocations>,
    ) -> WorkloadCertificate {
        let (chain, key) = self.issue(&[uri], serial);
        let wanted = uri.parse().unwrap();
        WorkloadCertificate::from_pem(&wanted, chain.as_bytes(), key.as_bytes(), roots, revocations).unwrap()
    }
}

fn authority_params(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

/// Both ends after a handshake.
pub(crate) struct Met {
    pub(crate) client: rustls::ClientConnection,
    pub(crate) server: rustls::ServerConnection,
}

/// Shake hands in memory; both ends, or the first error.
pub(crate) fn meet(
    client: &WorkloadCertificate,
    server: &WorkloadCertificate,
    expected: &str,
) -> Result<Met, rustls::Error> {
    let wanted: Arc<[Identity]> = Arc::from([expected.parse::<Identity>().unwrap()]);
    meet_with(client.client_config(wanted)?, server.server_config())
}

/// The same with other configurations.
pub(crate) fn meet_with(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> Result<Met, rustls::Error> {
    let name = ServerName::IpAddress(std::net::IpAddr::from([10, 0, 0, 1]).into());
    let mut client = rustls::ClientConnection::new(client, name)?;
    let mut server = rustls::ServerConnection::new(server)?;
    for _ in 0..4 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(Met { client, server })
}

/// What an operator reads of a failed handshake.
pub(crate) fn explained(error: rustls::Error) -> String {
    crate::explain(&std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// Whether a future has nothing to say yet.
pub(crate) fn is_pending<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> bool {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending()
}
