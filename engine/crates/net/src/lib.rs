//! Sockets in network namespaces, and the loops that copy between them. All `unsafe` of the tunnel is here.
//!
//! This crate knows neither HTTP/2 nor TLS nor policy.

pub mod buffered;
pub mod conntrack;
pub mod copy;
pub mod dns;
pub mod listener;
pub mod memory;
pub mod memory_budget;
pub mod netns;
pub mod origins;
pub mod refusal;
pub mod sock_diag;
pub mod socket;
pub mod transfer;
pub mod wakeup;
