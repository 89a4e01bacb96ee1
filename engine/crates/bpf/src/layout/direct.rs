//! Mirrors of `direct.h`.

use aya::Pod;

use super::Connection;

/// `struct direct_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DirectKey {
    /// Cookie of the client's namespace.
    pub(crate) netns: u64,
    /// Where it connects to.
    pub(crate) address: [u8; 16],
    /// Host order.
    pub(crate) port: u16,
    /// Zero.
    pub(crate) _pad: [u16; 3],
}

/// `struct direct_verdict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DirectVerdict {
    /// Cookie of the destination's namespace.
    pub(crate) destination_netns: u64,
    /// The client's address.
    pub(crate) source: [u8; 16],
}

/// Endpoints of a service in the kernel's table (`DIRECT_ENDPOINTS`).
pub(crate) const ENDPOINTS: usize = 32;

/// `struct direct_endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct DirectEndpoint {
    /// Its address.
    pub(crate) address: [u8; 16],
    /// Host order.
    pub(crate) port: u16,
    /// Zero.
    pub(crate) _pad: u16,
    /// The weights up to this endpoint's, added up.
    pub(crate) share_end: u32,
}

/// `struct direct_service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DirectService {
    /// Endpoints that are set.
    pub(crate) count: u32,
    /// All weights, added up.
    pub(crate) shares: u32,
    /// The first `count` are set.
    pub(crate) endpoints: [DirectEndpoint; ENDPOINTS],
}

/// `struct direct_flow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DirectFlow {
    /// Cookie of the client's namespace.
    pub(crate) source_netns: u64,
    /// Cookie of the destination's.
    pub(crate) destination_netns: u64,
    /// Of the client's socket.
    pub(crate) cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) began: u64,
    /// The same; 0: not yet.
    pub(crate) opened: u64,
    /// Bytes when the client's FIN was acknowledged.
    pub(crate) received: u64,
    /// What the client has connected to.
    pub(crate) target: [u8; 16],
    /// Network order.
    pub(crate) target_port: [u8; 2],
    /// `enum direct_state`.
    pub(crate) state: u16,
    /// Bits of `enum direct_ending`.
    pub(crate) ending: u32,
}

/// `struct direct_event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct DirectEvent {
    /// As the client sees it.
    pub(crate) connection: Connection,
    /// `enum direct_event_kind`.
    pub(crate) kind: u32,
    /// What is known of it.
    pub(crate) flow: DirectFlow,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) at: u64,
    /// Bytes that the destination has acknowledged, SYN and FIN included.
    pub(crate) to_destination: u64,
    /// Bytes that the client has received, a FIN included.
    pub(crate) to_client: u64,
}

// SAFETY: only numbers and bytes, no padding; every bit pattern is valid.
unsafe impl Pod for DirectKey {}
// SAFETY: the same.
unsafe impl Pod for DirectVerdict {}
// SAFETY: the same.
unsafe impl Pod for DirectService {}
// SAFETY: the same.
unsafe impl Pod for DirectFlow {}
// SAFETY: the same.
unsafe impl Pod for DirectEvent {}

/// `enum direct_state`.
#[cfg(test)]
pub(crate) const STATES: [(&str, u32); 2] = [("DIRECT_OPENING", 0), ("DIRECT_OPEN", 1)];

/// Of `enum direct_ending`: the client's FIN was acknowledged.
pub(crate) const FIN_ACKED: u32 = 1;
/// The destination's FIN was received.
pub(crate) const FIN_RECEIVED: u32 = 2;

/// `enum direct_event_kind`.
pub(crate) const OPENED: u32 = 0;
/// See [`OPENED`].
pub(crate) const CLOSED: u32 = 1;
/// See [`OPENED`].
pub(crate) const FORBIDDEN: u32 = 2;

/// `enum flow_table`.
pub(crate) const USED: u32 = 0;
/// See [`USED`].
pub(crate) const OWNER: u32 = 1;
/// See [`USED`].
pub(crate) const SEEN: u32 = 2;

/// `enum direct_count`, without the prefix.
pub(crate) const COUNTS: [&str; 5] = ["connected", "full", "unrecorded", "forbidden", "lost"];
