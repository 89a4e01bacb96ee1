//! DNS inside a pod: names of the mesh are answered here, all others by the pod's own resolver.

mod answer;
mod on_demand;
mod pending;
mod tcp;
mod udp;
mod upstream;

pub(super) use on_demand::resolve;
pub(super) use pending::{Dns, open};
pub(super) use tcp::begin as begin_tcp;
pub(super) use udp::serve as serve_udp;
