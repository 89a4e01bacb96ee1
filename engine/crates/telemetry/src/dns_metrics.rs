//! Metrics of DNS, in the names and labels of Istio's ztunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culvert_core::proto::engine as wire;
use culvert_dns::{QueryType, Transport};
use culvert_mesh::Workload;
use culvert_metrics::{Histogram, HistogramValues, Instrument, SeriesLimits, SeriesTable};

use crate::flow::UNKNOWN;
use crate::labels::or_unknown;

/// Label sets that are kept; beyond, queries are counted together under `unknown` labels. Types are a short list and
/// the rest is the pods of a node, so this is far away.
const MAX_SERIES: usize = 4_096;
const NAMES: [&str; 4] =
    ["request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"];
/// Seconds.
const BOUNDS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// Counters of one label set.
#[derive(Debug, Default)]
pub struct DnsSeries {
    /// Queries.
    pub requests: AtomicU64,
    /// Queries passed on to a resolver.
    pub upstream_requests: AtomicU64,
    /// Queries that no resolver answered.
    pub upstream_failures: AtomicU64,
    upstream_durations: Histogram<{ BOUNDS.len() }>,
}

impl DnsSeries {
    /// A resolver has answered.
    pub fn answered(&self, after: Duration) {
        self.upstream_durations.observe(&BOUNDS, after);
    }
}

/// Values of a [`DnsSeries`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DnsValues {
    requests: u64,
    upstream_requests: u64,
    upstream_failures: u64,
    upstream_durations: HistogramValues<{ BOUNDS.len() }>,
}

impl Instrument for DnsSeries {
    type Values = DnsValues;

    fn values(&self) -> DnsValues {
        DnsValues {
            requests: self.requests.load(Ordering::Relaxed),
            upstream_requests: self.upstream_requests.load(Ordering::Relaxed),
            upstream_failures: self.upstream_failures.load(Ordering::Relaxed),
            upstream_durations: self.upstream_durations.values(),
        }
    }
}

/// All counters of DNS.
#[derive(Debug)]
pub struct DnsMetrics(SeriesTable<[Arc<str>; NAMES.len()], DnsSeries>);

impl Default for DnsMetrics {
    fn default() -> Self {
        let limits = SeriesLimits { capacity: MAX_SERIES, max_self_reported: 0, idle_timeout: None };
        Self(SeriesTable::new(NAMES, NAMES.map(|_| UNKNOWN.into()), limits))
    }
}

impl DnsMetrics {
    /// The series of a query.
    pub fn series(&self, kind: QueryType, transport: Transport, source: Option<&Workload>) -> Arc<DnsSeries> {
        self.0.series([
            kind.label().into(),
            transport.label().into(),
            source.map_or_else(|| UNKNOWN.into(), |source| or_unknown(&source.canonical_name)),
            source.map_or_else(|| UNKNOWN.into(), |source| or_unknown(&source.canonical_revision)),
        ])
    }

    /// All families of DNS.
    #[must_use]
    pub fn families(&self) -> [wire::MetricFamily; 4] {
        let series = self.0.snapshot();
        [
            series.counter("istio_dns_requests", "DNS queries", |values| values.requests),
            series.counter("istio_dns_upstream_requests", "DNS queries passed on to a resolver", |values| {
                values.upstream_requests
            }),
            series.counter("istio_dns_upstream_failures", "DNS queries that no resolver answered", |values| {
                values.upstream_failures
            }),
            series.histogram(
                "istio_dns_upstream_request_duration_seconds",
                "Time until a resolver answered",
                &BOUNDS,
                |values| values.upstream_durations,
            ),
        ]
    }
}
