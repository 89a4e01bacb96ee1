//! Where a captured connection goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names::HBONE_PORT;
use culvert_core::proto::workload::load_balancing::{Mode, Scope};

use super::index::Store;
use super::service::Service;
use super::workload::{Protocol, Workload};
use super::{Gateway, GatewayDestination};

/// The decision for one connection.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// Through a tunnel to `peer`, which is asked for `authority`.
    Hbone {
        peer: SocketAddr,
        authority: SocketAddr,
        identities: Arc<[Identity]>,
        destination: Arc<Workload>,
        service: Option<Arc<Service>>,
    },
    /// To a workload outside the mesh, as it is.
    Plain { to: SocketAddr, destination: Arc<Workload>, service: Option<Arc<Service>> },
    /// To an address that the mesh does not know, as it is.
    Unknown { to: SocketAddr, service: Option<Arc<Service>> },
}

/// An instance of a waypoint, the port to dial, and the service that it was chosen from.
type WaypointInstance = (Arc<Workload>, u16, Option<Arc<Service>>);

/// Why a connection has nowhere to go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("service {0} has no port {1}")]
    NoPort(String, u16),
    #[error("no healthy upstream: service {0}")]
    NoEndpoint(String),
    #[error("no address for workload {0}")]
    NoAddress(String),
    #[error("waypoint of {0} is not known")]
    NoWaypoint(String),
    #[error("workload {0} is on network {1:?}, which has no gateway here")]
    OtherNetwork(String, Arc<str>),
}

impl Store {
    /// Decide for a connection of `source` to `target`. `random` is uniform in 0..1.
    pub(crate) fn route(&self, source: &Workload, target: SocketAddr, random: f64) -> Result<Route, RouteError> {
        if let Some(service) = self.service_at(&source.network, target.ip(), &source.namespace) {
            return self.route_to_service(source, service, target, random);
        }
        match self.workload_at(&source.network, target.ip()) {
            Some(workload) => self.route_to_workload(source, workload, target, None, random),
            None => Ok(Route::Unknown { to: target, service: None }),
        }
    }

    fn route_to_service(
        &self,
        source: &Workload,
        service: &Arc<Service>,
        target: SocketAddr,
        random: f64,
    ) -> Result<Route, RouteError> {
        if let Some(waypoint) = &service.waypoint
            && !self.is_instance_of(source, waypoint)
        {
            return self.route_to_waypoint(source, waypoint, target, Some(service), random);
        }
        let chosen = self.endpoint(source, service, target.port(), random);
        let (endpoint, port) = match chosen {
            Ok(chosen) => chosen,
            Err(_) if service.mode == Mode::Passthrough => {
                return Ok(Route::Unknown { to: target, service: Some(service.clone()) });
            }
            Err(error) => return Err(error),
        };
        let ip = endpoint.address_like(target.ip()).ok_or_else(|| RouteError::NoAddress(endpoint.uid.to_string()))?;
        let to = SocketAddr::new(ip, port);
        direct(source, endpoint, to, Some(service))
    }

    fn route_to_workload(
        &self,
        source: &Workload,
        workload: &Arc<Workload>,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
        random: f64,
    ) -> Result<Route, RouteError> {
        match &workload.waypoint {
            Some(waypoint) if !self.is_instance_of(source, waypoint) => {
                self.route_to_waypoint(source, waypoint, target, service, random)
            }
            _ => direct(source, workload, target, service),
        }
    }

    /// The waypoint is asked for the address that the client used, so that it can apply the service's rules.
    fn route_to_waypoint(
        &self,
        source: &Workload,
        waypoint: &Gateway,
        target: SocketAddr,
        service: Option<&Arc<Service>>,
        random: f64,
    ) -> Result<Route, RouteError> {
        let unknown = || RouteError::NoWaypoint(service.map_or_else(|| target.to_string(), |s| s.key.to_string()));
        let (instance, port, via) = match &waypoint.destination {
            GatewayDestination::Address(address) => {
                let workload = self.workload_at(&address.network, address.ip);
                match (workload, self.service_at(&address.network, address.ip, &source.namespace)) {
                    (Some(workload), _) => (workload.clone(), waypoint.hbone_port, None),
                    (None, Some(via)) => self.waypoint_endpoint(source, via, waypoint.hbone_port, random)?,
                    (None, None) => return Err(unknown()),
                }
            }
            GatewayDestination::Service(key) => {
                let via = self.service(key).ok_or_else(unknown)?;
                self.waypoint_endpoint(source, via, waypoint.hbone_port, random)?
            }
        };
        let ip = instance.address_like(target.ip()).ok_or_else(|| RouteError::NoAddress(instance.uid.to_string()))?;
        Ok(Route::Hbone {
            peer: SocketAddr::new(ip, port),
            authority: target,
            identities: expected(&instance, via.as_deref()),
            destination: instance,
            service: service.cloned(),
        })
    }

    fn waypoint_endpoint(
        &self,
        source: &Workload,
        via: &Arc<Service>,
        hbone_port: u16,
        random: f64,
    ) -> Result<WaypointInstance, RouteError> {
        let (instance, port) = self.endpoint(source, via, hbone_port, random)?;
        Ok((instance.clone(), port, Some(via.clone())))
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

    /// Choose among the endpoints that serve `port`: healthy ones, of the best locality rank, by weight.
    fn endpoint(
        &self,
        source: &Workload,
        service: &Service,
        port: u16,
        random: f64,
    ) -> Result<(&Arc<Workload>, u16), RouteError> {
        if !service.ports.contains_key(&port) {
            return Err(RouteError::NoPort(service.key.to_string(), port));
        }
        let mut best_rank = 0;
        let mut candidates: Vec<(&Arc<Workload>, u16)> = Vec::new();
        for workload in self.endpoints(&service.key).filter(|w| w.healthy || service.publish_not_ready) {
            let Some(target_port) = target_port(service, workload, port) else { continue };
            let rank = locality_rank(source, workload, &service.scopes);
            if service.mode == Mode::Strict && rank < service.scopes.len() {
                continue;
            }
            if candidates.is_empty() || rank > best_rank {
                candidates.clear();
                best_rank = rank;
            }
            if rank == best_rank {
                candidates.push((workload, target_port));
            }
        }
        by_weight(&candidates, random).ok_or_else(|| RouteError::NoEndpoint(service.key.to_string()))
    }

    /// The port that a local workload serves as `port` of a service, for a CONNECT by hostname.
    pub(crate) fn local_port(&self, workload: &Workload, hostname: &str, port: u16) -> Option<u16> {
        let service = self.service_of_host(hostname, &workload.namespace)?;
        target_port(service, workload, port)
    }

    /// Whether `ip` is a service or workload whose waypoint is `workload`.
    pub(crate) fn is_waypoint_of(&self, workload: &Workload, ip: IpAddr) -> bool {
        let service = self.service_at(&workload.network, ip, &workload.namespace);
        let of_service = service.and_then(|service| service.waypoint.as_ref());
        let of_workload = self.workload_at(&workload.network, ip).and_then(|target| target.waypoint.as_ref());
        of_service.or(of_workload).is_some_and(|gateway| self.is_instance_of(workload, gateway))
    }
}

fn direct(
    source: &Workload,
    workload: &Arc<Workload>,
    to: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Result<Route, RouteError> {
    if workload.network != source.network {
        return Err(RouteError::OtherNetwork(workload.uid.to_string(), workload.network.clone()));
    }
    let service = service.cloned();
    Ok(match workload.protocol {
        Protocol::Plain => Route::Plain { to, destination: workload.clone(), service },
        Protocol::Hbone => Route::Hbone {
            peer: SocketAddr::new(to.ip(), HBONE_PORT),
            authority: to,
            identities: expected(workload, service.as_deref()),
            destination: workload.clone(),
            service,
        },
    })
}

fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let own = workload.services.get(&service.key)?.get(&port).copied().filter(|&port| port != 0);
    own.or_else(|| service.ports.get(&port).copied().filter(|&port| port != 0))
}

/// Whom a tunnel to `workload` may meet.
fn expected(workload: &Workload, service: Option<&Service>) -> Arc<[Identity]> {
    let alternatives = service.map_or(&[] as &[Identity], |service| &service.identities);
    std::iter::once(&workload.identity).chain(alternatives).cloned().collect()
}

/// How many of the scopes, from the first on, source and endpoint share.
fn locality_rank(source: &Workload, endpoint: &Workload, scopes: &[Scope]) -> usize {
    let shares = |scope: &Scope| {
        let (a, b) = (&source.locality, &endpoint.locality);
        match scope {
            Scope::Region => a.region == b.region,
            Scope::Zone => a.zone == b.zone,
            Scope::Subzone => a.subzone == b.subzone,
            Scope::Node => source.node == endpoint.node,
            Scope::Cluster => source.cluster == endpoint.cluster,
            Scope::Network => source.network == endpoint.network,
            Scope::UnspecifiedScope => true,
        }
    };
    scopes.iter().take_while(|scope| shares(scope)).count()
}

fn by_weight<'a>(candidates: &[(&'a Arc<Workload>, u16)], random: f64) -> Option<(&'a Arc<Workload>, u16)> {
    let total: u64 = candidates.iter().map(|(workload, _)| u64::from(workload.capacity)).sum();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "weights are small"
    )]
    let mut ticket = (random * total as f64) as u64;
    for candidate in candidates {
        let weight = u64::from(candidate.0.capacity);
        if ticket < weight {
            return Some(*candidate);
        }
        ticket -= weight;
    }
    // All weights are zero: none is meant to be used.
    None
}

#[cfg(test)]
#[path = "resolve/tests.rs"]
mod tests;
