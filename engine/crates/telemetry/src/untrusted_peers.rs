//! Connections refused or ended because a peer's certificate is not trusted any more.

use culvert_core::proto::engine as wire;

use crate::by_reporter::ByReporter;
use crate::flow::Direction;
use crate::outcome::ResponseFlag;

/// By reason. Where Istio has a name, it is that.
#[derive(Debug, Default)]
pub struct UntrustedPeers {
    revoked: ByReporter,
    root_removed: ByReporter,
}

impl UntrustedPeers {
    /// Count the end of a connection, if it is one of these.
    pub fn count(&self, flag: ResponseFlag, seen: Direction) {
        match flag {
            ResponseFlag::Revoked => self.revoked.count(seen),
            ResponseFlag::RootRemoved => self.root_removed.count(seen),
            _ => {}
        }
    }

    /// The families of these connections.
    #[must_use]
    pub fn families(&self) -> [wire::MetricFamily; 3] {
        [
            self.revoked.family(
                "istio_crl_policy_rejections",
                "Connections refused or ended because a certificate of the peer's chain is revoked",
                wire::MetricKind::Counter,
            ),
            ByReporter::default().family(
                "istio_crl_untracked_connections",
                "Connections that a later revocation would not end; there are none here",
                wire::MetricKind::Counter,
            ),
            self.root_removed.family(
                "culvert_connections_untrusted",
                "Connections ended because the root of the peer's certificate was taken out of the trust bundle",
                wire::MetricKind::Counter,
            ),
        ]
    }
}
