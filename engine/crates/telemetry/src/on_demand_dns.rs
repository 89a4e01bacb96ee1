//! Connections to endpoints that are known by name only, in the name of Istio's ztunnel's metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;
use culvert_mesh::Workload;
use culvert_metrics::{SeriesLimits, SeriesTable};

use crate::flow::UNKNOWN;
use crate::labels::{self, or_unknown};

/// Label sets that are kept; beyond, all are counted together as `unknown`.
const MAX_SERIES: usize = 1_000;
/// The labels of a connection's source, and the name.
const NAMES: [&str; 9] = {
    let [_, workload, service, revision, namespace, principal, app, version, cluster, ..] = labels::NAMES;
    [workload, service, revision, namespace, principal, app, version, cluster, "hostname"]
};

/// Such connections, by source and name.
#[derive(Debug)]
pub struct OnDemandDns(SeriesTable<[Arc<str>; NAMES.len()], AtomicU64>);

impl Default for OnDemandDns {
    fn default() -> Self {
        let limits = SeriesLimits { capacity: MAX_SERIES, max_self_reported: 0, idle_timeout: None };
        Self(SeriesTable::new(NAMES, NAMES.map(|_| UNKNOWN.into()), limits))
    }
}

impl OnDemandDns {
    /// Count a connection.
    pub fn count(&self, source: &Workload, hostname: &Arc<str>) {
        let labels = [
            or_unknown(&source.workload_name),
            or_unknown(&source.canonical_name),
            or_unknown(&source.canonical_revision),
            or_unknown(&source.namespace),
            source.identity.as_str().into(),
            or_unknown(&source.canonical_name),
            or_unknown(&source.canonical_revision),
            or_unknown(&source.cluster),
            or_unknown(hostname),
        ];
        self.0.series(labels).fetch_add(1, Ordering::Relaxed);
    }

    /// The family of these connections.
    #[must_use]
    pub fn family(&self) -> wire::MetricFamily {
        let help = "Connections to endpoints that are known by name only";
        self.0.snapshot().counter("istio_on_demand_dns", help, |count| *count)
    }
}
