//! A stream of a tunnel as a byte stream, for protocols that read and write it themselves (TLS within it, or HTTP).
//!
//! Connections that are carried as they are use [`TunnelStream::carry_from_client`] and
//! [`TunnelStream::carry_to_destination`], which copy no byte more than they must; here each byte is copied once more.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use culvert_runtime::budget;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Error;
use crate::stream::{TunnelStream, peer_stopped, poll_capacity};
use crate::window::Stalled;

/// See the module. Dropping it before both directions have ended aborts the stream: the peer sees a reset, not an end.
#[derive(Debug)]
pub struct ByteStream {
    stream: TunnelStream,
    /// Received, and not yet read.
    chunk: Bytes,
    /// Held while no read is pending: received bytes then stay in the tunnel's window.
    stalled: Option<Stalled>,
    read_ended: bool,
    write_ended: bool,
}

impl TunnelStream {
    /// Read and write the stream.
    #[must_use]
    pub fn into_byte_stream(self) -> ByteStream {
        ByteStream { stream: self, chunk: Bytes::new(), stalled: None, read_ended: false, write_ended: false }
    }
}

impl ByteStream {
    fn check_trusted(&self) -> io::Result<()> {
        self.stream.window.untrusted().map_or(Ok(()), |untrusted| Err(broken(untrusted)))
    }

    fn end(&mut self, reading: bool) {
        if reading {
            self.read_ended = true;
        } else {
            self.write_ended = true;
        }
        self.stream.ended = self.read_ended && self.write_ended;
    }
}

fn broken(error: impl Into<Error>) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error.into())
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.stalled = None;
        while this.chunk.is_empty() && !this.read_ended {
            this.check_trusted()?;
            ready!(budget::poll_proceed(context));
            match ready!(this.stream.receive.poll_data(context)) {
                Some(Ok(chunk)) => this.chunk = chunk,
                Some(Err(error)) => {
                    peer_stopped(Err(error)).map_err(broken)?;
                    this.end(true);
                }
                None => this.end(true),
            }
        }
        let read = this.chunk.split_to(this.chunk.len().min(buffer.remaining()));
        buffer.put_slice(&read);
        this.stream.receive.flow_control().release_capacity(read.len()).map_err(broken)?;
        this.stream.window.add_consumed(read.len());
        budget::consume(read.len());
        if !this.read_ended {
            this.stalled = Some(this.stream.window.stall());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_trusted()?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(budget::poll_proceed(context));
        let wanted = bytes.len().min(budget::max_io());
        match ready!(poll_capacity(&mut self.stream.send, wanted, context)) {
            Ok(granted) => {
                let part = bytes.get(..granted.min(wanted)).unwrap_or(bytes);
                self.stream.send.send_data(Bytes::copy_from_slice(part), false).map_err(broken)?;
                budget::consume(part.len());
                Poll::Ready(Ok(part.len()))
            }
            Err(error) => {
                // The peer wants no more bytes: of an end, the writer learns as of one of a pipe.
                peer_stopped(Err(error)).map_err(broken)?;
                self.end(false);
                Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
            }
        }
    }

    /// What was written is sent by the task that drives the tunnel.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.check_trusted())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_ended {
            self.stream.send.send_data(Bytes::new(), true).map_err(broken)?;
            self.end(false);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "byte_stream/tests.rs"]
mod tests;
