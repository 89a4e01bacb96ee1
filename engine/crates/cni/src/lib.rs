//! A chained CNI plugin with one job: it has the node agent capture a pod before its containers start.
//!
//! It fails closed. Where the node agent cannot be reached or refuses, the sandbox does not start and the kubelet
//! tries again: a pod of the mesh never runs uncaptured. Whether a pod belongs to the mesh is the node agent's to say;
//! the plugin talks to nothing else, so it needs neither credentials nor the Kubernetes API.
//!
//! Contract: CNI specification 0.3.1 to 1.1.0, <https://www.cni.dev/docs/spec/>; the request is that of Istio's plugin
//! (`POST /cmdadd` on a Unix socket).

pub mod agent;
pub mod cni;
