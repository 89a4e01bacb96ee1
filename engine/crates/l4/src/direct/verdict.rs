//! Whether two pods may connect without the tunnel. The verdict on policy is that of the tunnel's inbound side.

use culvert_bpf::direct::{DirectConnection, Pair, Verdict};
use culvert_core::names::HBONE_PORT;
use culvert_core::proto::engine::workload_ref::Mode;
use culvert_hbone::Error;
use culvert_mesh::{Protocol, Route, Store, Subject, Workload};
use culvert_telemetry::{FlowEnd, ResponseFlag};
use culvert_upstream::SelectionContext;

use super::pods::{LocalPod, LocalPods, only_address};
use super::trust::Trust;

/// What verdicts depend on.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) store: &'a Store,
    pub(super) pods: &'a LocalPods,
    pub(super) trust: &'a Trust,
}

impl World<'_> {
    /// The verdict for a pair, `None` where the tunnel must carry its connections.
    ///
    /// The route is the one that the tunnel would take: to a captured pod of this process, by no waypoint and by no choice
    /// among endpoints.
    pub(super) fn decide(&self, pair: Pair) -> Option<Verdict> {
        let source_pod = self.pods.with_cookie(pair.netns).filter(|pod| pod.served && self.may_be_direct(pod))?;
        let source = source_pod.workload(self.store).filter(|source| is_meshed(source))?;
        let route = self.store.route(source, pair.destination, SelectionContext::default()).ok()?;
        let Route::Hbone { peer, authority, identities, destination, service, endpoint: None } = route else {
            return None;
        };
        let is_the_pod = authority == pair.destination
            && peer.ip() == authority.ip()
            && peer.port() == HBONE_PORT
            && destination.addresses.contains(&authority.ip());
        let has_waypoint = destination.waypoint.is_some() || service.is_some_and(|service| service.waypoint.is_some());
        if !is_the_pod || has_waypoint || !is_meshed(&destination) {
            return None;
        }
        let pod = self.pods.of_workload(&destination).filter(|pod| pod.cookie != pair.netns)?;
        let address = only_address(source, authority.ip())?;
        if !self.may_be_direct(pod) || !identities.contains(&pod.info.identity) {
            return None;
        }
        let peer = Some(source_pod.info.identity.clone());
        let subject = Subject { peer, source: address, destination: pair.destination };
        self.store.policies.authorize(&destination, &subject).ok()?;
        Some(Verdict { destination_netns: pod.cookie, source: address })
    }

    /// Why a direct connection that is open has to end. One whose pods are not known any more is left alone, as the tunnel
    /// leaves those of unknown workloads alone: it ends with its pod.
    pub(super) fn reevaluate(&self, connection: &DirectConnection) -> Result<(), FlowEnd> {
        let (Some(source), Some(destination)) =
            (self.pods.with_cookie(connection.source_netns), self.pods.with_cookie(connection.destination_netns))
        else {
            return Ok(());
        };
        let lost = [source, destination].iter().find_map(|pod| self.trust.lost(&pod.info.identity));
        if let Some(lost) = lost {
            let error = Error::from(lost);
            return Err(FlowEnd::failed(ResponseFlag::of_trust(&error).unwrap_or(ResponseFlag::None), error));
        }
        let Some(workload) = destination.workload(self.store) else { return Ok(()) };
        let peer = Some(source.info.identity.clone());
        let subject = Subject { peer, source: connection.client.ip(), destination: connection.server };
        self.store.policies.authorize(workload, &subject).map_err(|denied| {
            FlowEnd::failed(ResponseFlag::Denied, format!("connection closed due to policy change: {denied}"))
        })
    }

    fn may_be_direct(&self, pod: &LocalPod) -> bool {
        pod.info.mode == Mode::Captured && self.trust.is_trusted(&pod.info.identity)
    }
}

fn is_meshed(workload: &Workload) -> bool {
    workload.protocol == Protocol::Hbone && !workload.host_network
}
