//! A TCP stream with a read buffer, so that small reads do not each cost a system call.
//!
//! The TLS library reads 4 KiB at a time, a quarter of a record. While little arrives that is just right, and bytes go
//! straight to it. Once a read comes back full there is more where it came from: from then on the kernel is read for
//! [`turn::step`] at a time, until it has little to say again. An idle stream holds no buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use culvert_runtime::budget;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A read of this many bytes will be followed by another.
const MUCH: usize = 8 * 1024;

/// See the module.
#[derive(Debug)]
pub struct BufferedStream {
    stream: TcpStream,
    waiting: BytesMut,
    read_more: bool,
}

impl BufferedStream {
    /// Read from `stream` in steps that follow what arrives.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, waiting: BytesMut::new(), read_more: false }
    }

    /// The socket. Bytes that have been read already are not in it.
    #[must_use]
    pub const fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Memory is taken when there is something to read.
        ready!(self.stream.poll_read_ready(context))?;
        self.waiting.reserve(budget::max_io());
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), context, &mut self.waiting))?;
        budget::consume(read);
        self.read_more = read >= MUCH;
        Poll::Ready(Ok(()))
    }
}

fn spent(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        budget::consume(*bytes);
    }
    written
}

/// As many of `parts` as a step has bytes; at least one.
fn one_step<'a, 'b>(parts: &'a [io::IoSlice<'b>]) -> &'a [io::IoSlice<'b>] {
    let mut left = budget::max_io();
    let fits = |part: &&io::IoSlice<'_>| left.checked_sub(part.len()).map(|rest| left = rest).is_some();
    let fitting = parts.iter().take_while(fits).count();
    parts.get(..fitting.max(1)).unwrap_or(parts)
}

impl AsyncRead for BufferedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            ready!(budget::poll_proceed(context));
            if !self.read_more {
                let capacity = to.remaining();
                ready!(Pin::new(&mut self.stream).poll_read(context, to))?;
                self.read_more = to.remaining() == 0 && capacity > 0;
                return Poll::Ready(Ok(()));
            }
            if self.fill(context)?.is_pending() {
                self.waiting = BytesMut::new();
                return Poll::Pending;
            }
        }
        let length = to.remaining().min(self.waiting.len());
        to.put_slice(self.waiting.get(..length).unwrap_or_default());
        self.waiting.advance(length);
        if self.waiting.is_empty() && !self.read_more {
            self.waiting = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BufferedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(budget::poll_proceed(context));
        let step = bytes.get(..budget::max_io()).unwrap_or(bytes);
        spent(Pin::new(&mut self.stream).poll_write(context, step))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(budget::poll_proceed(context));
        spent(Pin::new(&mut self.stream).poll_write_vectored(context, one_step(parts)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (BufferedStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (BufferedStream::new(server.unwrap().0), client.unwrap())
    }

    #[tokio::test]
    async fn everything_arrives_in_order_whatever_the_steps() {
        let (mut reader, mut writer) = pair().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let writing = async move {
            for (number, part) in sent.chunks(100_000).enumerate() {
                writer.write_all(part).await.unwrap();
                if number % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            drop(writer);
        };
        let reading = async {
            let (mut received, mut step) = (Vec::new(), vec![0; 4096]);
            loop {
                let length = reader.read(&mut step).await.unwrap();
                if length == 0 {
                    return received;
                }
                received.extend_from_slice(step.get(..length).unwrap());
            }
        };
        let ((), received) = tokio::join!(writing, reading);
        assert!(received == expected);
    }

    #[tokio::test]
    async fn an_idle_stream_holds_no_buffer() {
        let (mut reader, mut writer) = pair().await;
        let mut step = vec![0; 4096];
        writer.write_all(&vec![1; 100_000]).await.unwrap();
        let mut left = 100_000;
        while left > 0 {
            left -= reader.read(&mut step).await.unwrap();
        }
        writer.write_all(&[1; 10]).await.unwrap();
        assert_eq!(reader.read(&mut step).await.unwrap(), 10);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(10), reader.read(&mut step)).await;
        assert!(waited.is_err());
        assert_eq!(reader.waiting.capacity(), 0);
    }
}
