//! How services are named.

use std::sync::Arc;

use culvert_core::Rejection;

/// `namespace/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The namespace of its resource.
    pub namespace: Arc<str>,
    /// Its hostname, or a wildcard.
    pub hostname: Arc<str>,
}

impl ServiceKey {
    /// The key of a service.
    #[must_use]
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self { namespace: namespace.into(), hostname: hostname.into() }
    }

    /// Read `namespace/hostname`.
    ///
    /// # Errors
    /// `text` has another form.
    pub fn parse(field: &str, text: &str) -> Result<Self, Rejection> {
        match text.split_once('/') {
            Some((namespace, hostname)) if !hostname.is_empty() => Ok(Self::new(namespace, hostname)),
            _ => Err(Rejection::new(field, format!("{text:?} is not namespace/hostname"))),
        }
    }
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}
