//! Counters by label set, bounded in number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use culvert_core::identity::Identity;
use culvert_core::proto::engine as wire;
use parking_lot::Mutex;

use super::distrusted::Distrusted;
use super::dns::DnsMetrics;
use super::dry_run::DryRuns;
use super::flow::{Direction, Flow, Peer, ResponseFlag, Security};
use super::on_demand_dns::OnDemandDns;
use super::retries::Retries;

/// Label sets that are kept; beyond, connections are counted together under `unknown` labels.
const MAX_SERIES: usize = 20_000;

/// Of these, label sets in which a peer describes itself (baggage): any client of the mesh can make up as many as it
/// likes (CVE-2025-43915), and must not use up the place of those that are known. Beyond, what it says is left out.
const MAX_SAID: usize = 2_000;

const UNKNOWN: &str = "unknown";

/// Label names in wire order; values of [`Labels`] follow it.
const NAMES: [&str; 27] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
];

/// The values of one label set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels(Vec<Arc<str>>);

impl Labels {
    pub(crate) fn of(flow: &Flow, flag: ResponseFlag) -> Self {
        let source = End::of(&flow.source);
        let destination = End::of(&flow.destination);
        let service = flow.service.as_ref();
        let unknown: Arc<str> = UNKNOWN.into();
        Self(vec![
            if flow.direction == Direction::Outbound { "source" } else { "destination" }.into(),
            source.workload,
            source.canonical_name.clone(),
            source.canonical_revision.clone(),
            source.namespace,
            source.principal,
            source.canonical_name,
            source.canonical_revision,
            source.cluster,
            service.map_or_else(|| unknown.clone(), |service| service.key.hostname.clone()),
            service.map_or_else(|| unknown.clone(), |service| service.key.namespace.clone()),
            service.map_or_else(|| unknown.clone(), |service| service.name.clone()),
            destination.workload,
            destination.canonical_name.clone(),
            destination.canonical_revision.clone(),
            destination.namespace,
            destination.principal,
            destination.canonical_name,
            destination.canonical_revision,
            destination.cluster,
            "tcp".into(),
            flag.label().into(),
            if flow.security == Security::MutualTls { "mutual_tls" } else { UNKNOWN }.into(),
            source.region,
            source.zone,
            destination.region,
            destination.zone,
        ])
    }

    fn overflow() -> Self {
        Self(NAMES.iter().map(|_| Arc::from(UNKNOWN)).collect())
    }
}

struct End {
    workload: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    namespace: Arc<str>,
    principal: Arc<str>,
    cluster: Arc<str>,
    zone: Arc<str>,
    region: Arc<str>,
}

impl End {
    fn of(peer: &Peer) -> Self {
        let known = |value: Option<&str>| Arc::from(value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN));
        let principal = known(peer.identity.as_ref().map(Identity::as_str));
        if let Some(workload) = &peer.workload {
            let or_unknown = |value: &Arc<str>| if value.is_empty() { UNKNOWN.into() } else { value.clone() };
            return Self {
                workload: or_unknown(&workload.workload_name),
                canonical_name: or_unknown(&workload.canonical_name),
                canonical_revision: or_unknown(&workload.canonical_revision),
                namespace: workload.namespace.clone(),
                cluster: workload.cluster.clone(),
                zone: or_unknown(&workload.locality.zone),
                region: or_unknown(&workload.locality.region),
                principal,
            };
        }
        let said = peer.baggage.as_deref().cloned().unwrap_or_default();
        Self {
            workload: known(said.workload.as_deref()),
            canonical_name: known(said.service.as_deref()),
            canonical_revision: known(said.version.as_deref()),
            // The certificate says it too, and has been checked.
            namespace: known(peer.identity.as_ref().map(Identity::namespace).or(said.namespace.as_deref())),
            cluster: known(said.cluster.as_deref()),
            zone: known(said.zone.as_deref()),
            region: known(said.region.as_deref()),
            principal,
        }
    }
}

/// Counters of one label set.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub failed: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// All counters of the tunnel.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: Mutex<HashMap<Labels, Arc<Series>>>,
    /// How many of them hold what a peer said.
    said: AtomicUsize,
    /// Connections refused because a limit was reached, by limit.
    pub(crate) over_connection_limit: AtomicU64,
    pub(crate) over_handshake_limit: AtomicU64,
    /// Connections slowed down because a limit was reached, by limit.
    pub(crate) slowed_by_memory: Arc<AtomicU64>,
    pub(crate) slowed_by_bandwidth: AtomicU64,
    /// Refused connections that were closed at once; see `proxy::refusal`.
    pub(crate) refusals_without_grace: AtomicU64,
    /// Connections lost to a defect of ours.
    pub(crate) panics: AtomicU64,
    /// TLS handshakes of clients that failed.
    pub(crate) handshake_failures: AtomicU64,
    pub(crate) retries: Retries,
    pub(crate) distrusted: Distrusted,
    pub(crate) dry_runs: DryRuns,
    pub(crate) dns: DnsMetrics,
    pub(crate) on_demand_dns: OnDemandDns,
}

type Pick = fn(&Series) -> &AtomicU64;

const FAMILIES: [(&str, &str, Pick); 5] = [
    ("istio_tcp_connections_opened", "TCP connections opened", |series| &series.opened),
    ("istio_tcp_connections_closed", "TCP connections closed", |series| &series.closed),
    ("istio_tcp_connections_failed", "TCP connections that ended with an error", |series| &series.failed),
    ("istio_tcp_sent_bytes", "Bytes of responses", |series| &series.sent),
    ("istio_tcp_received_bytes", "Bytes of requests", |series| &series.received),
];

/// A family of one number without labels.
pub(crate) fn single(name: &str, help: &str, kind: wire::MetricKind, value: u64) -> wire::MetricFamily {
    wire::MetricFamily {
        name: name.to_owned(),
        help: help.to_owned(),
        kind: kind.into(),
        samples: vec![wire::Sample { value, ..Default::default() }],
        ..Default::default()
    }
}

impl Metrics {
    pub(crate) fn series(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        let mut labels = Labels::of(flow, flag);
        let mut all = self.series.lock();
        if flow.is_said() && !all.contains_key(&labels) {
            if self.said.load(Ordering::Relaxed) < MAX_SAID {
                self.said.fetch_add(1, Ordering::Relaxed);
            } else {
                labels = Labels::of(&flow.without_baggage(), flag);
            }
        }
        if all.len() >= MAX_SERIES && !all.contains_key(&labels) {
            return all.entry(Labels::overflow()).or_default().clone();
        }
        all.entry(labels).or_default().clone()
    }

    /// All families for the host to expose.
    pub(crate) fn families(&self) -> wire::MetricFamilies {
        let all: Vec<_> = self.series.lock().iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
        let family = |(name, help, pick): &(&str, &str, Pick)| wire::MetricFamily {
            name: (*name).to_owned(),
            help: (*help).to_owned(),
            label_names: NAMES.iter().map(ToString::to_string).collect(),
            samples: all
                .iter()
                .map(|(labels, series)| (labels, pick(series).load(Ordering::Relaxed)))
                .filter(|(_, value)| *value > 0)
                .map(|(labels, value)| wire::Sample {
                    label_values: labels.0.iter().map(ToString::to_string).collect(),
                    value,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let plain = |name: &str, help: &str, labels: &[(&str, &AtomicU64)]| wire::MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            label_names: vec!["reason".to_owned()],
            samples: labels
                .iter()
                .map(|(label, value)| wire::Sample {
                    label_values: vec![(*label).to_owned()],
                    value: value.load(Ordering::Relaxed),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let mut families: Vec<_> = FAMILIES.iter().map(family).collect();
        families.push(plain(
            "culvert_connections_rejected",
            "Connections refused before a policy was asked, by reason",
            &[
                ("connection_limit", &self.over_connection_limit),
                ("handshake_limit", &self.over_handshake_limit),
                ("handshake_failed", &self.handshake_failures),
                ("internal_error", &self.panics),
            ],
        ));
        families.push(plain(
            "culvert_connections_slowed",
            "Times that a connection was slowed down because its workload had reached a limit, by limit",
            &[("buffered_bytes", &self.slowed_by_memory), ("bandwidth", &self.slowed_by_bandwidth)],
        ));
        families.push(single(
            "culvert_refusals_without_grace",
            "Refused connections that were closed at once because too many of their workload waited for their clients",
            wire::MetricKind::Counter,
            self.refusals_without_grace.load(Ordering::Relaxed),
        ));
        families.push(self.retries.family());
        families.extend(self.distrusted.families());
        families.push(self.dry_runs.family());
        families.extend(self.dns.families());
        families.push(self.on_demand_dns.family());
        wire::MetricFamilies { families }
    }
}
