//! What is counted and logged of each connection. Names and labels are Istio's standard ones.

mod access_log;
mod flow;
mod metrics;

pub(crate) use flow::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security};
pub(crate) use metrics::Metrics;
