//! All counters of the proxy, as metric families.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use culvert_core::proto::engine as wire;
use culvert_metrics::{by_label, single};

use super::by_reporter::ByReporter;
use super::dns::DnsMetrics;
use super::dry_run::DryRuns;
use super::flow::{Direction, Flow, ResponseFlag};
use super::on_demand_dns::OnDemandDns;
use super::retries::Retries;
use super::tcp::{Series, SeriesSettings, TcpMetrics};
use super::untrusted_peers::UntrustedPeers;

/// All counters of the tunnel.
#[derive(Debug)]
pub(crate) struct Metrics {
    tcp: TcpMetrics,
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
    open_sockets: ByReporter,
    pub(crate) retries: Retries,
    pub(crate) distrusted: UntrustedPeers,
    pub(crate) dry_runs: DryRuns,
    pub(crate) dns: DnsMetrics,
    pub(crate) on_demand_dns: OnDemandDns,
}

impl Metrics {
    pub(crate) fn new(settings: &SeriesSettings) -> Self {
        Self {
            tcp: TcpMetrics::new(settings),
            over_connection_limit: AtomicU64::default(),
            over_handshake_limit: AtomicU64::default(),
            slowed_by_memory: Arc::default(),
            slowed_by_bandwidth: AtomicU64::default(),
            refusals_without_grace: AtomicU64::default(),
            panics: AtomicU64::default(),
            handshake_failures: AtomicU64::default(),
            open_sockets: ByReporter::default(),
            retries: Retries::default(),
            distrusted: UntrustedPeers::default(),
            dry_runs: DryRuns::default(),
            dns: DnsMetrics::default(),
            on_demand_dns: OnDemandDns::default(),
        }
    }

    /// Count a socket that a listener has accepted; undone by [`Metrics::socket_closed`].
    pub(crate) fn socket_opened(&self, seen: Direction) {
        self.open_sockets.count(seen);
    }

    pub(crate) fn socket_closed(&self, seen: Direction) {
        self.open_sockets.of(seen).fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn series(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        self.tcp.of(flow, flag)
    }

    /// Evict idle series if that is due; to be called every few seconds.
    pub(crate) fn sweep(&self, now: Instant) {
        self.tcp.sweep(now);
    }

    /// All families for the host to expose.
    pub(crate) fn families(&self) -> wire::MetricFamilies {
        self.sweep(Instant::now());
        let by_reason = |name: &str, help: &str, values: &[(&str, &AtomicU64)]| {
            let values = values.iter().map(|(reason, value)| (*reason, value.load(Ordering::Relaxed)));
            by_label(name, help, wire::MetricKind::Counter, "reason", values)
        };
        let mut families = self.tcp.families();
        families.push(self.open_sockets.family(
            "istio_tcp_sockets_open",
            "Accepted connections that are open: of applications (source), of peers (destination)",
            wire::MetricKind::Gauge,
        ));
        families.push(by_reason(
            "culvert_connections_rejected",
            "Connections refused before policy was evaluated, by reason",
            &[
                ("connection_limit", &self.over_connection_limit),
                ("handshake_limit", &self.over_handshake_limit),
                ("handshake_failed", &self.handshake_failures),
                ("internal_error", &self.panics),
            ],
        ));
        families.push(by_reason(
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
