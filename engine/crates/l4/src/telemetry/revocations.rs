//! Connections refused or ended because a peer's certificate is revoked. Names are Istio's.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;

use super::flow::Direction;

/// By who reports them.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    source: AtomicU64,
    destination: AtomicU64,
}

impl Revocations {
    pub(crate) fn count(&self, seen: Direction) {
        let counter = match seen {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn families(&self) -> [wire::MetricFamily; 2] {
        let family = |name: &str, help: &str, values: [u64; 2]| wire::MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            label_names: vec!["reporter".to_owned()],
            samples: ["source", "destination"]
                .iter()
                .zip(values)
                .map(|(reporter, value)| wire::Sample {
                    label_values: vec![(*reporter).to_owned()],
                    value,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let rejected = [&self.source, &self.destination].map(|counter| counter.load(Ordering::Relaxed));
        [
            family(
                "istio_crl_policy_rejections",
                "Connections refused or ended because a certificate of the peer's chain is revoked",
                rejected,
            ),
            family(
                "istio_crl_untracked_connections",
                "Connections that a later revocation would not end; there are none here",
                [0, 0],
            ),
        ]
    }
}
