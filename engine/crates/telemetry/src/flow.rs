//! One connection: its two ends and what is between them.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_hbone::headers::{Baggage, Trace};
use culvert_mesh::{Service, Workload};

/// The value of a label that is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// Which end of a connection reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Seen by the client's tunnel: reporter `source`.
    Outbound,
    /// Seen by the server's tunnel: reporter `destination`.
    Inbound,
}

impl Direction {
    /// The label of metrics.
    pub(crate) const fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

/// How a connection is protected between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// By mutual TLS.
    MutualTls,
    /// By the kernel, which knows both ends: a direct connection, which never leaves the node.
    Kernel,
    /// Not at all.
    Plain,
}

impl Security {
    /// The label of metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Kernel => "kernel",
            Self::Plain => UNKNOWN,
        }
    }
}

/// What is known of one end.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The workload that the control plane knows there.
    pub workload: Option<Arc<Workload>>,
    /// The peer's self-description (baggage), used where the control plane knows nothing.
    pub baggage: Option<Box<Baggage>>,
    /// The identity that TLS or the kernel has proved.
    pub identity: Option<Identity>,
}

/// What only some forms of the access log show.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Shared by the records of both ends of a tunnelled connection.
    pub trace: Option<Trace>,
    /// Where an outbound connection was going before an endpoint was chosen.
    pub original_destination: Option<SocketAddr>,
}

/// A connection. Fill in what is known, then call [`Flow::open`].
#[derive(Debug, Clone)]
pub struct Flow {
    /// Which end reports it.
    pub direction: Direction,
    /// How it is protected.
    pub security: Security,
    /// The address of the client.
    pub source_address: SocketAddr,
    /// The address that was dialled: `<pod>:15008` for HBONE.
    pub destination_address: SocketAddr,
    /// The authority of the CONNECT request.
    pub hbone_address: Option<SocketAddr>,
    /// The client.
    pub source: Peer,
    /// The server.
    pub destination: Peer,
    /// The service that the client addressed.
    pub service: Option<Arc<Service>>,
    /// In a box, and only where the access log shows it: each byte here is one of every open connection.
    pub extra: Option<Box<Extra>>,
}

impl Flow {
    /// A connection in plain text of which nothing is known but its ends.
    #[must_use]
    pub fn between(direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            direction,
            security: Security::Plain,
            source_address: source,
            destination_address: destination,
            hbone_address: None,
            source: Peer::default(),
            destination: Peer::default(),
            service: None,
            extra: None,
        }
    }

    /// What only some forms of the access log show, to fill it in.
    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.extra.as_ref()?.trace.as_ref()
    }

    pub(crate) fn original_destination(&self) -> Option<SocketAddr> {
        self.extra.as_ref()?.original_destination
    }

    /// Whether an end describes itself, because the control plane does not.
    pub(crate) fn self_reported(&self) -> bool {
        [&self.source, &self.destination].iter().any(|peer| peer.workload.is_none() && peer.baggage.is_some())
    }

    pub(crate) fn without_baggage(&self) -> Self {
        let known = |peer: &Peer| Peer { baggage: None, ..peer.clone() };
        Self { source: known(&self.source), destination: known(&self.destination), ..self.clone() }
    }
}
