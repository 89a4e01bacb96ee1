//! How much to read at once.
//!
//! A connection holds no buffer while it is idle: memory is taken when the socket is readable, and its size follows
//! what the connection has carried, so that a chat costs 2 KiB and a download moves in large steps.

use std::io::ErrorKind;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Sizes in bytes and the volume after which each is used.
///
/// With a tunnel's nine bytes of framing, the larger ones fill whole TLS records: what is left over would travel in a
/// record, a system call and a packet of its own.
const STEPS: [(u64, usize); 3] =
    [(4 * 1024 * 1024, 16 * RECORD - FRAMING), (64 * 1024, 2 * RECORD - FRAMING), (0, 2 * 1024)];
const RECORD: usize = 16 * 1024;
const FRAMING: usize = 9;

/// Read size in bytes for a connection that has carried `carried` bytes so far.
#[must_use]
pub fn read_size(carried: u64) -> usize {
    STEPS.iter().find(|(from, _)| carried >= *from).map_or(2048, |(_, size)| *size)
}

/// Wait until `stream` is readable, then read into fresh memory. An empty result is the end of the stream.
///
/// # Errors
/// The kernel's.
pub async fn read(stream: &TcpStream, carried: u64) -> std::io::Result<BytesMut> {
    loop {
        stream.ready(Interest::READABLE).await?;
        match read_now(stream, read_size(carried)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// Read what is there. A read that does not fill the buffer has emptied the socket, so its readiness is given back at
/// once, which saves the question whose answer would be "nothing" (an end that has been seen stays seen).
fn read_now(stream: &TcpStream, size: usize) -> std::io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(size);
    let mut outcome = Err(ErrorKind::WouldBlock.into());
    let room = buffer.spare_capacity_mut();
    // What the closure returns decides about readiness only.
    let _ = stream.try_io(Interest::READABLE, || {
        outcome = socket2::SockRef::from(stream).recv(room);
        match &outcome {
            Ok(read) if *read > 0 && *read < room.len() => Err(ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    let read = outcome?;
    // SAFETY: the kernel has written the first `read` bytes, and never more than the room it was given.
    unsafe { buffer.set_len(read) };
    Ok(buffer)
}

/// Write all of `bytes`, waiting while the peer's window is closed.
///
/// # Errors
/// The kernel's; `WriteZero` where it takes nothing.
pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stream.ready(Interest::WRITABLE).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Say to the peer that nothing more will come.
///
/// # Errors
/// The kernel's; a peer that is already gone is not an error.
pub fn shutdown_write(stream: &TcpStream) -> std::io::Result<()> {
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
/// `sent` and `received` count bytes from `a` to `b` and back, while they move.
///
/// # Errors
/// The first error of either side; both connections are then reset.
pub async fn bidirectional(
    a: &TcpStream,
    b: &TcpStream,
    sent: impl Fn(u64),
    received: impl Fn(u64),
) -> std::io::Result<()> {
    let result = tokio::try_join!(one_way(a, b, sent), one_way(b, a, received)).map(|_| ());
    if result.is_err() {
        reset_on_drop(a);
        reset_on_drop(b);
    }
    result
}

async fn one_way(from: &TcpStream, to: &TcpStream, count: impl Fn(u64)) -> std::io::Result<()> {
    let mut carried = 0u64;
    loop {
        let chunk = read(from, carried).await?;
        if chunk.is_empty() {
            return shutdown_write(to);
        }
        write_all(to, &chunk).await?;
        carried += chunk.len() as u64;
        count(chunk.len() as u64);
    }
}
