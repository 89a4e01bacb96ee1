//! Until when a certificate is valid.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Seconds since the epoch.
pub(crate) fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a certificate with this `not_after`, in seconds since the epoch, has expired.
#[must_use]
pub fn has_expired(not_after: i64) -> bool {
    seconds_now() >= not_after
}

/// End of validity, seconds since the epoch; `None` if it is not X.509.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
