//! A number for each of the two reporters of a connection.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;
use culvert_metrics::by_label;

use crate::flow::Direction;

/// See the module. Both are exposed from the start, at 0.
#[derive(Debug, Default)]
pub(crate) struct ByReporter {
    source: AtomicU64,
    destination: AtomicU64,
}

impl ByReporter {
    pub(crate) const fn of(&self, seen: Direction) -> &AtomicU64 {
        match seen {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        }
    }

    pub(crate) fn count(&self, seen: Direction) {
        self.of(seen).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn family(&self, name: &str, help: &str, kind: wire::MetricKind) -> wire::MetricFamily {
        let value = |seen: Direction| (seen.reporter(), self.of(seen).load(Ordering::Relaxed));
        by_label(name, help, kind, "reporter", [Direction::Outbound, Direction::Inbound].map(value))
    }
}
