//! Waypoints and gateways, as workloads and services name them.

use culvert_core::proto::workload as wire;
use culvert_core::{Rejection, names};

use crate::address::NetworkAddress;
use crate::parse::{parse_ip, parse_port};
use crate::service_key::ServiceKey;

/// Where a waypoint or gateway is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayDestination {
    /// An endpoint of this service.
    Service(ServiceKey),
    /// The workload or service at this address.
    Address(NetworkAddress),
}

/// A waypoint or gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where it is.
    pub destination: GatewayDestination,
    /// The port of its HBONE listener.
    pub hbone_port: u16,
}

impl Gateway {
    pub(crate) fn parse(field: &str, wire: wire::GatewayAddress) -> Result<Self, Rejection> {
        use wire::gateway_address::Destination;
        let destination = match wire.destination {
            Some(Destination::Hostname(host)) => {
                GatewayDestination::Service(ServiceKey::new(&host.namespace, &host.hostname))
            }
            Some(Destination::Address(address)) => GatewayDestination::Address(NetworkAddress {
                network: address.network.into(),
                ip: parse_ip(field, &address.address)?,
            }),
            None => return Err(Rejection::new(field, "has no destination")),
        };
        let hbone_port = match parse_port(field, wire.hbone_mtls_port)? {
            0 => names::HBONE_PORT,
            port => port,
        };
        Ok(Self { destination, hbone_port })
    }
}
