//! One service: a name, addresses, and rules for choosing among its endpoints.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_core::Rejection;
use culvert_core::identity::Identity;
use culvert_core::proto::workload as wire;
use culvert_core::proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use ipnet::IpNet;

use crate::address::NetworkAddress;
use crate::gateway::Gateway;
use crate::parse::{known, parse_ip, parse_port};
use crate::service_key::ServiceKey;

/// A service: a Kubernetes Service or a host of a ServiceEntry.
#[derive(Debug)]
pub struct Service {
    /// Its namespace and hostname.
    pub key: ServiceKey,
    /// The name of its resource.
    pub name: Arc<str>,
    /// Its virtual addresses.
    pub addresses: Vec<NetworkAddress>,
    /// Ranges of addresses, each in a network.
    pub ranges: Vec<(Arc<str>, IpNet)>,
    /// Service port to target port; 0 is a named port, whose number each endpoint has.
    pub ports: HashMap<u16, u16>,
    /// Identities that its endpoints may have besides their own.
    pub identities: Vec<Identity>,
    /// The waypoint that connections to the service go through.
    pub waypoint: Option<Gateway>,
    /// What source and endpoint should have in common, the most important first.
    pub scopes: Vec<Scope>,
    /// How strictly `scopes` are followed.
    pub mode: Mode,
    /// Whether endpoints that are not ready are selected too.
    pub publish_not_ready: bool,
    /// The families of its addresses.
    pub ip_families: wire::IpFamilies,
    /// Whether it is preferred to other services of the same hostname or address.
    pub canonical: bool,
    /// Whether only clients of its own namespace see it.
    pub private: bool,
}

impl Service {
    /// Read a service as the control plane sends it.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn parse(wire: wire::Service) -> Result<Self, Rejection> {
        if wire.hostname.is_empty() {
            return Err(Rejection::new("hostname", "is empty"));
        }
        let mut addresses = Vec::new();
        let mut ranges = Vec::new();
        for address in wire.addresses {
            let ip = parse_ip("addresses", &address.address)?;
            let network: Arc<str> = address.network.into();
            let full = if ip.is_ipv4() { 32 } else { 128 };
            match address.length {
                Some(length) if length != full => ranges.push((network, prefix(ip, length)?)),
                _ => addresses.push(NetworkAddress { network, ip }),
            }
        }
        let ports = wire
            .ports
            .iter()
            .map(|port| Ok((parse_port("ports", port.service_port)?, parse_port("ports", port.target_port)?)))
            .collect::<Result<_, Rejection>>()?;
        let balancing = wire.load_balancing.unwrap_or_default();
        let scopes = balancing
            .routing_preference
            .iter()
            .map(|&scope| match known("load_balancing.routing_preference", scope)? {
                Scope::UnspecifiedScope => Err(Rejection::new("load_balancing.routing_preference", "is unspecified")),
                scope => Ok(scope),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            key: ServiceKey::new(&wire.namespace, &wire.hostname),
            name: wire.name.into(),
            addresses,
            ranges,
            ports,
            // Names that are no workload identity cannot appear in a mesh certificate, so they can be left out.
            identities: wire.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect(),
            waypoint: wire.waypoint.map(|gateway| Gateway::parse("waypoint", gateway)).transpose()?,
            scopes,
            mode: known("load_balancing.mode", balancing.mode)?,
            publish_not_ready: known::<HealthPolicy>("load_balancing.health_policy", balancing.health_policy)?
                == HealthPolicy::AllowAll,
            ip_families: known("ip_families", wire.ip_families)?,
            canonical: wire.canonical,
            private: wire.visibility == wire::service::Visibility::Namespace as i32,
        })
    }

    /// Whether the service has addresses of this one's family.
    pub(crate) const fn has_family_of(&self, ip: std::net::IpAddr) -> bool {
        match self.ip_families {
            wire::IpFamilies::Ipv4Only => ip.is_ipv4(),
            wire::IpFamilies::Ipv6Only => ip.is_ipv6(),
            wire::IpFamilies::Automatic | wire::IpFamilies::Dual => true,
        }
    }
}

fn prefix(ip: std::net::IpAddr, length: u32) -> Result<IpNet, Rejection> {
    let invalid = || Rejection::new("addresses.length", format!("{length} is no prefix length of {ip}"));
    let length = u8::try_from(length).map_err(|_| invalid())?;
    IpNet::new(ip, length).map(|net| net.trunc()).map_err(|_| invalid())
}
