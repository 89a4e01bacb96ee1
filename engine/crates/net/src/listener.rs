//! The end of a listener that shares its port: no connection is lost to it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;
use crate::socket::SocketFactory;

/// How long the kernel may take with a packet that it has begun to handle.
const PACKET_TIME: Duration = Duration::from_millis(1);

/// Whether the kernel moves connections from a listener that closes to others of its port (Linux 5.14).
const MIGRATES: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Let pass what has SYN, and drop the rest. Instructions of classic BPF; a filter sees a packet from its TCP header on.
const ONLY_SYN: [SockFilter; 4] = [
    SockFilter::new(LOAD_BYTE, 0, 0, TCP_FLAGS),
    SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
];
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;

/// Close a listener, and give to `take` what it has accepted until then.
///
/// The kernel moves what a listener holds to another one of the same port, but for a handshake that is completed in the
/// very moment of the close: that connection is reset, although its client has been told that it is established. So no
/// handshake is completed here any more: the last packet of one is dropped and sent again, and comes to the other
/// listener. This needs `net.ipv4.tcp_migrate_req`, which the node agent sets; without it what is in the making would
/// be lost, and the listener is only emptied.
pub async fn close(sockets: &SocketFactory, home: &Netns, listener: TcpListener, take: impl Fn(TcpStream, SocketAddr)) {
    let migrates = sockets.run(home, || fs::read(MIGRATES)).is_ok_and(|value| value.starts_with(b"1"));
    let is_filtered = migrates && SockRef::from(&listener).attach_filter(&ONLY_SYN).is_ok();
    if is_filtered {
        tokio::time::sleep(PACKET_TIME).await;
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if let Ok(stream) = adopted(stream, is_filtered) {
            take(stream, peer);
        }
    }
}

/// Take a connection over from a listener; it may have inherited the filter.
fn adopted(stream: std::net::TcpStream, is_filtered: bool) -> io::Result<TcpStream> {
    if is_filtered {
        // It fails where there is none.
        let _ = SockRef::from(&stream).detach_filter();
    }
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    const CLOSES: usize = 200;

    /// A network namespace of the calling thread's own, in which closing listeners move their connections.
    fn namespace() -> Netns {
        // SAFETY: the call changes the calling thread's namespace only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "needs root, as the tunnel does");
        fs::write(MIGRATES, "1").unwrap();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        set_up_loopback(&socket);
        Netns::current().unwrap()
    }

    fn set_up_loopback(socket: &impl std::os::fd::AsRawFd) {
        // SAFETY: an all-zero ifreq is valid, and the kernel reads what the pointer is of.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
            request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
            assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request), 0);
        }
    }

    fn exchange(port: u16) -> io::Result<()> {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port))?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        client.write_all(b"?")?;
        client.read_exact(&mut [0])
    }

    /// Clients that connect without a pause, until `ended`; returns what failed.
    fn clients(port: u16, ended: &'static AtomicBool) -> Vec<thread::JoinHandle<Vec<String>>> {
        let work = move || {
            let mut failures = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                failures.extend(exchange(port).err().map(|error| error.to_string()));
            }
            failures
        };
        (0..4).map(|_| thread::spawn(work)).collect()
    }

    fn answer(stream: TcpStream) {
        drop(tokio::task::spawn_local(async move {
            let mut byte = [0];
            while stream.readable().await.is_ok() && stream.try_read(&mut byte).is_err() {}
            let _ = stream.try_write(&byte);
        }));
    }

    async fn close_one_after_the_other(sockets: SocketFactory, home: Netns) {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let mut serving = sockets.listen(&home, 8080).unwrap();
        let clients = clients(8080, &ENDED);
        let took = RefCell::new(0);
        for _ in 0..CLOSES {
            for _ in 0..20 {
                answer(serving.accept().await.unwrap().0);
            }
            let next = sockets.listen(&home, 8080).unwrap();
            close(&sockets, &home, std::mem::replace(&mut serving, next), |stream, _| {
                *took.borrow_mut() += 1;
                answer(stream);
            })
            .await;
        }
        ENDED.store(true, Ordering::Relaxed);
        while !clients.iter().all(thread::JoinHandle::is_finished) {
            if let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::from_millis(20), serving.accept()).await {
                answer(stream);
            }
        }
        let failures: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(failures.is_empty(), "{failures:?}");
        assert!(*took.borrow() > 0, "some were queued at a close");
    }

    #[test]
    fn no_connection_is_lost_while_listeners_of_a_port_follow_each_other() {
        let home = namespace();
        let sockets = SocketFactory::new(Netns::current().unwrap(), 0, 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, close_one_after_the_other(sockets, home));
    }
}
