//! PEM from the CA and certificates of peers.
//!
//! Input: chain, key and roots, divided by NUL bytes.

#![no_main]

use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_tls::{TrustBundle, WorkloadCertificate, peer_identity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let wanted = Identity::new("cluster.local", "shop", "web").expect("is one");
    let mut parts = data.split(|&byte| byte == 0);
    let (chain, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (roots, revocations) = (parts.next().unwrap_or_default(), Arc::default());
    if let Ok(roots) = TrustBundle::from_pem(roots)
        && let Ok(certificate) = WorkloadCertificate::from_pem(&wanted, chain, key, &Arc::new(roots), &revocations)
    {
        assert_eq!(certificate.identity(), &wanted);
        let _ = certificate.details();
    }
    // A peer's leaf is DER, straight from the wire.
    let _ = peer_identity(Some(&[data.to_vec().into()]));
});
