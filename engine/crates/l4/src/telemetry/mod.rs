//! What is counted and logged of each connection. Names and labels are Istio's standard ones.

mod access_log;
#[cfg(test)]
mod class_19;
mod distrusted;
mod dns;
mod dry_run;
mod flow;
mod log_format;
mod log_time;
mod metrics;
mod on_demand_dns;
mod otlp;
mod retries;

pub(crate) use access_log::{AccessLogSettings, Encoding};
pub(crate) use dns::{DnsRecord, log as dns_log};
pub(crate) use flow::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security};
pub(crate) use metrics::{Metrics, single};
pub(crate) use retries::RetryReason;
