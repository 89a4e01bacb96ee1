//! The layer 4 tunnel: what it knows of the mesh, whom it lets through, and how it carries their connections.
//!
//! Entry point: [`Engine`]. Workers are threads, each with its own single-threaded runtime; a connection stays on
//! the worker that accepted it. What all workers read (workloads, policies, certificates) is written by the host's calls.

mod config;
mod direct;
mod dump;
mod engine;
mod error;
mod mesh;
mod proxy;
mod shared;
mod watch;

pub use config::Config;
pub use dump::Section;
pub use engine::{AuthzQuery, Engine, Upsert};
pub use error::EngineError;
