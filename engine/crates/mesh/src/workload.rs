//! One workload: usually a pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::proto::workload as wire;
use culvert_core::{Rejection, names};
use culvert_hbone::headers::Baggage;

use crate::gateway::Gateway;
use crate::parse::{known, parse_ip, parse_port};
use crate::service_key::ServiceKey;

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, in plain text.
    Plain,
    /// Through a tunnel.
    Hbone,
}

/// Where a workload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Subzone.
    pub subzone: Arc<str>,
}

/// A workload: a pod, or an endpoint outside of the cluster.
#[derive(Debug)]
pub struct Workload {
    /// Unique in the mesh; for a pod, `cluster//Pod/namespace/name`.
    pub uid: Arc<str>,
    /// The name of its resource.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its host name, which is resolved for a connection where there is no address.
    pub hostname: Arc<str>,
    /// The network of its addresses.
    pub network: Arc<str>,
    /// How it is reached.
    pub protocol: Protocol,
    /// Its identity.
    pub identity: Identity,
    /// The waypoint that connections to the workload go through.
    pub waypoint: Option<Gateway>,
    /// The node that it runs on.
    pub node: Arc<str>,
    /// The service that it belongs to, for telemetry.
    pub canonical_name: Arc<str>,
    /// The revision of that service.
    pub canonical_revision: Arc<str>,
    /// The kind of its controller.
    pub workload_type: wire::WorkloadType,
    /// The name of its controller.
    pub workload_name: Arc<str>,
    /// Whether it speaks HBONE itself.
    pub native_tunnel: bool,
    /// Services that it is an endpoint of, each with its ports: service port to target port.
    pub services: HashMap<ServiceKey, HashMap<u16, u16>>,
    /// Policies that select it, by key.
    pub policies: Vec<Arc<str>>,
    /// Whether it is ready.
    pub healthy: bool,
    /// The cluster that it runs in.
    pub cluster: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether it has its node's network, and so its addresses.
    pub host_network: bool,
    /// Its weight among the endpoints of a service.
    pub capacity: u32,
    /// Whether it may reach only what the registry knows.
    pub registry_only: bool,
}

impl Workload {
    /// Read a workload as the control plane sends it.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn parse(wire: wire::Workload) -> Result<Self, Rejection> {
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
            registry_only: wire.extensions.iter().any(|one| one.name == names::EGRESS_EXTENSION),
        })
    }

    /// Address to dial for a request that came in the family of `like`, which is preferred.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == like.is_ipv4();
        self.addresses.iter().find(same_family).or_else(|| self.addresses.first()).copied()
    }

    /// Whether a client that calls the workload's own address may call this port. What runs on no node of the cluster,
    /// such as an endpoint of a ServiceEntry, has the ports of its services, if it has any.
    #[must_use]
    pub fn is_called_at(&self, port: u16) -> bool {
        let mut known = self.services.values().flat_map(HashMap::values);
        !self.node.is_empty() || self.services.is_empty() || known.any(|one| *one == port)
    }

    /// The baggage that describes this workload to a peer.
    #[must_use]
    pub fn baggage(&self) -> Baggage {
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

fn parse_ports(list: &wire::PortList) -> Result<HashMap<u16, u16>, Rejection> {
    let port = |port: &wire::Port| {
        Ok((parse_port("services.ports", port.service_port)?, parse_port("services.ports", port.target_port)?))
    };
    list.ports.iter().map(port).collect()
}
