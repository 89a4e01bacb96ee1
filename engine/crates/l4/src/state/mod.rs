//! The engine's store: workloads, services and policies, indexed by what a connection looks up.
//!
//! One writer (the host's calls), many readers (the workers), short critical sections. A refused resource leaves the
//! last good one in force. The order in which resources arrive does not matter.

mod balance;
mod index;
mod names;
mod resolve;
mod service;
mod workload;

pub(crate) use balance::target_port;
pub(crate) use index::Store;
pub(crate) use resolve::{Route, RouteError};
pub(crate) use service::{Service, ServiceKey};
pub(crate) use workload::{Protocol, Workload, known};

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::Rejection;

/// An address within a network; the empty network is the default one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NetworkAddress {
    pub network: Arc<str>,
    pub ip: IpAddr,
}

/// Where a waypoint or gateway is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GatewayDestination {
    Service(ServiceKey),
    Address(NetworkAddress),
}

/// A waypoint or gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub destination: GatewayDestination,
    pub hbone_port: u16,
}

pub(crate) fn parse_ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Rejection> {
    let ip: Option<IpAddr> = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    ip.ok_or_else(|| Rejection::new(field, format!("an address has 4 or 16 bytes, not {}", bytes.len())))
}

pub(crate) fn parse_port(field: &str, port: u32) -> Result<u16, Rejection> {
    u16::try_from(port).map_err(|_| Rejection::new(field, format!("{port} is not a port")))
}

impl Gateway {
    fn parse(field: &str, wire: culvert_core::proto::workload::GatewayAddress) -> Result<Self, Rejection> {
        use culvert_core::proto::workload::gateway_address::Destination;
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
            0 => culvert_core::names::HBONE_PORT,
            port => port,
        };
        Ok(Self { destination, hbone_port })
    }
}
