//! One workload: usually a pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_core::proto::workload as wire;
use culvert_hbone::headers::Baggage;

use super::service::ServiceKey;
use super::{Gateway, parse_ip, parse_port};
use crate::error::Rejection;

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Plain,
    Hbone,
}

/// Where a workload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Workload {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub addresses: Vec<IpAddr>,
    /// Resolved when a connection comes, where there is no address.
    pub hostname: Arc<str>,
    pub network: Arc<str>,
    pub protocol: Protocol,
    pub identity: Identity,
    pub waypoint: Option<Gateway>,
    pub node: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub workload_type: wire::WorkloadType,
    pub workload_name: Arc<str>,
    pub native_tunnel: bool,
    pub services: HashMap<ServiceKey, HashMap<u16, u16>>,
    pub policies: Vec<Arc<str>>,
    pub healthy: bool,
    pub cluster: Arc<str>,
    pub locality: Locality,
    pub host_network: bool,
    pub capacity: u32,
}

impl Workload {
    pub(crate) fn parse(wire: wire::Workload) -> Result<Self, Rejection> {
        if wire.uid.is_empty() {
            return Err(Rejection::new("uid", "is empty"));
        }
        let protocol = match wire::TunnelProtocol::try_from(wire.tunnel_protocol) {
            Ok(wire::TunnelProtocol::None) => Protocol::Plain,
            Ok(wire::TunnelProtocol::Hbone) => Protocol::Hbone,
            _ => return Err(Rejection::new("tunnel_protocol", format!("{} is not supported", wire.tunnel_protocol))),
        };
        let or = |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
        let identity = Identity::new(
            &or(&wire.trust_domain, names::DEFAULT_TRUST_DOMAIN),
            &wire.namespace,
            &or(&wire.service_account, "default"),
        )
        .map_err(|error| Rejection::new("service_account", error.to_string()))?;
        let services = wire
            .services
            .iter()
            .map(|(key, ports)| Ok((ServiceKey::parse("services", key)?, parse_ports(ports)?)))
            .collect::<Result<_, Rejection>>()?;
        let locality = wire.locality.unwrap_or_default();
        Ok(Self {
            identity,
            protocol,
            services,
            addresses: wire.addresses.iter().map(|bytes| parse_ip("addresses", bytes)).collect::<Result<_, _>>()?,
            waypoint: wire.waypoint.map(|gateway| Gateway::parse("waypoint", gateway)).transpose()?,
            workload_type: known("workload_type", wire.workload_type)?,
            healthy: known::<wire::WorkloadStatus>("status", wire.status)? == wire::WorkloadStatus::Healthy,
            host_network: known::<wire::NetworkMode>("network_mode", wire.network_mode)?
                == wire::NetworkMode::HostNetwork,
            policies: wire.authorization_policies.into_iter().map(Arc::from).collect(),
            cluster: or(&wire.cluster_id, names::DEFAULT_CLUSTER_ID).into(),
            hostname: wire.hostname.to_ascii_lowercase().trim_end_matches('.').into(),
            uid: wire.uid.into(),
            name: wire.name.into(),
            namespace: wire.namespace.into(),
            network: wire.network.into(),
            node: wire.node.into(),
            canonical_name: wire.canonical_name.into(),
            canonical_revision: wire.canonical_revision.into(),
            workload_name: wire.workload_name.into(),
            native_tunnel: wire.native_tunnel,
            locality: Locality {
                region: locality.region.into(),
                zone: locality.zone.into(),
                subzone: locality.subzone.into(),
            },
            capacity: wire.capacity.unwrap_or(1),
        })
    }

    /// Address to dial for a request that came in the family of `like`, which is preferred.
    pub(crate) fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == like.is_ipv4();
        self.addresses.iter().find(same_family).or_else(|| self.addresses.first()).copied()
    }

    /// The baggage that describes this workload to a peer.
    pub(crate) fn baggage(&self) -> Baggage {
        let known = |value: &Arc<str>| (!value.is_empty()).then(|| value.to_string());
        let kind = match self.workload_type {
            wire::WorkloadType::Deployment => "deployment",
            wire::WorkloadType::Cronjob => "cronjob",
            wire::WorkloadType::Pod => "pod",
            wire::WorkloadType::Job => "job",
        };
        Baggage {
            cluster: known(&self.cluster),
            namespace: known(&self.namespace),
            workload: known(&self.workload_name),
            workload_type: Some(kind.to_owned()),
            service: known(&self.canonical_name),
            version: known(&self.canonical_revision),
            region: known(&self.locality.region),
            zone: known(&self.locality.zone),
        }
    }
}

/// An enumeration's value, or a refusal of one that this version does not know.
pub(crate) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Rejection> {
    T::try_from(value).map_err(|_| Rejection::new(field, format!("value {value} is not known")))
}

fn parse_ports(list: &wire::PortList) -> Result<HashMap<u16, u16>, Rejection> {
    let port = |port: &wire::Port| {
        Ok((parse_port("services.ports", port.service_port)?, parse_port("services.ports", port.target_port)?))
    };
    list.ports.iter().map(port).collect()
}
