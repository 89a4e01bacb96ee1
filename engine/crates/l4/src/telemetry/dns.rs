//! Metrics and log of DNS, in the names and labels of Istio's ztunnel.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culvert_core::proto::engine as wire;
use culvert_dns::{QueryType, Transport};
use parking_lot::Mutex;

use super::access_log::{self, Value};
use crate::shared::ProxyState;
use crate::state::Workload;

/// Label sets that are kept; beyond, queries are counted together under `unknown` labels. Types are a short list and
/// the rest is the pods of a node, so this is far away.
const MAX_SERIES: usize = 4_096;
const UNKNOWN: &str = "unknown";
const NAMES: [&str; 4] =
    ["request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"];
/// Seconds.
const BOUNDS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels([Arc<str>; NAMES.len()]);

/// Counters of one label set.
#[derive(Debug, Default)]
pub(crate) struct DnsSeries {
    pub requests: AtomicU64,
    pub upstream_requests: AtomicU64,
    pub upstream_failures: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl DnsSeries {
    /// A resolver has answered.
    pub(crate) fn answered(&self, after: Duration) {
        let bucket = BOUNDS.iter().position(|bound| after.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// All counters of DNS.
#[derive(Debug, Default)]
pub(crate) struct DnsMetrics {
    series: Mutex<HashMap<Labels, Arc<DnsSeries>>>,
}

type Pick = fn(&DnsSeries) -> &AtomicU64;

const COUNTERS: [(&str, &str, Pick); 3] = [
    ("istio_dns_requests", "DNS queries", |series| &series.requests),
    ("istio_dns_upstream_requests", "DNS queries passed on to a resolver", |series| &series.upstream_requests),
    ("istio_dns_upstream_failures", "DNS queries that no resolver answered", |series| &series.upstream_failures),
];

impl DnsMetrics {
    pub(crate) fn series(&self, kind: QueryType, transport: Transport, source: Option<&Workload>) -> Arc<DnsSeries> {
        let known = |value: Option<&Arc<str>>| {
            value.filter(|value| !value.is_empty()).cloned().unwrap_or_else(|| UNKNOWN.into())
        };
        let labels = Labels([
            kind.label().into(),
            transport.label().into(),
            known(source.map(|source| &source.canonical_name)),
            known(source.map(|source| &source.canonical_revision)),
        ]);
        let mut all = self.series.lock();
        if all.len() >= MAX_SERIES && !all.contains_key(&labels) {
            return all.entry(Labels(NAMES.map(|_| UNKNOWN.into()))).or_default().clone();
        }
        all.entry(labels).or_default().clone()
    }

    pub(crate) fn families(&self) -> Vec<wire::MetricFamily> {
        let all: Vec<_> = self.series.lock().iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        let family = |name: &str, help: &str, sample: &dyn Fn(&DnsSeries) -> wire::Sample| wire::MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            label_names: NAMES.iter().map(ToString::to_string).collect(),
            samples: all
                .iter()
                .map(|(labels, series)| wire::Sample {
                    label_values: labels.0.iter().map(ToString::to_string).collect(),
                    ..sample(series)
                })
                .filter(|sample| sample.value > 0)
                .collect(),
            ..Default::default()
        };
        let counter = |(name, help, pick): &(&str, &str, Pick)| {
            let sample =
                |series: &DnsSeries| wire::Sample { value: pick(series).load(Ordering::Relaxed), ..Default::default() };
            family(name, help, &sample)
        };
        let mut families: Vec<_> = COUNTERS.iter().map(counter).collect();
        let took = family("istio_dns_upstream_request_duration_seconds", "Time until a resolver answered", &|series| {
            let buckets: Vec<u64> = series.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
            let sum = Duration::from_micros(series.micros.load(Ordering::Relaxed)).as_secs_f64();
            wire::Sample { value: buckets.iter().sum(), buckets, sum, ..Default::default() }
        });
        families.push(wire::MetricFamily { kind: wire::MetricKind::Histogram.into(), bounds: BOUNDS.to_vec(), ..took });
        families
    }
}

/// What became of one query.
pub(crate) struct DnsRecord<'a> {
    pub source: Option<&'a Workload>,
    pub kind: QueryType,
    pub host: &'a str,
    pub result: &'a str,
    pub endpoints: usize,
}

/// Write a line of the log `dns`, if it is on.
pub(crate) fn log(shared: &ProxyState, record: &DnsRecord<'_>) {
    if !shared.config.dns_log {
        return;
    }
    let mut fields = Vec::with_capacity(6);
    if let Some(source) = record.source {
        fields.push(("src.workload", Value::from(&*source.name)));
        fields.push(("src.namespace", Value::from(&*source.namespace)));
    }
    fields.push(("query", record.kind.label().into()));
    fields.push(("domain", record.host.into()));
    fields.push(("result", record.result.into()));
    fields.push(("endpoints", Value::Number(u64::try_from(record.endpoints).unwrap_or_default())));
    access_log::emit(shared, "debug", ("dns", "dns query"), &fields);
}
