//! Listens, connects from another address, and reads a redirected connection's original destination.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;

const BACKLOG: i32 = 4096;

/// Values of Istio's ztunnel (`KEEPALIVE_*`).
const KEEPALIVE_TIME: Duration = Duration::from_secs(180);
const KEEPALIVE_RETRIES: u32 = 9;

/// Ports that foreign addresses are bound to: below those that Linux gives to clients (32768 to 60999).
///
/// A client's own connection, made without the tunnel, must never have the four-tuple of one that the tunnel made in
/// its name: the kernel could not distinguish them, and the second one would hang.
const FOREIGN_PORTS: std::ops::RangeInclusive<u16> = 10_240..=32_767;

/// Ports tried before a connection fails: each may be taken by a connection to the same destination.
const PORT_ATTEMPTS: usize = 32;

/// How far to go on from a port that is taken. Its neighbours are likely to be taken too, by another core that was here
/// just before; a prime that does not divide the range leads to all of it.
const LEAP: u16 = 7_919;

/// Keepalive probes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is idle before the first probe.
    pub time: Duration,
    /// Between two probes.
    pub interval: Duration,
    /// Probes without an answer that end the connection.
    pub probes: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { time: KEEPALIVE_TIME, interval: KEEPALIVE_TIME, probes: KEEPALIVE_RETRIES }
    }
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The attempt fails after this time.
    pub timeout: Duration,
    /// Probes of the connection; not sent to an application in the same namespace, which cannot go away silently.
    pub keepalive: Keepalive,
}

/// Where this engine makes sockets: the namespace of a workload, with the tunnel's mark on each.
#[derive(Debug)]
pub struct SocketFactory {
    netns: Netns,
    mark: u32,
    next_port: Cell<u16>,
}

impl SocketFactory {
    /// Sockets in `netns`, marked with `mark` (0 sets none). `seed` is any number: factories for one namespace that
    /// start with different ones do not try the same ports.
    #[must_use]
    pub fn new(netns: Netns, mark: u32, seed: u16) -> Self {
        let span = FOREIGN_PORTS.end() - FOREIGN_PORTS.start() + 1;
        Self { netns, mark, next_port: Cell::new(FOREIGN_PORTS.start() + seed % span) }
    }

    /// The namespace's inode number.
    #[must_use]
    pub const fn netns_inode(&self) -> u64 {
        self.netns.inode()
    }

    /// Make something in the namespace.
    pub(crate) fn run<T>(&self, home: &Netns, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.netns.run(home, make)
    }

    pub(crate) fn set_mark(&self, socket: &Socket) -> io::Result<()> {
        if self.mark == 0 { Ok(()) } else { socket.set_mark(self.mark) }
    }

    /// Listen on `port` of every address, IPv6 included where the namespace has it.
    ///
    /// The port is shared (`SO_REUSEPORT`): one listener a core, and two engines during an upgrade.
    ///
    /// # Errors
    /// The kernel's refusal, as a port taken by the application.
    pub fn listen(&self, home: &Netns, port: u16) -> io::Result<TcpListener> {
        let socket = self.netns.run(home, || {
            self.bind_listener(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())
                .or_else(|_| self.bind_listener(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()))
        })?;
        TcpListener::from_std(socket.into())
    }

    fn bind_listener(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = self.tcp(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit these, which saves five calls a connection.
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&socket, Keepalive::default())?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    }

    /// Connect to `to`, as `from` where given: a foreign address is bound transparently (needs `CAP_NET_ADMIN`).
    ///
    /// # Errors
    /// The kernel's refusal; `TimedOut` after `options.timeout`.
    pub async fn connect(
        &self,
        home: &Netns,
        from: Option<IpAddr>,
        to: SocketAddr,
        options: ConnectOptions,
    ) -> io::Result<TcpStream> {
        let connected = async {
            for _ in 1..PORT_ATTEMPTS {
                match self.dial(home, from, to, options.keepalive).await {
                    Err(error) if from.is_some() && is_port_taken(&error) => self.advance(LEAP),
                    other => return other,
                }
            }
            self.dial(home, from, to, options.keepalive).await
        };
        match tokio::time::timeout(options.timeout, connected).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
        }
    }

    async fn dial(
        &self,
        home: &Netns,
        from: Option<IpAddr>,
        to: SocketAddr,
        keepalive: Keepalive,
    ) -> io::Result<TcpStream> {
        let from = from.map(|ip| SocketAddr::new(ip, self.port()));
        let socket = self.netns.run(home, || self.dialler(from, to, keepalive))?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            other => other?,
        }
        let stream = TcpStream::from_std(socket.into())?;
        // A connection within one machine is established before the call returns: checking at once saves a loop iteration.
        if stream.peer_addr().is_err() {
            stream.writable().await?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(stream)
    }

    fn port(&self) -> u16 {
        let port = self.next_port.get();
        self.advance(1);
        port
    }

    fn advance(&self, by: u16) {
        let (first, last) = (*FOREIGN_PORTS.start(), *FOREIGN_PORTS.end());
        let ahead = (self.next_port.get() - first + by) % (last - first + 1);
        self.next_port.set(first + ahead);
    }

    fn dialler(&self, from: Option<SocketAddr>, to: SocketAddr, keepalive: Keepalive) -> io::Result<Socket> {
        let socket = self.tcp(to)?;
        socket.set_tcp_nodelay(true)?;
        match from {
            None => set_keepalive(&socket, keepalive)?,
            // The application is in the same namespace: it cannot go away silently.
            Some(from) => bind_foreign(&socket, from)?,
        }
        Ok(socket)
    }

    fn tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        self.set_mark(&socket)?;
        Ok(socket)
    }
}

/// Bind an address that is not this namespace's own (`IP_TRANSPARENT`).
fn bind_foreign(socket: &Socket, from: SocketAddr) -> io::Result<()> {
    if from.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        set_ipv6_transparent(socket)?;
    }
    // One port serves many destinations; the kernel checks the whole four-tuple at connect.
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())
}

/// Keep a silent peer from holding a connection for ever.
fn set_keepalive(socket: &Socket, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive { time, interval, probes } = keepalive;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes))
}

/// The destination before the kernel redirected the connection (`SO_ORIGINAL_DST`); `local` is its own address now.
///
/// # Errors
/// `NotFound` where the connection was not redirected.
pub fn original_destination(stream: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let found = if canonical(local).is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    found
        .ok()
        .and_then(|address| address.as_socket())
        .map(canonical)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the connection has no original destination"))
}

/// An IPv4 address that arrived on an IPv6 socket, as IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn set_ipv6_transparent(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            std::ptr::from_ref(&on).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Needs root, as the tunnel does.
    #[tokio::test]
    async fn a_core_gets_past_the_ports_that_another_one_holds() {
        let home = Netns::current().unwrap();
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = application.local_addr().unwrap();
        let from = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)));
        let options = ConnectOptions { timeout: Duration::from_secs(5), keepalive: Keepalive::default() };
        let mut held = Vec::new();
        for _ in 0..2 {
            let core = SocketFactory::new(Netns::current().unwrap(), 0, 0);
            for _ in 0..300 {
                held.push(core.connect(&home, from, to, options).await.unwrap());
                held.push(application.accept().await.unwrap().0);
            }
        }
        assert_eq!(held.len(), 1200);
    }

    #[tokio::test]
    async fn a_connection_has_the_keepalive_that_was_asked_for() {
        let home = Netns::current().unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let factory = SocketFactory::new(Netns::current().unwrap(), 0, 0);
        let keepalive = Keepalive { time: Duration::from_secs(7), interval: Duration::from_secs(2), probes: 3 };
        let options = ConnectOptions { timeout: Duration::from_secs(5), keepalive };
        let stream = factory.connect(&home, None, peer.local_addr().unwrap(), options).await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.time);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), keepalive.probes);
    }
}
