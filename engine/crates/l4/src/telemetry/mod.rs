//! What is counted and logged of each connection. Names and labels are Istio's standard ones.

mod access_log;
mod by_reporter;
#[cfg(test)]
mod cardinality_tests;
mod dns;
mod dry_run;
mod flow;
mod labels;
mod log_format;
mod log_time;
mod metrics;
mod on_demand_dns;
mod otlp;
mod retries;
mod tcp;
mod untrusted_peers;

pub(crate) use access_log::{AccessLogSettings, Encoding};
pub(crate) use dns::{DnsRecord, log as dns_log};
pub(crate) use flow::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security};
pub(crate) use labels::LabelSelection;
pub(crate) use metrics::Metrics;
pub(crate) use retries::RetryReason;
pub(crate) use tcp::SeriesSettings;
