//! How often a connection was tried at another endpoint, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;

/// What an endpoint did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryReason {
    /// Refused, or no way to it.
    Connect,
    /// Silent.
    Timeout,
    /// TLS or HTTP/2 broke, not for lack of trust.
    Tunnel,
    /// Its tunnel answered, its application did not.
    Unavailable,
}

const LABELS: [&str; 4] = ["connect", "timeout", "tunnel", "unavailable"];

/// Attempts at other endpoints, by what went before.
#[derive(Debug, Default)]
pub(crate) struct Retries([AtomicU64; LABELS.len()]);

impl Retries {
    pub(crate) fn count(&self, reason: RetryReason) {
        // Every reason has a label, as the type of the array says.
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn family(&self) -> wire::MetricFamily {
        let sample = |(label, counter): (&&str, &AtomicU64)| wire::Sample {
            label_values: vec![(*label).to_owned()],
            value: counter.load(Ordering::Relaxed),
            ..Default::default()
        };
        wire::MetricFamily {
            name: "culvert_connect_retries".to_owned(),
            help: "Connections tried at another endpoint of their service, by what the one before did".to_owned(),
            label_names: vec!["reason".to_owned()],
            samples: LABELS.iter().zip(&self.0).map(sample).collect(),
            ..Default::default()
        }
    }
}
