//! Revocation lists: PEM as it comes from the node agent, and its content.

#![no_main]

use base64::Engine as _;
use culvert_tls::{RevocationLists, Revocations};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = RevocationLists::from_pem(data);
    // The same as the inside of a good frame: mutations of base64 would hardly ever get that far.
    let text = base64::engine::general_purpose::STANDARD.encode(data);
    let pem = format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n");
    if let Ok(lists) = RevocationLists::from_pem(pem.as_bytes()) {
        assert_eq!(lists.len(), 1);
        let revocations = Revocations::default();
        revocations.replace(lists);
        assert!(!revocations.current().is_empty());
    }
});
