//! One connection as telemetry sees it, from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use culvert_core::identity::Identity;
use culvert_hbone::Error;
use culvert_hbone::headers::{Baggage, Trace};
use culvert_mesh::{Denied, Service, Workload};
use culvert_net::transfer::{Transfer, TransferCounter};

use super::access_log;
use super::tcp::Series;
use crate::shared::ProxyState;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// Seen by the client's tunnel: reporter `source`.
    Outbound,
    /// Seen by the server's tunnel: reporter `destination`.
    Inbound,
}

impl Direction {
    /// The label of metrics.
    pub(super) const fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    MutualTls,
    Plain,
}

/// Why a connection ended early; `-` when it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ResponseFlag {
    None,
    Denied,
    Connect,
    Tls,
    Http2,
    Identity,
    /// A certificate of the peer's chain is revoked.
    Revoked,
    /// The root of the peer's certificate is not trusted any more.
    RootRemoved,
    /// The destination is not in the registry, and the mesh allows no other.
    NotInRegistry,
}

impl ResponseFlag {
    /// Set where a peer that was trusted is no more.
    pub(crate) fn of_trust(error: &Error) -> Option<Self> {
        match error {
            Error::RootRemoved => Some(Self::RootRemoved),
            revoked if revoked.is_revoked() => Some(Self::Revoked),
            _ => None,
        }
    }

    /// Whether the way to the peer failed, and not the peer's own answer.
    pub(crate) const fn is_of_transport(self) -> bool {
        matches!(self, Self::Tls | Self::Http2 | Self::Identity | Self::Revoked | Self::RootRemoved)
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Denied => "DENY",
            Self::Connect => "CONNECT",
            Self::Tls => "TLS_FAILURE",
            Self::Http2 => "H2_HANDSHAKE_FAILURE",
            Self::Identity => "IDENTITY_ERROR",
            Self::Revoked => "CERT_REVOKED",
            Self::RootRemoved => "CERT_UNTRUSTED",
            Self::NotInRegistry => "NOT_IN_REGISTRY",
        }
    }
}

/// What is known of one end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub workload: Option<Arc<Workload>>,
    /// The peer's self-description (baggage), used where the control plane knows nothing.
    pub baggage: Option<Box<Baggage>>,
    pub identity: Option<Identity>,
}

/// What only some forms of the access log show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// Shared by the records of both ends of a tunnelled connection.
    pub trace: Option<Trace>,
    /// Where an outbound connection was going before an endpoint was chosen.
    pub original_destination: Option<SocketAddr>,
}

/// A connection's facts. Fill in what is known, then [`Flow::open`].
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub direction: Direction,
    pub security: Security,
    pub source_address: SocketAddr,
    /// The address that was dialled: `<pod>:15008` for HBONE.
    pub destination_address: SocketAddr,
    /// The authority of the CONNECT request.
    pub hbone_address: Option<SocketAddr>,
    pub source: Peer,
    pub destination: Peer,
    pub service: Option<Arc<Service>>,
    /// In a box, and only where the access log shows it: each byte here is one of every open connection.
    pub extra: Option<Box<Extra>>,
}

/// A counted connection; [`OpenFlow::finish`] must be called, and a dropped one counts as closed without error.
#[derive(Debug)]
pub(crate) struct OpenFlow {
    flow: Flow,
    shared: Arc<ProxyState>,
    series: Arc<Series>,
    started: Instant,
    to_destination: AtomicU64,
    to_client: AtomicU64,
    finished: bool,
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub(crate) struct FlowEnd {
    pub flag: ResponseFlag,
    pub error: Option<String>,
}

impl FlowEnd {
    /// How carrying bytes ended.
    pub(crate) fn of<E: Into<Self>>(result: Result<(), E>) -> Self {
        result.map_or_else(Into::into, |()| Self { flag: ResponseFlag::None, error: None })
    }

    pub(crate) fn failed(flag: ResponseFlag, error: impl std::fmt::Display) -> Self {
        Self { flag, error: Some(error.to_string()) }
    }
}

impl From<io::Error> for FlowEnd {
    fn from(error: io::Error) -> Self {
        Self::failed(ResponseFlag::None, error)
    }
}

impl From<Error> for FlowEnd {
    fn from(error: Error) -> Self {
        let flag = ResponseFlag::of_trust(&error).unwrap_or(ResponseFlag::None);
        Self::failed(flag, error)
    }
}

impl Flow {
    /// A connection in plain text of which nothing is known but its ends.
    pub(crate) fn between(direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
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

    pub(crate) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn trace(&self) -> Option<&Trace> {
        self.extra.as_ref()?.trace.as_ref()
    }

    pub(super) fn original_destination(&self) -> Option<SocketAddr> {
        self.extra.as_ref()?.original_destination
    }

    /// Whether an end describes itself, because the control plane does not.
    pub(super) fn self_reported(&self) -> bool {
        [&self.source, &self.destination].iter().any(|peer| peer.workload.is_none() && peer.baggage.is_some())
    }

    pub(super) fn without_baggage(&self) -> Self {
        let known = |peer: &Peer| Peer { baggage: None, ..peer.clone() };
        Self { source: known(&self.source), destination: known(&self.destination), ..self.clone() }
    }

    /// Count the connection as opened.
    pub(crate) fn open(self, shared: &Arc<ProxyState>) -> OpenFlow {
        let series = shared.metrics.series(&self, ResponseFlag::None);
        series.opened.fetch_add(1, Ordering::Relaxed);
        OpenFlow {
            flow: self,
            shared: shared.clone(),
            series,
            started: Instant::now(),
            to_destination: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            finished: false,
        }
    }

    /// Count and log that policies of a dry run would refuse the connection; it goes on.
    pub(crate) fn would_be_refused(&self, shared: &Arc<ProxyState>, denied: &Denied) {
        shared.metrics.dry_runs.count(denied);
        access_log::write_dry_run(shared, self, denied);
    }

    /// Count and log a connection that was refused before it began.
    pub(crate) fn refuse(self, shared: &Arc<ProxyState>, end: &FlowEnd) {
        self.open(shared).finish(end);
    }
}

impl OpenFlow {
    /// Bytes so far, both ways together.
    pub(crate) fn carried(&self) -> u64 {
        let Transfer { to_destination, to_client } = self.transfer();
        to_destination + to_client
    }

    fn transfer(&self) -> Transfer {
        Transfer {
            to_destination: self.to_destination.load(Ordering::Relaxed),
            to_client: self.to_client.load(Ordering::Relaxed),
        }
    }

    /// Count the end and write the access log's line.
    pub(crate) fn finish(mut self, end: &FlowEnd) {
        self.finished = true;
        self.closed(end);
    }

    fn closed(&self, end: &FlowEnd) {
        let metrics = &self.shared.metrics;
        match end.flag {
            ResponseFlag::None => self.series.closed.fetch_add(1, Ordering::Relaxed),
            flag => metrics.series(&self.flow, flag).closed.fetch_add(1, Ordering::Relaxed),
        };
        metrics.distrusted.count(end.flag, self.flow.direction);
        if end.error.is_some() {
            metrics.series(&self.flow, end.flag).failed.fetch_add(1, Ordering::Relaxed);
        }
        access_log::write(&self.shared, &self.flow, self.started.elapsed(), self.transfer(), end);
    }
}

impl TransferCounter for OpenFlow {
    fn to_destination(&self, bytes: u64) {
        self.to_destination.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_destination.fetch_add(bytes, Ordering::Relaxed);
    }

    fn to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_client.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        if !self.finished {
            self.closed(&FlowEnd::failed(ResponseFlag::None, "connection closed: the workload was removed"));
        }
    }
}
