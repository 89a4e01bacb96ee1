//! One service: a name, addresses, and rules for choosing among its endpoints.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::proto::workload as wire;
use culvert_core::proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use ipnet::IpNet;

use super::workload::known;
use super::{Gateway, NetworkAddress, parse_ip, parse_port};
use crate::error::Rejection;

/// `namespace/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl ServiceKey {
    pub(crate) fn new(namespace: &str, hostname: &str) -> Self {
        Self { namespace: namespace.into(), hostname: hostname.into() }
    }

    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, Rejection> {
        match text.split_once('/') {
            Some((namespace, hostname)) if !hostname.is_empty() => Ok(Self::new(namespace, hostname)),
            _ => Err(Rejection::new(field, format!("{text:?} is not namespace/hostname"))),
        }
    }
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

#[derive(Debug)]
pub(crate) struct Service {
    pub key: ServiceKey,
    pub name: Arc<str>,
    pub addresses: Vec<NetworkAddress>,
    pub ranges: Vec<(Arc<str>, IpNet)>,
    /// Service port to target port; 0 is a named port, whose number each endpoint has.
    pub ports: HashMap<u16, u16>,
    pub identities: Vec<Identity>,
    pub waypoint: Option<Gateway>,
    pub scopes: Vec<Scope>,
    pub mode: Mode,
    pub publish_not_ready: bool,
    pub ip_families: wire::IpFamilies,
    pub canonical: bool,
    pub private: bool,
}

impl Service {
    pub(crate) fn parse(wire: wire::Service) -> Result<Self, Rejection> {
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
}

fn prefix(ip: std::net::IpAddr, length: u32) -> Result<IpNet, Rejection> {
    let invalid = || Rejection::new("addresses.length", format!("{length} is no prefix length of {ip}"));
    let length = u8::try_from(length).map_err(|_| invalid())?;
    IpNet::new(ip, length).map(|net| net.trunc()).map_err(|_| invalid())
}
