//! What can go wrong with a tunnel or one of its streams.

use std::io;

use culvert_tls::Untrusted;

/// Why a stream could not be opened or ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TCP connection to the peer.
    #[error("connection to the peer failed: {0}")]
    Dial(#[source] io::Error),
    /// The peer is not who it should be, or does not take us for whom we are.
    #[error("TLS handshake failed: {}", culvert_tls::explain(.0))]
    Tls(#[source] io::Error),
    /// The peer does not speak HTTP/2.
    #[error("HTTP/2 handshake failed: {0}")]
    Handshake(#[source] h2::Error),
    /// The tunnel or the stream broke.
    #[error("tunnel: {0}")]
    Tunnel(#[from] h2::Error),
    /// The application's side broke.
    #[error("application: {0}")]
    Application(#[source] io::Error),
    /// The peer answered the CONNECT with something else than 200.
    #[error("http status: {0}")]
    Refused(http::StatusCode),
    /// A step took too long.
    #[error("{0} timed out")]
    Timeout(&'static str),
    /// The peer's certificate, or one above it, was revoked while the tunnel stood.
    #[error("connection closed: peer certificate revoked by CRL")]
    Revoked,
    /// The root of the peer's certificate left the trust bundle while the tunnel stood.
    #[error("connection closed: the root of the peer's certificate is not trusted any more")]
    RootRemoved,
    /// A request could not be formed.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// Our own certificate is missing or unusable.
    #[error("certificate: {0}")]
    Certificate(String),
}

impl From<Untrusted> for Error {
    fn from(untrusted: Untrusted) -> Self {
        match untrusted {
            Untrusted::Revoked => Self::Revoked,
            Untrusted::RootRemoved => Self::RootRemoved,
        }
    }
}

impl Error {
    /// Whether the peer is refused because its certificate, or one above it, is revoked.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        match self {
            Self::Revoked => true,
            Self::Tls(error) => culvert_tls::is_revoked(error),
            _ => false,
        }
    }

    /// Whether another tunnel might carry the same stream: the peer never answered it, and may just be going away.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self {
            Self::Tunnel(_) => true,
            Self::Tls(error) => matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof),
            Self::Handshake(error) => error.is_io(),
            _ => false,
        }
    }
}
