//! Connections to endpoints that are known by name only, in the name of Istio's ztunnel's metric.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_core::proto::engine as wire;
use parking_lot::Mutex;

use crate::state::Workload;

/// Label sets that are kept; beyond, all are counted together as `unknown`.
const MAX_SERIES: usize = 1_000;
const UNKNOWN: &str = "unknown";
const NAMES: [&str; 9] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "hostname",
];

type Labels = [Arc<str>; NAMES.len()];

/// Such connections, by source and name.
#[derive(Debug, Default)]
pub(crate) struct OnDemandDns(Mutex<HashMap<Labels, u64>>);

impl OnDemandDns {
    pub(crate) fn count(&self, source: &Workload, hostname: &Arc<str>) {
        let known = |value: &Arc<str>| if value.is_empty() { UNKNOWN.into() } else { value.clone() };
        let mut labels = [
            known(&source.workload_name),
            known(&source.canonical_name),
            known(&source.canonical_revision),
            known(&source.namespace),
            source.identity.as_str().into(),
            known(&source.canonical_name),
            known(&source.canonical_revision),
            known(&source.cluster),
            known(hostname),
        ];
        let mut all = self.0.lock();
        if all.len() >= MAX_SERIES && !all.contains_key(&labels) {
            labels = NAMES.map(|_| UNKNOWN.into());
        }
        *all.entry(labels).or_default() += 1;
    }

    pub(crate) fn family(&self) -> wire::MetricFamily {
        let sample = |(labels, value): (&Labels, &u64)| wire::Sample {
            label_values: labels.iter().map(ToString::to_string).collect(),
            value: *value,
            ..Default::default()
        };
        wire::MetricFamily {
            name: "istio_on_demand_dns".to_owned(),
            help: "Connections to endpoints that are known by name only".to_owned(),
            label_names: NAMES.iter().map(ToString::to_string).collect(),
            samples: self.0.lock().iter().map(sample).collect(),
            ..Default::default()
        }
    }
}
