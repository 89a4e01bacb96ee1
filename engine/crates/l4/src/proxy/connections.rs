//! Connections that stand on one worker: for an operator to see, and for policy to judge again.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::oneshot;

use super::pod::PodInfo;
use crate::policy::{Denied, Subject};
use crate::state::Store;
use crate::telemetry::Direction;

/// One connection as an operator sees it.
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

/// Keeps a connection listed until dropped.
#[derive(Debug)]
pub(crate) struct TrackedConnection {
    connections: Arc<Connections>,
    key: usize,
}

impl Connections {
    /// List a connection that policy does not judge here.
    pub(crate) fn track(self: &Arc<Self>, info: ConnectionInfo) -> TrackedConnection {
        self.insert(Tracked { info, enforced: None })
    }

    /// List a connection that is cut when policy comes to forbid it; the receiver tells why.
    pub(crate) fn track_enforced(
        self: &Arc<Self>,
        info: ConnectionInfo,
        subject: Subject,
    ) -> (TrackedConnection, oneshot::Receiver<Denied>) {
        let (cut, told) = oneshot::channel();
        (self.insert(Tracked { info, enforced: Some(Enforced { subject, cut }) }), told)
    }

    fn insert(self: &Arc<Self>, tracked: Tracked) -> TrackedConnection {
        let key = self.tracked.lock().insert(tracked);
        TrackedConnection { connections: self.clone(), key }
    }

    /// Judge all again; what is forbidden now is told to end.
    pub(crate) fn reevaluate(&self, store: &Store) {
        for (_, tracked) in self.tracked.lock().iter_mut() {
            let Some(enforced) = &tracked.enforced else { continue };
            let pod = &tracked.info.pod;
            // A workload that is gone has no policy to ask; its connections end when its pod does.
            let Some(workload) = store.workload_named(&pod.namespace, &pod.name, &pod.service_account) else {
                continue;
            };
            if let Err(denied) = store.policies.authorize(workload, &enforced.subject)
                && let Some(enforced) = tracked.enforced.take()
            {
                // Fails when the connection has just ended by itself.
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
