//! The mesh as its control plane describes it: workloads, services and policies, indexed by what a connection looks up, the
//! route of a connection, and whether policy allows it.
//!
//! A [`Store`] has one writer (the host's calls), many readers (the workers) and short critical sections. A refused resource
//! leaves the last good one in force. The order in which resources arrive does not matter. This crate opens no connection
//! and does not know who serves a workload.

mod address;
mod balance;
mod gateway;
mod names;
mod parse;
mod policy;
mod resolve;
mod route;
mod service;
mod service_key;
mod store;
mod workload;

pub use address::NetworkAddress;
pub use balance::{SharedEndpoint, target_port};
pub use gateway::{Gateway, GatewayDestination};
pub use policy::{Condition, Denied, Match, Pattern, Policies, Policy, Subject};
pub use route::{Route, RouteError};
pub use service::Service;
pub use service_key::ServiceKey;
pub use store::Store;
pub use workload::{Locality, Protocol, Workload};
