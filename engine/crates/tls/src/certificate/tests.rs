#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, uris: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn certificate(&self, uri: &str) -> WorkloadCertificate {
        let (chain, key) = self.issue(&[uri]);
        WorkloadCertificate::from_pem(&uri.parse().unwrap(), chain.as_bytes(), key.as_bytes(), self.0.pem().as_bytes())
            .unwrap()
    }
}

/// Shake hands in memory; the server's view of the peer, or the first error.
fn handshake(
    client: &WorkloadCertificate,
    server: &WorkloadCertificate,
    expected: &str,
) -> Result<Identity, rustls::Error> {
    let wanted: Arc<[Identity]> = Arc::from([expected.parse::<Identity>().unwrap()]);
    let name = rustls_pki_types::ServerName::IpAddress(std::net::IpAddr::from([10, 0, 0, 1]).into());
    let mut client = rustls::ClientConnection::new(client.client_config(wanted)?, name)?;
    let mut server = rustls::ServerConnection::new(server.server_config())?;
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
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.server_name(), None, "HBONE sends no SNI");
    Ok(crate::peer_identity(server.peer_certificates()).unwrap())
}

/// What an operator reads of a failed handshake.
fn explained(error: rustls::Error) -> String {
    crate::explain(&std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DATABASE: &str = "spiffe://cluster.local/ns/shop/sa/db";

#[test]
fn peers_of_one_trust_domain_meet() {
    let ca = Authority::new();
    let seen = handshake(&ca.certificate(WEB), &ca.certificate(DATABASE), DATABASE).unwrap();
    assert_eq!(seen.as_str(), WEB);
}

#[test]
fn a_server_of_another_identity_is_refused() {
    let ca = Authority::new();
    let error = handshake(&ca.certificate(WEB), &ca.certificate(DATABASE), WEB).unwrap_err();
    assert!(explained(error).contains("is none of"));
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    let ca = Authority::new();
    let foreign = ca.certificate("spiffe://elsewhere/ns/shop/sa/web");
    let error = handshake(&foreign, &ca.certificate(DATABASE), DATABASE).unwrap_err();
    assert!(explained(error).contains("trust domain"));
}

#[test]
fn a_chain_to_another_root_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    assert!(handshake(&theirs.certificate(WEB), &ours.certificate(DATABASE), DATABASE).is_err());
    assert!(handshake(&ours.certificate(WEB), &theirs.certificate(DATABASE), DATABASE).is_err());
}

#[test]
fn a_certificate_of_somebody_else_is_not_taken() {
    let ca = Authority::new();
    let (chain, key) = ca.issue(&[DATABASE]);
    let error =
        WorkloadCertificate::from_pem(&WEB.parse().unwrap(), chain.as_bytes(), key.as_bytes(), ca.0.pem().as_bytes())
            .unwrap_err();
    assert!(matches!(error, CertificateError::WrongIdentity { .. }), "{error}");
}

#[test]
fn the_one_uri_of_the_scheme_is_the_peer() {
    let ca = Authority::new();
    let peer = |uris: &[&str]| {
        let der = CertificateDer::from_pem_slice(ca.issue(uris).0.as_bytes()).unwrap();
        crate::peer_identity(Some(&[der])).map_err(|error| error.to_string())
    };
    assert_eq!(peer(&["https://example.com/", WEB]).unwrap().as_str(), WEB);
    assert!(peer(&[WEB, DATABASE]).unwrap_err().contains("more than one"));
    assert!(peer(&["SPIFFE://other/x", WEB]).unwrap_err().contains("more than one"));
    assert!(peer(&["https://example.com/"]).unwrap_err().contains("no SPIFFE"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Authority::new();
    let (chain, _) = ca.issue(&[WEB]);
    let (_, other_key) = ca.issue(&[WEB]);
    let result = WorkloadCertificate::from_pem(
        &WEB.parse().unwrap(),
        chain.as_bytes(),
        other_key.as_bytes(),
        ca.0.pem().as_bytes(),
    );
    assert!(matches!(result, Err(CertificateError::Key(_))), "{result:?}");
}
