//! Mirrors of what `bpf/include` shares with user space.

pub(crate) mod capture;
pub(crate) mod direct;
pub(crate) mod egress;

use std::net::IpAddr;

use aya::Pod;

/// `struct connection` of `connection.h`: a TCP connection as the pod sees it, all fields in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Connection {
    /// The pod's address, mapped if it is IPv4.
    pub(crate) local: [u8; 16],
    /// The peer's address, likewise.
    pub(crate) remote: [u8; 16],
    /// The pod's port.
    pub(crate) local_port: [u8; 2],
    /// The peer's port.
    pub(crate) remote_port: [u8; 2],
}

// SAFETY: only bytes, no padding; every bit pattern is valid.
unsafe impl Pod for Connection {}

/// The 16 bytes of an address in `struct connection`.
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// `enum stage` of `guard.h`: state of a connection when the guard was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    /// SYN sent.
    Opening = 0,
    /// Its handshake is complete.
    Open = 1,
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "reads objects that this build has made; a panic fails the test")]
mod btf;
#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a panic fails the test")]
mod tests;
