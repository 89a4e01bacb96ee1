//! HBONE: user connections as HTTP/2 CONNECT streams inside mutual TLS.
//!
//! Everything here lives on one thread: a tunnel belongs to the core that opened or accepted it.
//! This crate knows neither workloads nor policy; who may connect where is decided by its caller.

pub mod authority;
pub mod byte_stream;
pub mod client;
mod error;
pub mod headers;
mod keepalive;
mod lifecycle;
pub mod server;
pub mod stream;
mod window;

pub use error::Error;

/// HTTP/2 limits of both sides. Numbers are those of Istio's ztunnel unless a comment says why not.
pub(crate) mod limits {
    /// Largest frame that we accept.
    pub(crate) const FRAME_SIZE: u32 = 1024 * 1024;
    /// Encrypted bytes that wait for the socket: one large read of the application, in TLS records, at once.
    pub(crate) const TLS_BUFFER: usize = 17 * 16 * 1024;
    /// Header bytes after decoding: from servers, and from clients.
    pub(crate) const CLIENT_HEADER_LIST: u32 = 16 * 1024;
    pub(crate) const SERVER_HEADER_LIST: u32 = 64 * 1024;
    /// Streams that a peer may hold open on one connection.
    pub(crate) const CONCURRENT_STREAMS: u32 = 200;
    /// Bytes of one stream waiting to be sent: enough for the bandwidth-delay product of a data centre.
    pub(crate) const SEND_BUFFER: usize = 400 * 1024;
}
