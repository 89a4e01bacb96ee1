//! Where a captured connection goes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names::HBONE_PORT;
use culvert_core::proto::workload::load_balancing::Mode;
use culvert_upstream::{Endpoint, SelectionContext};

use super::balance::{dial_address, target_port};
use super::index::Store;
use super::service::{Service, ServiceKey};
use super::workload::{Protocol, Workload};
use super::{Gateway, GatewayDestination};

/// The decision for one connection.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// Through a tunnel to `peer`, with a CONNECT to `authority`.
    Hbone {
        peer: SocketAddr,
        authority: SocketAddr,
        identities: Arc<[Identity]>,
        destination: Arc<Workload>,
        service: Option<Arc<Service>>,
        /// Where it was chosen among others.
        endpoint: Option<Endpoint>,
    },
    /// To a workload outside the mesh, as it is.
    Plain { to: SocketAddr, destination: Arc<Workload>, service: Option<Arc<Service>>, endpoint: Option<Endpoint> },
    /// To an address that the mesh does not know, as it is.
    Unknown { to: SocketAddr, service: Option<Arc<Service>> },
}

impl Route {
    /// The endpoint that was chosen, where there was a choice to make.
    pub(crate) const fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Hbone { endpoint, .. } | Self::Plain { endpoint, .. } => *endpoint,
            Self::Unknown { .. } => None,
        }
    }

    /// The workload at its end, where the mesh knows one.
    pub(crate) const fn destination(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Hbone { destination, .. } | Self::Plain { destination, .. } => Some(destination),
            Self::Unknown { .. } => None,
        }
    }
}

/// An instance of a waypoint, where to dial it, the service that it was chosen from, and whether that has others.
struct WaypointInstance {
    workload: Arc<Workload>,
    address: SocketAddr,
    via: Option<Arc<Service>>,
    others: bool,
}

/// Why a connection has nowhere to go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("service {0} has no port {1}")]
    NoPort(String, u16),
    #[error("no healthy upstream: service {0}")]
    NoEndpoint(String),
    #[error("no address for workload {0}")]
    NoAddress(String),
    /// Retry after resolving the name.
    #[error("the address of {0} is not known yet")]
    Unresolved(Arc<str>),
    #[error("waypoint of {0} is not known")]
    NoWaypoint(String),
    /// Refused because the mesh allows known destinations only (`outboundTrafficPolicy: REGISTRY_ONLY`).
    #[error("{0} is not in the service registry and outboundTrafficPolicy is REGISTRY_ONLY")]
    NotInRegistry(SocketAddr),
    #[error("workload {0} is on network {1:?}, which has no gateway here")]
    OtherNetwork(String, Arc<str>),
}

impl Store {
    /// Decide for a connection of `source` to `target`.
    pub(crate) fn route(
        &self,
        source: &Workload,
        target: SocketAddr,
        choice: SelectionContext<'_>,
    ) -> Result<Route, RouteError> {
        if let Some(service) = self.service_at(&source.network, target.ip(), &source.namespace) {
            return self.route_to_service(source, service, target, choice);
        }
        match self.workload_at(&source.network, target.ip()) {
            Some(workload) => self.route_to_workload(source, workload, target, None, choice),
            None => Ok(Route::Unknown { to: target, service: None }),
        }
    }

    fn route_to_service(
        &self,
        source: &Workload,
        service: &Arc<Service>,
        target: SocketAddr,
        choice: SelectionContext<'_>,
    ) -> Result<Route, RouteError> {
        if let Some(waypoint) = &service.waypoint
            && !self.is_instance_of(source, waypoint)
        {
            return self.route_to_waypoint(source, waypoint, target, Some(service), choice);
        }
        if service.mode == Mode::Passthrough {
            // No endpoint is selected: the client has chosen the address.
            return match self.workload_at(&source.network, target.ip()) {
                Some(workload) => direct(source, workload, target, Some(service), None),
                None => Ok(Route::Unknown { to: target, service: Some(service.clone()) }),
            };
        }
        let chosen = self.endpoint(source, service, target.port(), target.ip(), choice)?;
        let address = SocketAddr::new(dial_address(choice, service, chosen.workload, target.ip())?, chosen.port);
        direct(source, chosen.workload, address, Some(service), Some(Endpoint { address, others: chosen.others }))
    }

    fn route_to_workload(
        &self,
        source: &Workload,
        workload: &Arc<Workload>,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
        choice: SelectionContext<'_>,
    ) -> Result<Route, RouteError> {
        match &workload.waypoint {
            Some(waypoint) if !self.is_instance_of(source, waypoint) => {
                self.route_to_waypoint(source, waypoint, target, service, choice)
            }
            _ => direct(source, workload, target, service, None),
        }
    }

    /// The CONNECT to the waypoint names the client's original destination, so that it can apply the service's rules.
    fn route_to_waypoint(
        &self,
        source: &Workload,
        waypoint: &Gateway,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
        choice: SelectionContext<'_>,
    ) -> Result<Route, RouteError> {
        let unknown = || RouteError::NoWaypoint(service.map_or_else(|| target.to_string(), |s| s.key.to_string()));
        let instance = match &waypoint.destination {
            GatewayDestination::Address(address) => {
                let workload = self.workload_at(&address.network, address.ip);
                match (workload, self.service_at(&address.network, address.ip, &source.namespace)) {
                    (Some(workload), _) => WaypointInstance::alone(workload, waypoint.hbone_port, target.ip())?,
                    (None, Some(via)) => {
                        self.waypoint_endpoint(source, via, waypoint.hbone_port, target.ip(), choice)?
                    }
                    (None, None) => return Err(unknown()),
                }
            }
            GatewayDestination::Service(key) => {
                let via = self.service(key).ok_or_else(unknown)?;
                self.waypoint_endpoint(source, via, waypoint.hbone_port, target.ip(), choice)?
            }
        };
        Ok(Route::Hbone {
            peer: instance.address,
            authority: target,
            identities: expected(&instance.workload, instance.via.as_deref()),
            endpoint: instance.via.map(|_| Endpoint { address: instance.address, others: instance.others }),
            destination: instance.workload,
            service: service.cloned(),
        })
    }

    fn waypoint_endpoint(
        &self,
        source: &Workload,
        via: &Arc<Service>,
        hbone_port: u16,
        like: IpAddr,
        choice: SelectionContext<'_>,
    ) -> Result<WaypointInstance, RouteError> {
        let chosen = self.endpoint(source, via, hbone_port, like, choice)?;
        let ip = dial_address(choice, via, chosen.workload, like)?;
        Ok(WaypointInstance {
            workload: chosen.workload.clone(),
            address: SocketAddr::new(ip, chosen.port),
            via: Some(via.clone()),
            others: chosen.others,
        })
    }

    /// A waypoint's own connections go to the destination, not to itself again.
    fn is_instance_of(&self, source: &Workload, waypoint: &Gateway) -> bool {
        match &waypoint.destination {
            GatewayDestination::Service(key) => source.services.contains_key(key),
            GatewayDestination::Address(address) => {
                source.addresses.contains(&address.ip)
                    || self
                        .service_at(&address.network, address.ip, &source.namespace)
                        .is_some_and(|service| source.services.contains_key(&service.key))
            }
        }
    }

    /// The port that a local workload serves as `port` of a service, for a CONNECT by hostname.
    pub(crate) fn local_port(&self, workload: &Workload, hostname: &str, port: u16) -> Option<u16> {
        let service = self.service_of_host(hostname, &workload.namespace)?;
        target_port(service, workload, port)
    }

    /// The service that a client meant by a connection to `port` of a workload, for telemetry: the one it names if the
    /// workload is part of it, else the only one that fits. Both ends of a connection decide by this, so that their
    /// reports have the same labels.
    pub(crate) fn intended_service(&self, workload: &Workload, named: Option<&str>, port: u16) -> Option<Arc<Service>> {
        let fits = |key: &ServiceKey, ports: &HashMap<u16, u16>| {
            named.map_or_else(|| ports.values().any(|&target| target == port), |host| *key.hostname == *host)
        };
        let mut fitting = workload.services.iter().filter(|(key, ports)| fits(key, ports)).map(|(key, _)| key);
        let found = fitting.next()?;
        if fitting.next().is_none() { self.service(found).cloned() } else { None }
    }

    /// Whether `ip` is a service or workload whose waypoint is `workload`.
    pub(crate) fn is_waypoint_of(&self, workload: &Workload, ip: IpAddr) -> bool {
        let service = self.service_at(&workload.network, ip, &workload.namespace);
        let of_service = service.and_then(|service| service.waypoint.as_ref());
        let of_workload = self.workload_at(&workload.network, ip).and_then(|target| target.waypoint.as_ref());
        of_service.or(of_workload).is_some_and(|gateway| self.is_instance_of(workload, gateway))
    }
}

impl WaypointInstance {
    fn alone(workload: &Arc<Workload>, port: u16, like: IpAddr) -> Result<Self, RouteError> {
        let ip = workload.address_like(like).ok_or_else(|| RouteError::NoAddress(workload.uid.to_string()))?;
        Ok(Self { workload: workload.clone(), address: SocketAddr::new(ip, port), via: None, others: false })
    }
}

fn direct(
    source: &Workload,
    workload: &Arc<Workload>,
    to: SocketAddr,
    service: Option<&Arc<Service>>,
    endpoint: Option<Endpoint>,
) -> Result<Route, RouteError> {
    if workload.network != source.network {
        return Err(RouteError::OtherNetwork(workload.uid.to_string(), workload.network.clone()));
    }
    let service = service.cloned();
    Ok(match workload.protocol {
        Protocol::Plain => Route::Plain { to, destination: workload.clone(), service, endpoint },
        Protocol::Hbone => Route::Hbone {
            peer: SocketAddr::new(to.ip(), HBONE_PORT),
            authority: to,
            identities: expected(workload, service.as_deref()),
            destination: workload.clone(),
            service,
            endpoint,
        },
    })
}

/// Whom a tunnel to `workload` may meet.
fn expected(workload: &Workload, service: Option<&Service>) -> Arc<[Identity]> {
    let alternatives = service.map_or(&[] as &[Identity], |service| &service.identities);
    std::iter::once(&workload.identity).chain(alternatives).cloned().collect()
}

#[cfg(test)]
#[path = "resolve/tests.rs"]
mod tests;
