//! How a connection ended.

use std::io;

use culvert_hbone::Error;

/// Why a connection ended early; `-` when it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// It ended in order, or after it was established.
    None,
    /// Policy denies it.
    Denied,
    /// No connection to the destination could be opened.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The HTTP/2 handshake failed.
    Http2,
    /// We have no certificate.
    Identity,
    /// A certificate of the peer's chain is revoked.
    Revoked,
    /// The root of the peer's certificate is not trusted any more.
    RootRemoved,
    /// The destination is not in the registry, and the mesh allows no other.
    NotInRegistry,
}

impl ResponseFlag {
    /// Set where a peer that was trusted is no more.
    #[must_use]
    pub fn of_trust(error: &Error) -> Option<Self> {
        match error {
            Error::RootRemoved => Some(Self::RootRemoved),
            revoked if revoked.is_revoked() => Some(Self::Revoked),
            _ => None,
        }
    }

    /// Whether the way to the peer failed, and not the peer's own answer.
    pub(crate) const fn is_of_transport(self) -> bool {
        matches!(self, Self::Tls | Self::Http2 | Self::Identity | Self::Revoked | Self::RootRemoved)
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::Connect => "CONNECT",
            Self::Tls => "TLS_FAILURE",
            Self::Http2 => "H2_HANDSHAKE_FAILURE",
            Self::Identity => "IDENTITY_ERROR",
            Self::Revoked => "CERT_REVOKED",
            Self::RootRemoved => "CERT_UNTRUSTED",
            Self::NotInRegistry => "NOT_IN_REGISTRY",
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub struct FlowEnd {
    /// Why it ended early.
    pub flag: ResponseFlag,
    /// What went wrong, for the access log.
    pub error: Option<String>,
}

impl FlowEnd {
    /// How carrying bytes ended.
    pub fn of<E: Into<Self>>(result: Result<(), E>) -> Self {
        result.map_or_else(Into::into, |()| Self { flag: ResponseFlag::None, error: None })
    }

    /// It failed with an error.
    pub fn failed(flag: ResponseFlag, error: impl std::fmt::Display) -> Self {
        Self { flag, error: Some(error.to_string()) }
    }
}

impl From<io::Error> for FlowEnd {
    fn from(error: io::Error) -> Self {
        Self::failed(ResponseFlag::None, error)
    }
}

impl From<Error> for FlowEnd {
    fn from(error: Error) -> Self {
        let flag = ResponseFlag::of_trust(&error).unwrap_or(ResponseFlag::None);
        Self::failed(flag, error)
    }
}
