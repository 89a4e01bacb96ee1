#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::testing::{Authority, DATABASE, WEB, explained, meet, meet_with};

/// Shake hands in memory; the server's view of the peer, or the first error.
fn handshake(
    client: &WorkloadCertificate,
    server: &WorkloadCertificate,
    expected: &str,
) -> Result<Identity, rustls::Error> {
    let met = meet(client, server, expected)?;
    assert_eq!(met.server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(met.server.server_name(), None, "HBONE sends no SNI");
    Ok(crate::peer_identity(met.server.peer_certificates()).unwrap())
}

fn from_pem(wanted: &str, chain: &str, key: &str, roots: &[u8]) -> Result<WorkloadCertificate, CertificateError> {
    let (roots, revocations) = (Arc::new(TrustBundle::from_pem(roots)?), Arc::default());
    WorkloadCertificate::from_pem(&wanted.parse().unwrap(), chain.as_bytes(), key.as_bytes(), &roots, &revocations)
}

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
    let (chain, key) = ca.issue(&[DATABASE], 1);
    let error = from_pem(WEB, &chain, &key, ca.roots()).unwrap_err();
    assert!(matches!(error, CertificateError::WrongIdentity { .. }), "{error}");
}

#[test]
fn the_one_uri_of_the_scheme_is_the_peer() {
    let ca = Authority::new();
    let peer = |uris: &[&str]| {
        let der = CertificateDer::from_pem_slice(ca.issue(uris, 1).0.as_bytes()).unwrap();
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
    let (chain, _) = ca.issue(&[WEB], 1);
    let (_, other_key) = ca.issue(&[WEB], 1);
    let result = from_pem(WEB, &chain, &other_key, ca.roots());
    assert!(matches!(result, Err(CertificateError::Key(_))), "{result:?}");
}

/// For browsers, and for those that know less.
const FOR_ALL: Profile = Profile {
    alpn: &[b"h2", b"http/1.1"],
    versions: &[&rustls::version::TLS13, &rustls::version::TLS12],
    authentication: Authentication::ServerOnly,
};
const OLD: Profile = Profile { alpn: &[b"http/1.1"], versions: &[&rustls::version::TLS12], ..FOR_ALL };
const MUTUAL: Profile = Profile { authentication: Authentication::Mutual, ..FOR_ALL };

#[test]
fn another_profile_has_its_own_protocols_versions_and_authentication() {
    use rustls::ProtocolVersion;
    let (ca, wanted) = (Authority::new(), Arc::from([DATABASE.parse::<Identity>().unwrap()]));
    let (client, server) = (ca.certificate(WEB), ca.certificate(DATABASE));
    let meet = |of_client: Profile, of_server: Profile| {
        let client = client.client_config_for(Arc::clone(&wanted), &of_client).unwrap();
        meet_with(client, server.server_config_for(&of_server).unwrap())
    };
    let met = meet(OLD, FOR_ALL).unwrap();
    assert_eq!(met.server.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(met.server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(met.server.peer_certificates(), None);
    let met = meet(MUTUAL, MUTUAL).unwrap();
    assert_eq!(met.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(crate::peer_identity(met.server.peer_certificates()).unwrap().as_str(), WEB);
    assert!(meet(FOR_ALL, MUTUAL).is_err(), "a client without a certificate");
    assert!(meet(OLD, HBONE).is_err(), "a client of an old version");
}
