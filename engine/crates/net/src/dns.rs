//! Sockets of a DNS proxy in a workload's namespace.
//!
//! The rules redirect queries to loopback, so the sockets are bound to loopback only: no host outside of the workload can
//! query, and answers leave from the address that the kernel expects them from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::netns::Netns;
use crate::socket::SocketFactory;

/// Bytes that may wait in a socket: a burst of some thousand queries.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
const BACKLOG: i32 = 1024;

/// Both loopback addresses.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl SocketFactory {
    /// Receive datagrams on a loopback port, IPv6 included where the kernel has it. The port is shared, as listeners'.
    ///
    /// # Errors
    /// The kernel's refusal of IPv4, as a port taken by the application.
    pub fn datagrams(&self, home: &Netns, port: u16) -> io::Result<Vec<UdpSocket>> {
        self.on_loopback(home, Type::DGRAM, port)?
            .into_iter()
            .map(|socket| UdpSocket::from_std(socket.into()))
            .collect()
    }

    /// Listen on a loopback port, IPv6 included where the kernel has it. The port is shared.
    ///
    /// # Errors
    /// The kernel's refusal of IPv4.
    pub fn listen_on_loopback(&self, home: &Netns, port: u16) -> io::Result<Vec<TcpListener>> {
        self.on_loopback(home, Type::STREAM, port)?
            .into_iter()
            .map(|socket| TcpListener::from_std(socket.into()))
            .collect()
    }

    fn on_loopback(&self, home: &Netns, kind: Type, port: u16) -> io::Result<Vec<Socket>> {
        self.run(home, || {
            let [v4, v6] = LOOPBACK.map(|ip| self.bind_loopback(kind, SocketAddr::new(ip, port)));
            match v6 {
                // A kernel without IPv6 sends no queries there.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(vec![v4?]),
                v6 => Ok(vec![v4?, v6?]),
            }
        })
    }

    fn bind_loopback(&self, kind: Type, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
        self.set_mark(&socket)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // A new pod's loopback may not be up yet.
        if address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
        if kind == Type::DGRAM {
            // As much as the system's limit allows.
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        }
        socket.bind(&address.into())?;
        if kind == Type::STREAM {
            socket.set_tcp_nodelay(true)?;
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    }

    /// A socket connected to one resolver, on a port that the kernel chooses: it receives from no other host.
    ///
    /// # Errors
    /// The kernel's refusal, as of a resolver that no route leads to.
    pub fn datagrams_to(&self, home: &Netns, server: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.run(home, || {
            let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
            self.set_mark(&socket)?;
            socket.connect(&server.into())?;
            Ok(socket)
        })?;
        UdpSocket::from_std(socket.into())
    }
}

/// An unpredictable number.
#[must_use]
pub fn unguessable() -> u16 {
    let mut bytes = [0; 2];
    // SAFETY: the pointer and length describe `bytes`, which outlives the call.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Requests of up to 256 bytes are filled whole once the kernel has booted; the source port is random besides.
    debug_assert_eq!(filled, 2);
    u16::from_ne_bytes(bytes)
}
