//! How often a connection was tried at another endpoint, and why.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;
use culvert_metrics::by_label;

/// What an endpoint did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// It refused the connection, or is unreachable.
    Connect,
    /// It did not answer in time.
    Timeout,
    /// TLS or HTTP/2 broke, not for lack of trust.
    Tunnel,
    /// Its tunnel answered that the application is unavailable.
    Unavailable,
}

const LABELS: [&str; 4] = ["connect", "timeout", "tunnel", "unavailable"];

/// Attempts at other endpoints, by what went before.
#[derive(Debug, Default)]
pub struct Retries([AtomicU64; LABELS.len()]);

impl Retries {
    /// Count a retry.
    pub fn count(&self, reason: RetryReason) {
        // Every reason has a label, as the type of the array says.
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The family of retries.
    #[must_use]
    pub fn family(&self) -> wire::MetricFamily {
        by_label(
            "culvert_connect_retries",
            "Connections tried at another endpoint of their service, by what the one before did",
            wire::MetricKind::Counter,
            "reason",
            LABELS.into_iter().zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed))),
        )
    }
}
