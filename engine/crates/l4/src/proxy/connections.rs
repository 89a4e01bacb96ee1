//! Open connections of one worker: listed in the configuration dump, and reevaluated when policy changes.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_mesh::{Denied, Store, Subject};
use culvert_telemetry::Direction;
use culvert_worker::PodInfo;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::oneshot;

/// One connection, for the configuration dump.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub pod: Arc<PodInfo>,
    pub direction: Direction,
    pub source: SocketAddr,
    pub original_destination: SocketAddr,
    pub actual_destination: SocketAddr,
    pub protocol: &'static str,
}

#[derive(Debug)]
struct Tracked {
    info: ConnectionInfo,
    enforced: Option<Enforced>,
}

#[derive(Debug)]
struct Enforced {
    subject: Subject,
    cut: oneshot::Sender<Denied>,
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    tracked: Mutex<Slab<Tracked>>,
}

/// Tracks a connection until dropped.
#[derive(Debug)]
pub(crate) struct TrackedConnection {
    connections: Arc<Connections>,
    key: usize,
}

impl Connections {
    /// Track a connection that is not subject to policy at this end.
    pub(crate) fn track(self: &Arc<Self>, info: ConnectionInfo) -> TrackedConnection {
        self.insert(Tracked { info, enforced: None })
    }

    /// Track a connection that is closed when policy denies it later; the receiver gets the reason.
    pub(crate) fn track_enforced(
        self: &Arc<Self>,
        info: ConnectionInfo,
        subject: Subject,
    ) -> (TrackedConnection, oneshot::Receiver<Denied>) {
        let (cut, denied) = oneshot::channel();
        (self.insert(Tracked { info, enforced: Some(Enforced { subject, cut }) }), denied)
    }

    fn insert(self: &Arc<Self>, tracked: Tracked) -> TrackedConnection {
        let key = self.tracked.lock().insert(tracked);
        TrackedConnection { connections: self.clone(), key }
    }

    /// Evaluate policy for all connections; those denied now are closed.
    pub(crate) fn reevaluate(&self, store: &Store) {
        for (_, tracked) in self.tracked.lock().iter_mut() {
            let Some(enforced) = &tracked.enforced else { continue };
            let pod = &tracked.info.pod;
            // An unknown workload has no policies; its connections end with its pod.
            let Some(workload) = store.workload_named(&pod.namespace, &pod.name, &pod.service_account) else {
                continue;
            };
            if let Err(denied) = store.policies.authorize(workload, &enforced.subject)
                && let Some(enforced) = tracked.enforced.take()
            {
                // Fails if the connection has just ended.
                let _ = enforced.cut.send(denied);
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<ConnectionInfo> {
        self.tracked.lock().iter().map(|(_, tracked)| tracked.info.clone()).collect()
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        self.connections.tracked.lock().try_remove(self.key);
    }
}
