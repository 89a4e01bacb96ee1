//! The original destination of a datagram that a BPF hook has sent to the tunnel.
//!
//! No packet was rewritten, so connection tracking knows nothing. The hook at the tunnel's own system calls
//! (`bpf/tunnel.bpf.c`) answers `SO_ORIGINAL_DST` of a socket that is connected to the client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::socket::{SocketFactory, canonical};

/// One socket for each version of IP, which never sends and is connected to client after client.
#[derive(Debug)]
pub struct Origins {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Origins {
    /// Open them in the factory's namespace; without one, nothing is found.
    #[must_use]
    pub fn open(sockets: &SocketFactory, home: &Netns) -> Self {
        let open = |address: IpAddr| {
            let made = sockets.run(home, || {
                let domain = Domain::for_address(SocketAddr::new(address, 0));
                let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
                sockets.set_mark(&socket)?;
                Ok(socket)
            });
            made.ok()
        };
        Self { v4: open(Ipv4Addr::LOCALHOST.into()), v6: open(Ipv6Addr::LOCALHOST.into()) }
    }

    /// Where the last query of `client` was going.
    ///
    /// # Errors
    /// `NotFound` where no hook has sent it here.
    pub fn of(&self, client: SocketAddr) -> io::Result<SocketAddr> {
        let unknown = || io::Error::from(io::ErrorKind::NotFound);
        let client = canonical(client);
        let socket = if client.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or_else(unknown)?;
        socket.connect(&client.into())?;
        let found = if client.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        found.ok().and_then(|address| address.as_socket()).map(canonical).ok_or_else(unknown)
    }
}
