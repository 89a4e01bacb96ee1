//! How much to read at once.
//!
//! A connection holds no buffer while it is idle: memory is taken when the socket is readable, and its size follows
//! what the connection has carried, so that a chat costs 2 KiB and a download moves in large steps.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use culvert_runtime::budget;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::memory_budget::{self, MemoryBudget};
use crate::transfer::TransferCounter;

/// Sizes in bytes and the volume after which each is used.
///
/// With a tunnel's nine bytes of framing, the larger ones fill whole TLS records: what is left over would travel in a
/// record, a system call and a packet of its own.
const STEPS: [(u64, usize); 3] =
    [(4 * 1024 * 1024, 16 * RECORD - FRAMING), (64 * 1024, 2 * RECORD - FRAMING), (0, SMALL_STEP)];
/// Bytes of a step that everybody may take: all else is lent.
pub const SMALL_STEP: usize = 2 * 1024;
const RECORD: usize = 16 * 1024;
const FRAMING: usize = 9;

/// Read size in bytes for a connection that has carried `carried` bytes so far.
fn read_size(carried: u64) -> usize {
    STEPS.iter().find(|(from, _)| carried >= *from).map_or(SMALL_STEP, |(_, size)| *size)
}

/// Read into fresh memory once `stream` is readable. An empty result is the end of the stream. What the read takes beyond
/// a small step is lent from `memory`, and given back when the bytes are dropped.
///
/// Polled by one task only: the socket remembers one reader. Here and below a poll instead of an `async fn`: these are
/// most of a connection's memory while it is open, and most of the code that runs per byte.
///
/// # Errors
/// The kernel's.
pub fn poll_read(
    stream: &TcpStream,
    carried: u64,
    memory: &Arc<MemoryBudget>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    loop {
        ready!(budget::poll_proceed(context));
        ready!(stream.poll_read_ready(context))?;
        let wanted = read_size(carried).min(budget::max_io() - FRAMING).min(memory.max_io());
        let reservation = if wanted > SMALL_STEP { memory.try_reserve(wanted) } else { None };
        let size = if reservation.is_some() { wanted } else { SMALL_STEP };
        match read_now(stream, size) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
            Ok(bytes) => {
                budget::consume(bytes.len());
                return Poll::Ready(Ok(match reservation {
                    Some(reservation) => memory_budget::reserved(bytes, reservation),
                    None => bytes.freeze(),
                }));
            }
        }
    }
}

/// Read what is there. A read that does not fill the buffer has emptied the socket, so its readiness is given back at
/// once, which saves the question whose answer would be "nothing" (an end that has been seen stays seen).
fn read_now(stream: &TcpStream, size: usize) -> io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(size);
    let mut outcome = Err(ErrorKind::WouldBlock.into());
    let spare = buffer.spare_capacity_mut();
    // What the closure returns decides about readiness only.
    let _ = stream.try_io(Interest::READABLE, || {
        outcome = socket2::SockRef::from(stream).recv(spare);
        match &outcome {
            Ok(read) if *read > 0 && *read < spare.len() => Err(ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    let read = outcome?;
    // SAFETY: the kernel has written the first `read` bytes, and never more than the buffer it was given.
    unsafe { buffer.set_len(read) };
    Ok(buffer)
}

/// Write all of `bytes`, taking off what has been written; waits while the peer's window is closed.
///
/// Polled by one task only.
///
/// # Errors
/// The kernel's; `WriteZero` where it takes nothing.
pub fn poll_write_all(stream: &TcpStream, bytes: &mut impl Buf, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    while bytes.has_remaining() {
        ready!(budget::poll_proceed(context));
        let chunk = bytes.chunk();
        match stream.try_write(chunk.get(..budget::max_io()).unwrap_or(chunk)) {
            Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Ok(written) => {
                bytes.advance(written);
                budget::consume(written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(stream.poll_write_ready(context))?,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// Say to the peer that nothing more will come.
///
/// # Errors
/// The kernel's; a peer that is already gone is not an error.
pub fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// Make the kernel reset the connection when it is dropped: the peer must not take an abort for an end.
pub fn reset_on_drop(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// Copy both ways between two sockets until both directions have ended; each ends on its own (half-close).
///
/// `transfer` counts bytes while they move. If the future is dropped early, or after an error, both connections are reset
/// when they are dropped.
///
/// # Errors
/// The first error of either side.
pub fn bidirectional(
    client: &TcpStream,
    destination: &TcpStream,
    memory: &Arc<MemoryBudget>,
    transfer: &impl TransferCounter,
) -> impl Future<Output = io::Result<()>> {
    let mut guards = Some((ResetUnlessEnded::new(client), ResetUnlessEnded::new(destination)));
    let (mut request, mut response) = (OneWay::default(), OneWay::default());
    poll_fn(move |context| {
        let count = |bytes| transfer.to_destination(bytes);
        let request = request.poll(client, destination, memory, &count, context)?;
        let count = |bytes| transfer.to_client(bytes);
        let response = response.poll(destination, client, memory, &count, context)?;
        if request.is_pending() || response.is_pending() {
            return Poll::Pending;
        }
        if let Some((client, destination)) = guards.take() {
            client.ended();
            destination.ended();
        }
        Poll::Ready(Ok(()))
    })
}

#[derive(Debug, Default)]
struct OneWay {
    chunk: Bytes,
    carried: u64,
    ended: bool,
}

impl OneWay {
    fn poll(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        memory: &Arc<MemoryBudget>,
        count: &impl Fn(u64),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.ended {
            if self.chunk.is_empty() {
                self.chunk = ready!(poll_read(from, self.carried, memory, context))?;
                if self.chunk.is_empty() {
                    shutdown_write(to)?;
                    self.ended = true;
                    break;
                }
            }
            let before = self.chunk.len();
            let written = poll_write_all(to, &mut self.chunk, context);
            let moved = (before - self.chunk.len()) as u64;
            self.carried += moved;
            count(moved);
            ready!(written)?;
            self.chunk = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// Makes the kernel reset a connection that is given up before its end: the peer must not take that for an end.
#[derive(Debug)]
pub struct ResetUnlessEnded<'a>(Option<&'a TcpStream>);

impl<'a> ResetUnlessEnded<'a> {
    /// Guard `stream`.
    #[must_use]
    pub const fn new(stream: &'a TcpStream) -> Self {
        Self(Some(stream))
    }

    /// Both directions have ended in order.
    pub fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for ResetUnlessEnded<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.0 {
            reset_on_drop(stream);
        }
    }
}
