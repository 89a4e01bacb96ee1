//! The time series of TCP connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_core::proto::engine as wire;
use culvert_metrics::{Instrument, SeriesLimits, SeriesTable, single};

use crate::flow::Flow;
use crate::labels::{LabelSelection, Labels};
use crate::outcome::ResponseFlag;

/// Series that are kept; beyond, connections are counted together under `unknown` labels.
const MAX_SERIES: usize = 20_000;

/// Of these, series whose labels a peer reports of itself (baggage). Beyond, what it reports is left out.
const MAX_SELF_REPORTED: usize = 2_000;

/// Counters of one label set.
#[derive(Debug, Default)]
pub struct Series {
    /// Connections opened.
    pub opened: AtomicU64,
    /// Connections closed.
    pub closed: AtomicU64,
    /// Connections that ended with an error.
    pub failed: AtomicU64,
    /// Bytes of responses.
    pub to_client: AtomicU64,
    /// Bytes of requests.
    pub to_destination: AtomicU64,
}

/// Values of a [`Series`], in its order.
type Values = [u64; 5];

impl Instrument for Series {
    type Values = Values;

    fn values(&self) -> Values {
        [&self.opened, &self.closed, &self.failed, &self.to_client, &self.to_destination]
            .map(|it| it.load(Ordering::Relaxed))
    }
}

type Family = (&'static str, &'static str, fn(&Values) -> u64);

const FAMILIES: [Family; 5] = [
    ("istio_tcp_connections_opened", "TCP connections opened", |[opened, ..]| *opened),
    ("istio_tcp_connections_closed", "TCP connections closed", |[_, closed, ..]| *closed),
    ("istio_tcp_connections_failed", "TCP connections that ended with an error", |[_, _, failed, ..]| *failed),
    ("istio_tcp_sent_bytes", "Bytes of responses", |[.., to_client, _]| *to_client),
    ("istio_tcp_received_bytes", "Bytes of requests", |[.., to_destination]| *to_destination),
];

/// See the fields of `EngineConfig` in `meshapi/proto/engine.proto`.
#[derive(Debug, Clone, Default)]
pub struct SeriesSettings {
    /// `None`: series are never evicted.
    pub idle_timeout: Option<Duration>,
    /// The labels that are kept.
    pub labels: LabelSelection,
}

/// The series of all connections.
#[derive(Debug)]
pub(crate) struct TcpMetrics {
    labels: LabelSelection,
    table: SeriesTable<Labels, Series>,
}

impl TcpMetrics {
    pub(crate) fn new(settings: &SeriesSettings) -> Self {
        let SeriesSettings { idle_timeout, labels } = *settings;
        let limits = SeriesLimits { capacity: MAX_SERIES, max_self_reported: MAX_SELF_REPORTED, idle_timeout };
        Self { labels, table: SeriesTable::new(labels.names(), labels.overflow(), limits) }
    }

    /// The series of a connection; it is kept at least until the returned reference is dropped.
    pub(crate) fn of(&self, flow: &Flow, flag: ResponseFlag) -> Arc<Series> {
        let labels = self.labels.of(flow, flag);
        if flow.self_reported() {
            self.table.self_reported(labels, || self.labels.of(&flow.without_baggage(), flag))
        } else {
            self.table.series(labels)
        }
    }

    /// Evict idle series if the last sweep is long enough ago.
    pub(crate) fn sweep(&self, now: Instant) {
        self.table.sweep(now);
    }

    /// The families of connections, and those of the table itself.
    pub(crate) fn families(&self) -> Vec<wire::MetricFamily> {
        let series = self.table.snapshot();
        let mut families: Vec<_> =
            FAMILIES.iter().map(|(name, help, value)| series.counter(name, help, value)).collect();
        families.push(single(
            "culvert_metric_series",
            "Label sets of connections in the istio_tcp families",
            wire::MetricKind::Gauge,
            u64::try_from(series.len()).unwrap_or(u64::MAX),
        ));
        families.push(single(
            "culvert_metric_series_evicted",
            "Label sets that were evicted because no connection had used them for METRICS_IDLE_S",
            wire::MetricKind::Counter,
            self.table.evicted(),
        ));
        families
    }
}
