//! Mirrors of `capture.h`.

use aya::Pod;

/// Excluded links of a plan.
pub(crate) const EXCLUDED_LINKS: usize = 8;

/// `struct pod_plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct PodPlan {
    /// Where the tunnel is reached by IPv4, mapped; zero: nowhere.
    pub(crate) address_v4: [u8; 16],
    /// The same by IPv6.
    pub(crate) address_v6: [u8; 16],
    /// Bits of `PodFlag`.
    pub(crate) flags: u32,
    /// Of its ports and ranges.
    pub(crate) generation: u32,
    /// Interface indices; 0: none.
    pub(crate) excluded_links: [u32; EXCLUDED_LINKS],
}

/// `struct port_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct PortKey {
    /// Cookie of the namespace.
    pub(crate) netns: u64,
    /// See `PodPlan`.
    pub(crate) generation: u32,
    /// Host order.
    pub(crate) port: u16,
    /// `PortList`.
    pub(crate) list: u16,
}

/// `struct listener_slot`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct ListenerSlot {
    /// Cookie of the namespace.
    pub(crate) netns: u64,
    /// Below `LISTENER_SLOTS`.
    pub(crate) slot: u32,
    /// Zero.
    pub(crate) _pad: u32,
}

/// Slots of a namespace in `cv_listeners`.
pub(crate) const LISTENER_SLOTS: u32 = 16;

// SAFETY: only numbers and bytes, no padding; every bit pattern is valid.
unsafe impl Pod for PodPlan {}
// SAFETY: the same.
unsafe impl Pod for PortKey {}
// SAFETY: the same.
unsafe impl Pod for ListenerSlot {}

/// `enum pod_flag`: what `PodRules` calls flags.
pub(crate) const POD_FLAGS: [(&str, u32); 6] = [
    ("POD_CAPTURE", 1),
    ("POD_DNS", 2),
    ("POD_INBOUND", 4),
    ("POD_INBOUND_LISTED", 8),
    ("POD_OUTBOUND_LISTED", 16),
    ("POD_TUNNEL_ALWAYS", 32),
];

/// `enum port_list`.
pub(crate) const PORT_LISTS: [(&str, u32); 4] =
    [("PORT_OUTBOUND_NEVER", 0), ("PORT_OUTBOUND_ONLY", 1), ("PORT_INBOUND_NEVER", 2), ("PORT_INBOUND_ONLY", 3)];

/// `enum range_flag`.
pub(crate) const RANGE_FLAGS: [(&str, u32); 4] =
    [("RANGE_LOCAL", 1), ("RANGE_EXCLUDED", 2), ("RANGE_ONLY", 4), ("RANGE_PROBES", 8)];

/// `enum treatment`.
#[cfg(test)]
pub(crate) const TREATMENTS: [(&str, u32); 5] =
    [("TREAT_LOCAL", 0), ("TREAT_PASS", 1), ("TREAT_CAPTURE", 2), ("TREAT_DNS", 3), ("TREAT_DIRECT", 4)];

/// `enum capture_count`, without the prefix: what `Capture::counts` returns.
pub(crate) const COUNTS: [&str; 7] =
    ["outbound", "inbound", "dns", "passed", "refused_no_storage", "refused_no_listener", "refused_no_address"];

/// The structs that user space does not touch: their layout is compared all the same, so that pinned maps stay good.
#[cfg(test)]
pub(crate) mod kernel_only {
    /// `struct range_key`; see `plans`.
    #[repr(C)]
    pub(crate) struct RangeKey {
        pub(crate) prefix_bits: u32,
        pub(crate) generation: u32,
        pub(crate) netns: u64,
        pub(crate) address: [u8; 16],
    }

    /// `struct destination`.
    #[repr(C)]
    pub(crate) struct Destination {
        pub(crate) address: [u8; 16],
        pub(crate) port: [u8; 2],
        pub(crate) treatment: u16,
    }

    /// `struct client`.
    #[repr(C)]
    pub(crate) struct Client {
        pub(crate) netns: u64,
        pub(crate) address: [u8; 16],
        pub(crate) port: [u8; 2],
        pub(crate) protocol: u16,
        pub(crate) _pad: u32,
    }

    /// `struct arrival`.
    #[repr(C)]
    pub(crate) struct Arrival {
        pub(crate) netns: u64,
        pub(crate) remote: [u8; 16],
        pub(crate) remote_port: u16,
        pub(crate) local_port: u16,
        pub(crate) _pad: u32,
    }
}
