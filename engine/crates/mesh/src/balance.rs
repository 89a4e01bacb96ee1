//! The endpoints of a service that a connection may get: healthy ones that serve the port, ranked by locality.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::proto::workload::IpFamilies;
use culvert_core::proto::workload::load_balancing::{Mode, Scope};
use culvert_upstream::{CachedHost, Candidate, Selected, SelectionContext, preferred_address, select, selectable};

use crate::route::RouteError;
use crate::service::Service;
use crate::store::Store;
use crate::workload::Workload;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub workload: &'a Arc<Workload>,
    pub port: u16,
    pub others: bool,
}

/// An endpoint that a connection to a service may get.
#[derive(Debug, Clone)]
pub struct SharedEndpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Where it is reached, with the target port.
    pub address: SocketAddr,
    /// Its share among the others.
    pub weight: u32,
}

/// An endpoint, and the port that it serves.
type Serving<'a> = (&'a Arc<Workload>, u16);

/// Ordered: an endpoint of our own network comes first where the network is the first scope, then the number of
/// scopes, from the first on, that source and endpoint share.
type Rank = (bool, usize);

impl Store {
    /// Select an endpoint for a client that dialled `port` at an address of the family of `like`.
    pub(crate) fn endpoint(
        &self,
        source: &Workload,
        service: &Service,
        port: u16,
        like: IpAddr,
        choice: SelectionContext<'_>,
    ) -> Result<Chosen<'_>, RouteError> {
        if !service.ports.contains_key(&port) {
            return Err(RouteError::NoPort(service.key.to_string(), port));
        }
        let candidates = self.candidates(source, service, port, like, choice);
        let address = |serving: &Serving<'_>| dialled(choice, service, *serving, like);
        let Selected { endpoint: (workload, port), others } =
            select(candidates, choice, address).ok_or_else(|| RouteError::NoEndpoint(service.key.to_string()))?;
        Ok(Chosen { workload, port, others })
    }

    /// The endpoints among which a connection of `source` to a service's address is shared now. Empty where `target` is no
    /// service's, where a waypoint is to choose, or where an endpoint has no address of the target's family.
    #[must_use]
    pub fn shared_endpoints(
        &self,
        source: &Workload,
        target: SocketAddr,
        choice: SelectionContext<'_>,
    ) -> Vec<SharedEndpoint> {
        let Some(service) = self.service_at(&source.network, target.ip(), &source.namespace) else { return Vec::new() };
        if service.waypoint.is_some()
            || service.mode == Mode::Passthrough
            || !service.ports.contains_key(&target.port())
        {
            return Vec::new();
        }
        let candidates = self.candidates(source, service, target.port(), target.ip(), choice);
        let address = |serving: &Serving<'_>| dialled(choice, service, *serving, target.ip());
        let (candidates, _) = selectable(candidates, choice, address);
        let shared = candidates.into_iter().filter(|one| one.weight > 0).map(|one| {
            let address = address(&one.endpoint).filter(|address| address.is_ipv4() == target.is_ipv4())?;
            Some(SharedEndpoint { workload: one.endpoint.0.clone(), address, weight: one.weight })
        });
        shared.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    fn candidates(
        &self,
        source: &Workload,
        service: &Service,
        port: u16,
        like: IpAddr,
        choice: SelectionContext<'_>,
    ) -> Vec<Candidate<Serving<'_>, Rank>> {
        let serving = self.endpoints(&service.key).filter(|workload| workload.healthy || service.publish_not_ready);
        serving
            .filter_map(|workload| {
                let port = target_port(service, workload, port)?;
                let rank = locality_rank(source, workload, &service.scopes);
                let fits = service.mode != Mode::Strict || rank.1 == service.scopes.len();
                let fits = fits && can_reach(choice, service, workload, like);
                fits.then_some(Candidate { endpoint: (workload, port), rank, weight: workload.capacity })
            })
            .collect()
    }
}

/// Where to dial an endpoint that serves a port, if it has an address that can be dialled.
fn dialled(
    choice: SelectionContext<'_>,
    service: &Service,
    (workload, port): Serving<'_>,
    like: IpAddr,
) -> Option<SocketAddr> {
    dial_address(choice, service, workload, like).ok().map(|ip| SocketAddr::new(ip, port))
}

/// Where to dial an endpoint.
pub(crate) fn dial_address(
    choice: SelectionContext<'_>,
    service: &Service,
    workload: &Workload,
    like: IpAddr,
) -> Result<IpAddr, RouteError> {
    let no_address = || RouteError::NoAddress(workload.uid.to_string());
    if !workload.addresses.is_empty() || workload.hostname.is_empty() {
        return address_for(service, &workload.addresses, like).ok_or_else(no_address);
    }
    match choice.hosts.ok_or_else(no_address)?.get(&workload.hostname) {
        // An outside host has the families that it has; those of the service are those of its own address.
        CachedHost::Addresses(all) => preferred_address(all.iter().copied(), like).ok_or_else(no_address),
        CachedHost::NotResolved => Err(RouteError::Unresolved(workload.hostname.clone())),
        CachedHost::Unresolvable => Err(no_address()),
    }
}

/// Whether there is an address, or a DNS query may find one.
fn can_reach(choice: SelectionContext<'_>, service: &Service, workload: &Workload, like: IpAddr) -> bool {
    // Mostly there is one, which is quick to see.
    (service.ip_families == IpFamilies::Automatic && !workload.addresses.is_empty())
        || matches!(dial_address(choice, service, workload, like), Ok(_) | Err(RouteError::Unresolved(_)))
}

/// The port on which `workload` serves a port of `service`: its own number, or else the service's.
#[must_use]
pub fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let own = workload.services.get(&service.key)?.get(&port).copied().filter(|&port| port != 0);
    own.or_else(|| service.ports.get(&port).copied().filter(|&port| port != 0))
}

/// One of an endpoint's addresses, of a family that the service has; that of `like` is preferred.
fn address_for(service: &Service, addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    preferred_address(addresses.iter().copied().filter(|&ip| service.has_family_of(ip)), like)
}

fn locality_rank(source: &Workload, endpoint: &Workload, scopes: &[Scope]) -> Rank {
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
    match scopes.split_first() {
        // One of another network cannot share it, but the nearest of those is still better than the others.
        Some((Scope::Network, rest)) => {
            let near = shares(&Scope::Network);
            (near, usize::from(near) + rest.iter().take_while(|scope| shares(scope)).count())
        }
        _ => (false, scopes.iter().take_while(|scope| shares(scope)).count()),
    }
}
