//! Ports, marks and type URLs. `meshapi/names.py` is the original; a test compares the two.

/// Outbound capture.
pub const OUTBOUND_PORT: u16 = 15001;
/// Inbound plain-text capture.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// HBONE.
pub const HBONE_PORT: u16 = 15008;
/// DNS, UDP and TCP, on loopback.
pub const DNS_PORT: u16 = 15053;
/// Mark of every socket that the engine opens in a pod.
pub const TUNNEL_MARK: u32 = 0x539;
/// Default trust domain.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Default suffix of service names.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// Default cluster ID.
pub const DEFAULT_CLUSTER_ID: &str = "Kubernetes";
/// Label by which the pods of a namespace may reach only what the registry knows.
pub const EGRESS_LABEL: &str = "culvert.io/egress";
/// Its value.
pub const EGRESS_REGISTRY_ONLY: &str = "registry-only";
/// Extension of a workload for which that counts.
pub const EGRESS_EXTENSION: &str = "culvert.io/egress-registry-only";
/// `istio.workload.Address`.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// `istio.security.Authorization`.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";
/// `istio.mesh.v1alpha1.MeshConfig`.
pub const MESH_CONFIG_TYPE: &str = "type.googleapis.com/istio.mesh.v1alpha1.MeshConfig";

/// All ports of the tunnel inside a pod.
pub const TUNNEL_PORTS: [u16; 4] = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, HBONE_PORT, DNS_PORT];

/// Whether a port is the tunnel's own: a connection to it from inside the pod would be a loop.
#[must_use]
pub fn is_tunnel_port(port: u16) -> bool {
    TUNNEL_PORTS.contains(&port)
}
