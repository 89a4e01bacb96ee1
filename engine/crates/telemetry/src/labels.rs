//! The labels of a connection's time series. Names and order are those of Istio's ztunnel.

use std::sync::Arc;

use culvert_core::identity::Identity;

use crate::flow::{Flow, Peer, UNKNOWN};
use crate::outcome::ResponseFlag;

/// In wire order; values follow it.
pub(crate) const NAMES: [&str; 27] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
];

/// The labels that are kept: a bit for each of [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelSelection(u32);

impl Default for LabelSelection {
    fn default() -> Self {
        Self((1 << NAMES.len()) - 1)
    }
}

impl LabelSelection {
    /// All but those named. Names that no label has are ignored: the host has refused them.
    #[must_use]
    pub fn without(excluded: &[String]) -> Self {
        let bits = (0..).zip(NAMES).filter(|(_, name)| excluded.iter().any(|it| it == name)).map(|(bit, _)| 1 << bit);
        Self(bits.fold(Self::default().0, |kept, bit: u32| kept & !bit))
    }

    fn select<T>(self, values: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        (0..u32::BITS).zip(values).filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, value)| value)
    }

    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        self.select(NAMES)
    }

    /// The label set of connections that are counted together because there are too many label sets.
    pub(crate) fn overflow(self) -> Labels {
        self.names().map(|_| Arc::from(UNKNOWN)).collect()
    }

    /// The label set of a connection that ended with `flag`.
    pub(crate) fn of(self, flow: &Flow, flag: ResponseFlag) -> Labels {
        let source = End::of(&flow.source);
        let destination = End::of(&flow.destination);
        let service = flow.service.as_ref();
        let unknown: Arc<str> = UNKNOWN.into();
        let values: [Arc<str>; NAMES.len()] = [
            flow.direction.reporter().into(),
            source.workload,
            source.canonical_name.clone(),
            source.canonical_revision.clone(),
            source.namespace,
            source.principal,
            source.canonical_name,
            source.canonical_revision,
            source.cluster,
            service.map_or_else(|| unknown.clone(), |service| service.key.hostname.clone()),
            service.map_or_else(|| unknown.clone(), |service| service.key.namespace.clone()),
            service.map_or_else(|| unknown.clone(), |service| service.name.clone()),
            destination.workload,
            destination.canonical_name.clone(),
            destination.canonical_revision.clone(),
            destination.namespace,
            destination.principal,
            destination.canonical_name,
            destination.canonical_revision,
            destination.cluster,
            "tcp".into(),
            flag.label().into(),
            flow.security.label().into(),
            source.region,
            source.zone,
            destination.region,
            destination.zone,
        ];
        if self == Self::default() { Arc::new(values) } else { self.select(values).collect() }
    }
}

/// A label's value.
pub(crate) fn or_unknown(value: &Arc<str>) -> Arc<str> {
    if value.is_empty() { UNKNOWN.into() } else { value.clone() }
}

/// The values of one label set. Cheap to clone.
pub(crate) type Labels = Arc<[Arc<str>]>;

struct End {
    workload: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    namespace: Arc<str>,
    principal: Arc<str>,
    cluster: Arc<str>,
    zone: Arc<str>,
    region: Arc<str>,
}

impl End {
    fn of(peer: &Peer) -> Self {
        let known = |value: Option<&str>| Arc::from(value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN));
        let principal = known(peer.identity.as_ref().map(Identity::as_str));
        if let Some(workload) = &peer.workload {
            return Self {
                workload: or_unknown(&workload.workload_name),
                canonical_name: or_unknown(&workload.canonical_name),
                canonical_revision: or_unknown(&workload.canonical_revision),
                namespace: or_unknown(&workload.namespace),
                cluster: or_unknown(&workload.cluster),
                zone: or_unknown(&workload.locality.zone),
                region: or_unknown(&workload.locality.region),
                principal,
            };
        }
        let reported = peer.baggage.as_deref().cloned().unwrap_or_default();
        Self {
            workload: known(reported.workload.as_deref()),
            canonical_name: known(reported.service.as_deref()),
            canonical_revision: known(reported.version.as_deref()),
            // The certificate says it too, and has been checked.
            namespace: known(peer.identity.as_ref().map(Identity::namespace).or(reported.namespace.as_deref())),
            cluster: known(reported.cluster.as_deref()),
            zone: known(reported.zone.as_deref()),
            region: known(reported.region.as_deref()),
            principal,
        }
    }
}
