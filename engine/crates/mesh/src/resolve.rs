//! The route of a captured connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names::HBONE_PORT;
use culvert_core::proto::workload::load_balancing::Mode;
use culvert_upstream::{Endpoint, SelectionContext};

use crate::balance::{dial_address, target_port};
use crate::gateway::{Gateway, GatewayDestination};
use crate::route::{Route, RouteError};
use crate::service::Service;
use crate::service_key::ServiceKey;
use crate::store::Store;
use crate::workload::{Protocol, Workload};

/// An instance of a waypoint, where to dial it, the service that it was chosen from, and whether that has others.
struct WaypointInstance {
    workload: Arc<Workload>,
    address: SocketAddr,
    via: Option<Arc<Service>>,
    others: bool,
}

impl Store {
    /// Decide for a connection of `source` to `target`.
    ///
    /// # Errors
    /// There is no route.
    pub fn route(
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
    #[must_use]
    pub fn local_port(&self, workload: &Workload, hostname: &str, port: u16) -> Option<u16> {
        let service = self.service_of_host(hostname, &workload.namespace)?;
        target_port(service, workload, port)
    }

    /// The service that a client meant by a connection to `port` of a workload, for telemetry: the one it names if the
    /// workload is part of it, else the only one that fits. Both ends of a connection decide by this, so that their
    /// reports have the same labels.
    #[must_use]
    pub fn intended_service(&self, workload: &Workload, named: Option<&str>, port: u16) -> Option<Arc<Service>> {
        let fits = |key: &ServiceKey, ports: &HashMap<u16, u16>| {
            named.map_or_else(|| ports.values().any(|&target| target == port), |host| *key.hostname == *host)
        };
        let mut fitting = workload.services.iter().filter(|(key, ports)| fits(key, ports)).map(|(key, _)| key);
        let found = fitting.next()?;
        if fitting.next().is_none() { self.service(found).cloned() } else { None }
    }

    /// Whether `ip` is a service or workload whose waypoint is `workload`.
    #[must_use]
    pub fn is_waypoint_of(&self, workload: &Workload, ip: IpAddr) -> bool {
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
