//! Choosing among a service's endpoints: healthy ones that serve the port, not tried yet and not ejected, of the best
//! locality rank, by weight.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_core::proto::workload::IpFamilies;
use culvert_core::proto::workload::load_balancing::{Mode, Scope};

use super::dns_cache::{CachedHost, DnsCache};
use super::index::Store;
use super::outlier::Ejected;
use super::resolve::RouteError;
use super::service::Service;
use super::workload::Workload;

/// What a choice has to respect besides the service's own rules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SelectionContext<'a> {
    /// Uniform in 0..1.
    pub random: f64,
    /// Endpoints that this connection has tried already.
    pub tried: &'a [SocketAddr],
    /// Endpoints that keep failing; `None` where there are none.
    pub ejected: Option<&'a Ejected>,
    /// Addresses of endpoints that have only a name.
    pub hosts: Option<&'a DnsCache>,
}

/// The endpoint that was chosen for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its key for outlier detection: its address with the target port.
    pub address: SocketAddr,
    /// Whether there are others that have not been tried.
    pub others: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    pub workload: &'a Arc<Workload>,
    pub port: u16,
    pub others: bool,
}

#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    port: u16,
    rank: Rank,
}

/// Ordered: an endpoint of our own network comes first where the network is the first scope, then the number of
/// scopes, from the first on, that source and endpoint share.
type Rank = (bool, usize);

impl Store {
    /// Select an endpoint for a client that dialled `port` at an address of the family of `like`.
    pub(super) fn endpoint(
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
        let nowhere = || RouteError::NoEndpoint(service.key.to_string());
        let serving = self.endpoints(&service.key).filter(|workload| workload.healthy || service.publish_not_ready);
        let mut candidates: Vec<Candidate<'_>> = serving
            .filter_map(|workload| {
                let port = target_port(service, workload, port)?;
                let rank = locality_rank(source, workload, &service.scopes);
                let fits = service.mode != Mode::Strict || rank.1 == service.scopes.len();
                let fits = fits && choice.can_reach(service, workload, like);
                fits.then_some(Candidate { workload, port, rank })
            })
            .collect();
        if !choice.tried.is_empty() || choice.ejected.is_some() {
            let address = |one: &Candidate<'_>| {
                choice.address(service, one.workload, like).ok().map(|ip| SocketAddr::new(ip, one.port))
            };
            choice.narrow(&mut candidates, address);
        }
        let best = candidates.iter().map(|candidate| candidate.rank).max().ok_or_else(nowhere)?;
        let others = candidates.len() > 1;
        candidates.retain(|candidate| candidate.rank == best);
        let chosen = by_weight(&candidates, choice.random).ok_or_else(nowhere)?;
        Ok(Chosen { workload: chosen.workload, port: chosen.port, others })
    }
}

impl SelectionContext<'_> {
    /// Where to dial an endpoint.
    pub(super) fn address(self, service: &Service, workload: &Workload, like: IpAddr) -> Result<IpAddr, RouteError> {
        let nowhere = || RouteError::NoAddress(workload.uid.to_string());
        if !workload.addresses.is_empty() || workload.hostname.is_empty() {
            return address_for(service, &workload.addresses, like).ok_or_else(nowhere);
        }
        match self.hosts.ok_or_else(nowhere)?.get(&workload.hostname) {
            // An outside host has the families that it has; those of the service are those of its own address.
            CachedHost::Addresses(all) => preferred(all.iter().copied(), like).ok_or_else(nowhere),
            CachedHost::NotResolved => Err(RouteError::Unresolved(workload.hostname.clone())),
            CachedHost::Unresolvable => Err(nowhere()),
        }
    }

    /// Whether there is an address, or a DNS query may find one.
    fn can_reach(self, service: &Service, workload: &Workload, like: IpAddr) -> bool {
        // Mostly there is one, which is quick to see.
        (service.ip_families == IpFamilies::Automatic && !workload.addresses.is_empty())
            || matches!(self.address(service, workload, like), Ok(_) | Err(RouteError::Unresolved(_)))
    }

    /// Leave out what was tried, and what is ejected: of that only a share of all, and never everything that is left.
    fn narrow(self, candidates: &mut Vec<Candidate<'_>>, address: impl Fn(&Candidate<'_>) -> Option<SocketAddr>) {
        let all = candidates.len();
        candidates.retain(|one| address(one).is_none_or(|address| !self.tried.contains(&address)));
        let Some(ejected) = self.ejected else { return };
        let failing = |one: &Candidate<'_>| address(one).is_some_and(|address| ejected.contains(address));
        let mut may_leave_out = ejected.limit(all).min(candidates.len().saturating_sub(1));
        candidates.retain(|one| {
            let stays = may_leave_out == 0 || !failing(one);
            if !stays {
                may_leave_out -= 1;
            }
            stays
        });
    }
}

/// The port on which `workload` serves a port of `service`: its own word, then the service's number.
pub(crate) fn target_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let own = workload.services.get(&service.key)?.get(&port).copied().filter(|&port| port != 0);
    own.or_else(|| service.ports.get(&port).copied().filter(|&port| port != 0))
}

/// One of an endpoint's addresses, of a family that the service has; that of `like` is preferred.
fn address_for(service: &Service, addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    preferred(addresses.iter().copied().filter(|&ip| service.has_family_of(ip)), like)
}

fn preferred(mut addresses: impl Iterator<Item = IpAddr>, like: IpAddr) -> Option<IpAddr> {
    let first = addresses.next()?;
    let alike = |ip: &IpAddr| ip.is_ipv4() == like.is_ipv4();
    Some(if alike(&first) { first } else { addresses.find(alike).unwrap_or(first) })
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

fn by_weight<'a, 'b>(candidates: &'b [Candidate<'a>], random: f64) -> Option<&'b Candidate<'a>> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.workload.capacity)).sum();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "weights are small"
    )]
    let mut ticket = (random * total as f64) as u64;
    for candidate in candidates {
        let weight = u64::from(candidate.workload.capacity);
        if ticket < weight {
            return Some(candidate);
        }
        ticket -= weight;
    }
    // All weights are zero: none is meant to be used.
    None
}
