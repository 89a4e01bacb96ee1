//! Carrying connections: what happens on the workers, threads with a runtime each.
//!
//! In layers, from below: context, connections, pod; then what opens connections (connect, dns, retry) and what
//! authorizes them (admission); then each kind of connection (outbound, inbound, plaintext); then serve and worker.

mod admission;
mod connect;
mod connections;
mod context;
mod dns;
mod inbound;
mod outbound;
mod plaintext;
mod pod;
mod refusal;
mod retry;
mod serve;
mod worker;

pub(crate) use connections::Connections;
