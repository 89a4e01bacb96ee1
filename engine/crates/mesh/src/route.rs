//! The decision for one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_upstream::Endpoint;

use crate::service::Service;
use crate::workload::Workload;

/// The decision for one connection.
#[derive(Debug, Clone)]
pub enum Route {
    /// Through a tunnel to `peer`, with a CONNECT to `authority`.
    Hbone {
        /// The HBONE listener to dial.
        peer: SocketAddr,
        /// The authority of the CONNECT request.
        authority: SocketAddr,
        /// Identities that the peer may have.
        identities: Arc<[Identity]>,
        /// The workload at the end of the tunnel.
        destination: Arc<Workload>,
        /// The service that the client addressed.
        service: Option<Arc<Service>>,
        /// Where it was chosen among others.
        endpoint: Option<Endpoint>,
    },
    /// To a workload outside the mesh, as it is.
    Plain {
        /// The address to dial.
        to: SocketAddr,
        /// The workload there.
        destination: Arc<Workload>,
        /// The service that the client addressed.
        service: Option<Arc<Service>>,
        /// Where it was chosen among others.
        endpoint: Option<Endpoint>,
    },
    /// To an address that the mesh does not know, as it is.
    Unknown {
        /// The address to dial.
        to: SocketAddr,
        /// The service that the client addressed.
        service: Option<Arc<Service>>,
    },
}

impl Route {
    /// The endpoint that was chosen, where there was a choice to make.
    #[must_use]
    pub const fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Hbone { endpoint, .. } | Self::Plain { endpoint, .. } => *endpoint,
            Self::Unknown { .. } => None,
        }
    }

    /// Whether the registry knows what is dialled: a workload at a port that it has, or the port of a service whose
    /// clients choose addresses.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        match self {
            Self::Hbone { authority: to, destination, service: None, .. }
            | Self::Plain { to, destination, service: None, .. } => destination.is_called_at(to.port()),
            Self::Hbone { .. } | Self::Plain { .. } => true,
            Self::Unknown { to, service } => {
                service.as_ref().is_some_and(|service| service.ports.contains_key(&to.port()))
            }
        }
    }

    /// The workload at its end, where the mesh knows one.
    #[must_use]
    pub const fn destination(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Hbone { destination, .. } | Self::Plain { destination, .. } => Some(destination),
            Self::Unknown { .. } => None,
        }
    }
}

/// Why a connection has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The service does not have the port.
    #[error("service {0} has no port {1}")]
    NoPort(String, u16),
    /// No endpoint of the service can be used.
    #[error("no healthy upstream: service {0}")]
    NoEndpoint(String),
    /// The workload has no address that can be dialled.
    #[error("no address for workload {0}")]
    NoAddress(String),
    /// Retry after resolving the name.
    #[error("the address of {0} is not known yet")]
    Unresolved(Arc<str>),
    /// The waypoint is not in the registry.
    #[error("waypoint of {0} is not known")]
    NoWaypoint(String),
    /// Refused because the mesh allows known destinations only (`outboundTrafficPolicy: REGISTRY_ONLY`).
    #[error("{0} is not in the service registry and outboundTrafficPolicy is REGISTRY_ONLY")]
    NotInRegistry(SocketAddr),
    /// Refused because the client may reach known destinations only, by the label of its namespace or its own.
    #[error("{0} is not in the service registry and {label} is {value}", label = names::EGRESS_LABEL, value = names::EGRESS_REGISTRY_ONLY)]
    EgressDenied(SocketAddr),
    /// The workload is on another network, and is reached through a gateway.
    #[error("workload {0} is on network {1:?}, which has no gateway here")]
    OtherNetwork(String, Arc<str>),
}
