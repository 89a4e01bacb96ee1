//! Workload identities in SPIFFE form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The whole URI; the parts are ranges of it, so one allocation serves all.
    uri: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// A string is not a workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a workload identity; expected spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
pub struct InvalidIdentity(pub String);

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

impl Identity {
    /// Build an identity from its parts: letters, digits, `-`, `.` and `_`.
    ///
    /// # Errors
    /// [`InvalidIdentity`] where a part is empty or holds anything else.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, InvalidIdentity> {
        format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{ACCOUNT}{service_account}").parse()
    }

    /// The trust domain, as `cluster.local`.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..usize::from(self.trust_domain_end)).unwrap_or_default()
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let start = usize::from(self.trust_domain_end) + NAMESPACE.len();
        self.uri.get(start..usize::from(self.namespace_end)).unwrap_or_default()
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.uri.get(usize::from(self.namespace_end) + ACCOUNT.len()..).unwrap_or_default()
    }

    /// The form that policies compare: without `spiffe://`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }
}

/// What SPIFFE allows between slashes (SPIFFE-ID, sections 2.1 and 2.2). A NUL, a user, a port, a query, a fragment or an
/// escape is a forgery, never a Kubernetes object (CVE-2025-66220, CVE-2026-47778).
fn is_name(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let invalid = || InvalidIdentity(uri.to_owned());
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(invalid)?.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        if ![domain, namespace, account].into_iter().all(is_name) {
            return Err(invalid());
        }
        let trust_domain_end = SCHEME.len() + domain.len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end: u16::try_from(trust_domain_end).map_err(|_| invalid())?,
            namespace_end: u16::try_from(namespace_end).map_err(|_| invalid())?,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn parts_of_an_identity() {
        let id: Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "web"));
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
        assert_eq!(id, Identity::new("cluster.local", "shop", "web").unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        for uri in [
            "",
            "spiffe://",
            "cluster.local/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/NS/a/sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/a/sa/b%2fc",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td:443/ns/a/sa/b",
            "spiffe://*/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b ",
            "spiffe://td/ns/\u{430}/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?}");
        }
    }
}
