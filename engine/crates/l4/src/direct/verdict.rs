//! Whether two pods may connect without the tunnel. The verdict on policy is that of the tunnel's inbound side.

use culvert_bpf::direct::{DirectConnection, Pair, Verdict};
use culvert_core::names::HBONE_PORT;
use culvert_core::proto::engine::workload_ref::Mode;
use culvert_mesh::{Denied, Protocol, Route, Store, Subject, Workload};
use culvert_upstream::SelectionContext;

use super::pods::{LocalPod, LocalPods, only_address};

/// The verdict for a pair, `None` where the tunnel must carry its connections.
///
/// The route is the one that the tunnel would take: to a captured pod of this process, by no waypoint and by no choice
/// among endpoints.
pub(super) fn decide(store: &Store, pods: &LocalPods, pair: Pair) -> Option<Verdict> {
    let source_pod = pods.with_cookie(pair.netns).filter(|pod| pod.served && is_captured(pod))?;
    let source = source_pod.workload(store).filter(|source| is_meshed(source))?;
    let route = store.route(source, pair.destination, SelectionContext::default()).ok()?;
    let Route::Hbone { peer, authority, identities, destination, service, endpoint: None } = route else { return None };
    let is_the_pod = authority == pair.destination
        && peer.ip() == authority.ip()
        && peer.port() == HBONE_PORT
        && destination.addresses.contains(&authority.ip());
    let has_waypoint = destination.waypoint.is_some() || service.is_some_and(|service| service.waypoint.is_some());
    if !is_the_pod || has_waypoint || !is_meshed(&destination) {
        return None;
    }
    let pod = pods.of_workload(&destination).filter(|pod| is_captured(pod) && pod.cookie != pair.netns)?;
    let address = only_address(source, authority.ip())?;
    if !identities.contains(&pod.info.identity) {
        return None;
    }
    let subject =
        Subject { peer: Some(source_pod.info.identity.clone()), source: address, destination: pair.destination };
    store.policies.authorize(&destination, &subject).ok()?;
    Some(Verdict { destination_netns: pod.cookie, source: address })
}

/// Why policy denies a direct connection that is open. One whose pods are not known any more is left alone, as the
/// tunnel leaves those of unknown workloads alone: it ends with its pod.
pub(super) fn reevaluate(store: &Store, pods: &LocalPods, connection: &DirectConnection) -> Result<(), Denied> {
    let (Some(source), Some(destination)) =
        (pods.with_cookie(connection.source_netns), pods.with_cookie(connection.destination_netns))
    else {
        return Ok(());
    };
    let Some(workload) = destination.workload(store) else { return Ok(()) };
    let peer = Some(source.info.identity.clone());
    let subject = Subject { peer, source: connection.client.ip(), destination: connection.server };
    store.policies.authorize(workload, &subject)
}

fn is_captured(pod: &LocalPod) -> bool {
    pod.info.mode == Mode::Captured
}

fn is_meshed(workload: &Workload) -> bool {
    workload.protocol == Protocol::Hbone && !workload.host_network
}
