//! A pod's DNS sockets, and how many of its queries wait.

use std::cell::Cell;
use std::net::SocketAddr;

use culvert_core::names::DNS_PORT;
use culvert_net::conntrack::Conntrack;
use culvert_net::netns::Netns;
use culvert_net::origins::Origins;
use culvert_net::socket::SocketFactory;
use tokio::net::{TcpListener, UdpSocket};

/// Queries of one pod that wait on one worker; more are refused at once.
const MAX_WAITING: usize = 1024;

/// A pod's DNS on one worker.
pub(crate) struct Dns {
    conntrack: Option<Conntrack>,
    origins: Origins,
    waiting: Cell<usize>,
}

/// What to serve.
pub(crate) struct Sockets {
    pub dns: Dns,
    pub datagrams: Vec<UdpSocket>,
    pub listeners: Vec<TcpListener>,
}

/// Counts a query until dropped.
pub(super) struct Waiting<'a>(&'a Dns);

/// Open a pod's sockets.
pub(crate) fn open(home: &Netns, sockets: &SocketFactory) -> std::io::Result<Sockets> {
    let named = |error| std::io::Error::other(format!("cannot serve DNS on port {DNS_PORT} in the pod: {error}"));
    Ok(Sockets {
        datagrams: sockets.datagrams(home, DNS_PORT).map_err(named)?,
        listeners: sockets.listen_on_loopback(home, DNS_PORT).map_err(named)?,
        // Without it, queries over UDP go to our own resolvers, which is what most pods have too.
        dns: Dns {
            conntrack: Conntrack::open(sockets, home).ok(),
            origins: Origins::open(sockets, home),
            waiting: Cell::new(0),
        },
    })
}

impl Dns {
    pub(super) fn permit(&self) -> Option<Waiting<'_>> {
        if self.waiting.get() >= MAX_WAITING {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(Waiting(self))
    }

    /// The resolver that a datagram was sent to before rules or hooks sent it here.
    pub(super) fn resolver(&self, client: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
        let redirected = self.conntrack.as_ref().and_then(|known| known.original_destination(client, local).ok());
        redirected.or_else(|| self.origins.of(client).ok())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
