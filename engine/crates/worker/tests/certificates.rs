//! Certificates and roots come separately, in any order, and bad ones replace no good one.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use culvert_core::identity::Identity;
use culvert_tls::WorkloadCertificate;
use culvert_worker::{CertificateState, CertificateUse, Certificates, Events};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

async fn held(used: &CertificateUse) -> Result<Arc<WorkloadCertificate>, String> {
    used.get(Duration::ZERO).await
}

fn roots(certificate: &WorkloadCertificate) -> String {
    certificate.details().1.iter().map(|root| root.pem.as_str()).collect()
}

#[tokio::test]
async fn roots_and_certificates_come_in_any_order_and_the_last_good_of_each_is_in_force() {
    let certificates = Certificates::new(Arc::new(Events::new().unwrap()));
    let identity: Identity = WEB.parse().unwrap();
    let used = certificates.want(&identity);
    let (one, other) = (authority(), authority());
    let ((chain, key), (_, wrong)) = (issue(&one), issue(&other));

    certificates.set_certificate(&identity, chain.as_bytes(), key.as_bytes()).unwrap();
    assert!(held(&used).await.is_err(), "there are no roots yet");
    certificates.set_trust_bundle(one.pem().as_bytes()).unwrap();
    let first = held(&used).await.unwrap();

    certificates.set_certificate(&identity, chain.as_bytes(), wrong.as_bytes()).unwrap_err();
    certificates.set_trust_bundle(b"no roots").unwrap_err();
    assert!(Arc::ptr_eq(&held(&used).await.unwrap(), &first));
    certificates.set_trust_bundle(one.pem().as_bytes()).unwrap();
    assert!(Arc::ptr_eq(&held(&used).await.unwrap(), &first), "the same roots change nothing");

    let both = one.pem() + &other.pem();
    certificates.set_trust_bundle(both.as_bytes()).unwrap();
    let second = held(&used).await.unwrap();
    assert_eq!(roots(&first).matches("BEGIN").count(), 1);
    assert_eq!(roots(&second).matches("BEGIN").count(), 2);
    assert!(first.details().0.iter().map(|one| &one.pem).eq(second.details().0.iter().map(|one| &one.pem)));
}

#[tokio::test]
async fn a_withdrawn_certificate_is_used_with_new_roots_while_it_is_valid() {
    let certificates = Certificates::new(Arc::new(Events::new().unwrap()));
    let identity: Identity = WEB.parse().unwrap();
    let used = certificates.want(&identity);
    let (one, other) = (authority(), authority());
    let (chain, key) = issue(&one);
    certificates.set_trust_bundle((one.pem() + &other.pem()).as_bytes()).unwrap();
    certificates.set_certificate(&identity, chain.as_bytes(), key.as_bytes()).unwrap();
    certificates.unavailable(&identity, "withdrawn".to_owned());
    certificates.set_trust_bundle(one.pem().as_bytes()).unwrap();
    assert_eq!(roots(&held(&used).await.unwrap()).matches("BEGIN").count(), 1);
    drop(used);
    certificates.set_certificate(&identity, chain.as_bytes(), key.as_bytes()).unwrap();
    assert!(certificates.all().is_empty(), "nothing is kept of an identity that is not served");
    let again = certificates.want(&identity);
    assert!(matches!(certificates.all().first(), Some((_, CertificateState::Initializing))));
    drop(again);
}
