//! All counters of the proxy, as metric families.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use culvert_core::proto::engine as wire;
use culvert_metrics::{by_label, single};

use crate::by_reporter::ByReporter;
use crate::dns_metrics::DnsMetrics;
use crate::dry_run::DryRuns;
use crate::flow::{Direction, Flow};
use crate::on_demand_dns::OnDemandDns;
use crate::outcome::ResponseFlag;
use crate::retries::Retries;
use crate::tcp::{Series, SeriesSettings, TcpMetrics};
use crate::untrusted_peers::UntrustedPeers;

/// All counters of the tunnel.
#[derive(Debug)]
pub struct Metrics {
    tcp: TcpMetrics,
    /// Connections refused because a limit was reached, by limit.
    pub over_connection_limit: AtomicU64,
    /// The same, TLS handshakes.
    pub over_handshake_limit: AtomicU64,
    /// Connections slowed down because a limit was reached, by limit.
    pub slowed_by_memory: Arc<AtomicU64>,
    /// The same, by the rate.
    pub slowed_by_bandwidth: AtomicU64,
    /// Refused connections that were closed at once; see `culvert_net::refusal`.
    pub refusals_without_grace: AtomicU64,
    /// Connections lost to a defect of ours.
    pub panics: AtomicU64,
    /// TLS handshakes of clients that failed.
    pub handshake_failures: AtomicU64,
    open_sockets: ByReporter,
    /// Retries at other endpoints.
    pub retries: Retries,
    /// Connections whose peer is not trusted any more.
    pub untrusted_peers: UntrustedPeers,
    /// Connections that policies of a dry run would have refused.
    pub dry_runs: DryRuns,
    /// DNS queries.
    pub dns: DnsMetrics,
    /// Connections to endpoints that are known by name only.
    pub on_demand_dns: OnDemandDns,
}

impl Metrics {
    /// All counters at 0.
    #[must_use]
    pub fn new(settings: &SeriesSettings) -> Self {
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
            untrusted_peers: UntrustedPeers::default(),
            dry_runs: DryRuns::default(),
            dns: DnsMetrics::default(),
            on_demand_dns: OnDemandDns::default(),
        }
    }

    /// Count a socket that a listener has accepted; undone by [`Metrics::socket_closed`].
    pub fn socket_opened(&self, seen: Direction) {
        self.open_sockets.count(seen);
    }

    /// Undo [`Metrics::socket_opened`].
    pub fn socket_closed(&self, seen: Direction) {
        self.open_sockets.of(seen).fetch_sub(1, Ordering::Relaxed);
    }

    /// The series of a connection that ends, or may end, with `flag`; it is kept at least until the returned reference is
    /// dropped.
    pub fn series(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        self.tcp.of(flow, flag)
    }

    /// Evict idle series if that is due; to be called every few seconds.
    pub fn sweep(&self, now: Instant) {
        self.tcp.sweep(now);
    }

    /// All families for the host to expose.
    pub fn families(&self) -> wire::MetricFamilies {
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
        families.extend(self.untrusted_peers.families());
        families.push(self.dry_runs.family());
        families.extend(self.dns.families());
        families.push(self.on_demand_dns.family());
        wire::MetricFamilies { families }
    }
}
