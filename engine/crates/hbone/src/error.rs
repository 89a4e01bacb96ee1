//! What can go wrong with a tunnel or one of its streams.

use std::fmt::{self, Write as _};
use std::io;

use culvert_tls::Untrusted;

/// Characters that are shown of an error of HTTP/2: with a GOAWAY, a peer may send as much text as a frame holds, and each
/// of its streams would log it.
const SHOWN: usize = 300;

struct Brief<'a>(&'a h2::Error);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut limited = Limited { out: f, left: SHOWN };
        match write!(limited, "{}", self.0) {
            // Given up at the limit, to be spared the rest.
            Err(_) if limited.left == 0 => limited.out.write_str("..."),
            other => other,
        }
    }
}

struct Limited<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Limited<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.out.write_char(char)?;
        }
        Ok(())
    }
}

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
    #[error("HTTP/2 handshake failed: {}", Brief(.0))]
    Handshake(#[source] h2::Error),
    /// The tunnel or the stream broke.
    #[error("tunnel: {}", Brief(.0))]
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
    /// The peer's certificate, or one above it, was revoked while the tunnel was open.
    #[error("connection closed: peer certificate revoked by CRL")]
    Revoked,
    /// The root of the peer's certificate left the trust bundle while the tunnel was open.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What a client makes of a server that says goodbye with this text.
    async fn goodbye(text: &[u8]) -> Error {
        let (mut server, client) = tokio::io::duplex(4 << 20);
        let builder = h2::client::Builder::new().max_frame_size(1 << 20).handshake::<_, bytes::Bytes>(client);
        let (_send, connection) = builder.await.unwrap();
        server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let [_, length @ ..] = u32::try_from(8 + text.len()).unwrap().to_be_bytes();
        let frame = [length.as_slice(), &[7, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 0, 0, 2], text].concat();
        server.write_all(&frame).await.unwrap();
        Error::Tunnel(connection.await.unwrap_err())
    }

    #[tokio::test]
    async fn a_goaway_as_long_as_a_frame_is_one_short_line() {
        let short = goodbye(b"because").await.to_string();
        assert!(short.contains("(b\"because\")"), "{short}");
        for text in [vec![0; 1 << 19], b"\"\r\n\xff".repeat(100_000)] {
            let long = goodbye(&text).await.to_string();
            assert!(long.starts_with("tunnel: connection error received"), "{long}");
            assert_eq!(long.len(), "tunnel: ".len() + SHOWN + "...".len());
            assert!(long.chars().all(|char| (' '..='~').contains(&char)), "{long}");
        }
    }
}
