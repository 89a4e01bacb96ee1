//! Addresses, which are unique within a network only.

use std::net::IpAddr;
use std::sync::Arc;

/// An address within a network; the empty network is the default one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkAddress {
    /// The network.
    pub network: Arc<str>,
    /// The address in it.
    pub ip: IpAddr,
}
