//! Closing a connection that was refused, so that the client learns of it from a read or a write, never from `connect()`.
//!
//! The kernel completes the handshake before the proxy knows of the connection. A reset that arrives before the client's
//! thread has returned from `connect()`, or before its event loop has read `SO_ERROR`, makes the connect itself fail. So
//! no reset is sent until the client has proved that its connect is over, which its first bytes do:
//!
//! | the client, within [`GRACE`] | is sent | and sees |
//! | --- | --- | --- |
//! | sends bytes | RST; the bytes are dropped unread | a reset at its next read or write |
//! | sends FIN | FIN | the end of the stream |
//! | sends nothing | FIN; the kernel answers later bytes with RST | the end of the stream, `EPIPE` when it goes on writing |
//!
//! A FIN at once, with the bytes read and discarded, was rejected: a client that has sent its request and closed its
//! sending side would read an orderly end, and a protocol without responses would take the request for delivered.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::copy;

/// How long the client's first bytes are waited for: far more than a round trip in a cluster, and short for a client that
/// only reads, whose end of the stream is late by it.
pub const GRACE: Duration = Duration::from_millis(100);

/// Close a refused connection; see the module. Dropped half-way, the connection is closed as after [`GRACE`].
pub async fn close(stream: TcpStream) {
    let mut first = [0];
    if matches!(timeout(GRACE, stream.peek(&mut first)).await, Ok(Ok(1..))) {
        copy::reset_on_drop(&stream);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::io::{ErrorKind, Read, Write};

    use tokio::net::TcpListener;

    use super::*;

    /// The client's end, which blocks, and the one to refuse.
    async fn connected() -> (std::net::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_has_sent_bytes_and_closed_its_side_reads_a_reset_and_no_end() {
        let (mut client, refused) = connected().await;
        client.write_all(b"a request").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        close(refused).await;
        assert_eq!(client.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_only_reads_gets_the_end_and_cannot_go_on_writing_after_it() {
        let (mut client, refused) = connected().await;
        let began = tokio::time::Instant::now();
        close(refused).await;
        assert!(began.elapsed() >= GRACE);
        assert!(client.take_error().unwrap().is_none(), "connect() has not failed");
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
        client.write_all(b"answered by the kernel with a reset").unwrap();
        assert_eq!(client.write_all(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_client_that_has_ended_is_not_waited_for() {
        let (mut client, refused) = connected().await;
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let began = std::time::Instant::now();
        close(refused).await;
        assert!(began.elapsed() < GRACE);
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    }
}
