//! Connections refused or ended because a peer's certificate is not trusted any more.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_core::proto::engine as wire;

use super::flow::{Direction, ResponseFlag};

/// By who reports them.
#[derive(Debug, Default)]
struct ByReporter {
    source: AtomicU64,
    destination: AtomicU64,
}

impl ByReporter {
    fn count(&self, seen: Direction) {
        let counter = match seen {
            Direction::Outbound => &self.source,
            Direction::Inbound => &self.destination,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn family(&self, name: &str, help: &str) -> wire::MetricFamily {
        let sample = |(reporter, counter): (&str, &AtomicU64)| wire::Sample {
            label_values: vec![reporter.to_owned()],
            value: counter.load(Ordering::Relaxed),
            ..Default::default()
        };
        wire::MetricFamily {
            name: name.to_owned(),
            help: help.to_owned(),
            label_names: vec!["reporter".to_owned()],
            samples: [("source", &self.source), ("destination", &self.destination)].map(sample).into(),
            ..Default::default()
        }
    }
}

/// By reason. Where Istio has a name, it is that.
#[derive(Debug, Default)]
pub(crate) struct Distrusted {
    revoked: ByReporter,
    root_removed: ByReporter,
}

impl Distrusted {
    /// Count the end of a connection, if it is one of these.
    pub(crate) fn count(&self, flag: ResponseFlag, seen: Direction) {
        match flag {
            ResponseFlag::Revoked => self.revoked.count(seen),
            ResponseFlag::RootRemoved => self.root_removed.count(seen),
            _ => {}
        }
    }

    pub(crate) fn families(&self) -> [wire::MetricFamily; 3] {
        [
            self.revoked.family(
                "istio_crl_policy_rejections",
                "Connections refused or ended because a certificate of the peer's chain is revoked",
            ),
            ByReporter::default().family(
                "istio_crl_untracked_connections",
                "Connections that a later revocation would not end; there are none here",
            ),
            self.root_removed.family(
                "culvert_connections_untrusted",
                "Connections ended because the root of the peer's certificate was taken out of the trust bundle",
            ),
        ]
    }
}
