//! Identities, names, wire types and rejections of resources. A leaf: it knows no socket, no task and no policy.

pub mod identity;
pub mod names;
mod rejection;

pub use rejection::Rejection;

/// Wire types made from `meshapi/proto`; they stop at the edge of the crate that decodes them.
pub mod proto {
    #![allow(missing_docs, reason = "the .proto files are the documentation")]
    #![allow(clippy::all, reason = "generated")]

    /// Workload discovery.
    pub mod workload {
        include!(concat!(env!("OUT_DIR"), "/istio.workload.rs"));
    }
    /// Layer 4 authorization.
    pub mod security {
        include!(concat!(env!("OUT_DIR"), "/istio.security.rs"));
    }
    /// The mesh configuration.
    pub mod mesh {
        include!(concat!(env!("OUT_DIR"), "/istio.mesh.v1alpha1.rs"));
    }
    /// The boundary to the Python host.
    pub mod engine {
        include!(concat!(env!("OUT_DIR"), "/culvert.engine.rs"));
    }
}
