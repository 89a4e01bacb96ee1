//! What is counted and logged of each connection. Names and labels are Istio's standard ones.
//!
//! A connection is described by a [`Flow`] and counted while it is an [`OpenFlow`]; at its end it is an entry of the access
//! log. All of it goes through one [`Telemetry`], which has the settings, the counters and the buffer of lines and records
//! for the host. This crate does not know who carries a connection.

mod access_log;
mod by_reporter;
#[cfg(test)]
mod cardinality_tests;
mod dns_log;
mod dns_metrics;
mod dry_run;
mod fields;
mod flow;
mod labels;
mod line;
mod line_format;
mod log_buffer;
mod metrics;
mod on_demand_dns;
mod open_flow;
mod otlp;
mod outcome;
mod retries;
mod settings;
mod tcp;
mod telemetry;
mod time_format;
mod untrusted_peers;

pub use dns_log::{DnsRecord, write as write_dns_log};
pub use dns_metrics::{DnsMetrics, DnsSeries, DnsValues};
pub use dry_run::DryRuns;
pub use flow::{Direction, Extra, Flow, Peer, Security};
pub use labels::LabelSelection;
pub use line_format::{FormatError, LineFormat};
pub use log_buffer::{LogBatch, LogBuffer};
pub use metrics::Metrics;
pub use on_demand_dns::OnDemandDns;
pub use open_flow::OpenFlow;
pub use outcome::{FlowEnd, ResponseFlag};
pub use retries::{Retries, RetryReason};
pub use settings::{AccessLogSettings, Encoding, TelemetrySettings};
pub use tcp::{Series, SeriesSettings};
pub use telemetry::Telemetry;
pub use untrusted_peers::UntrustedPeers;
