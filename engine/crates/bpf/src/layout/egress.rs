//! Mirrors of `egress.h`.

use aya::Pod;

/// `struct answerable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Answerable {
    /// The pod's address, mapped if it is IPv4.
    pub(crate) local: [u8; 16],
    /// The peer's address, likewise.
    pub(crate) remote: [u8; 16],
    /// Network order.
    pub(crate) local_port: [u8; 2],
    /// Network order.
    pub(crate) remote_port: [u8; 2],
    /// Inode number of the pod's namespace.
    pub(crate) netns: u32,
    /// `IPPROTO_*`.
    pub(crate) protocol: u32,
}

/// `struct on_link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct OnLink {
    /// Its first address.
    pub(crate) address: [u8; 16],
    /// Bits of the prefix; 0: none.
    pub(crate) bits: u32,
}

/// Ranges that a program knows (`ON_LINK_RANGES`).
pub(crate) const ON_LINK_RANGES: usize = 8;

/// All of them: the value of the program's constant.
#[derive(Debug, Clone, Copy, Default)]
#[repr(transparent)]
pub(crate) struct OnLinkRanges(pub(crate) [OnLink; ON_LINK_RANGES]);

// SAFETY: only numbers and bytes, no padding; every bit pattern is valid.
unsafe impl Pod for Answerable {}
// SAFETY: the same.
unsafe impl Pod for OnLink {}
// SAFETY: the same.
unsafe impl Pod for OnLinkRanges {}

/// `enum begun_by`: who has begun what may be answered.
pub(crate) const BEGUN_BY_PEER: u32 = 1;
/// The same.
#[cfg(test)]
pub(crate) const BEGUN_BY_TUNNEL: u32 = 2;

/// `enum egress_drop`, without the prefix and in the order of its values: what `Egress::drops` returns.
pub(crate) const DROPS: [&str; 7] = ["unreadable", "tcp", "udp", "icmp", "protocol", "link", "bypass"];
