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
    judged: Option<Judged>,
}

#[derive(Debug)]
struct Judged {
    subject: Subject,
    cut: oneshot::Sender<Denied>,
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    tracked: Mutex<Slab<Tracked>>,
}

/// Keeps a connection listed until dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    connections: Arc<Connections>,
    key: usize,
}

impl Connections {
    /// List a connection that policy does not judge here.
    pub(crate) fn list(self: &Arc<Self>, info: ConnectionInfo) -> Listed {
        self.insert(Tracked { info, judged: None })
    }

    /// List a connection that is cut when policy comes to forbid it; the receiver tells why.
    pub(crate) fn list_judged(
        self: &Arc<Self>,
        info: ConnectionInfo,
        subject: Subject,
    ) -> (Listed, oneshot::Receiver<Denied>) {
        let (cut, told) = oneshot::channel();
        (self.insert(Tracked { info, judged: Some(Judged { subject, cut }) }), told)
    }

    fn insert(self: &Arc<Self>, tracked: Tracked) -> Listed {
        let key = self.tracked.lock().insert(tracked);
        Listed { connections: self.clone(), key }
    }

    /// Judge all again; what is forbidden now is told to end.
    pub(crate) fn judge(&self, store: &Store) {
        for (_, tracked) in self.tracked.lock().iter_mut() {
            let Some(judged) = &tracked.judged else { continue };
            let pod = &tracked.info.pod;
            // A workload that is gone has no policy to ask; its connections end when its pod does.
            let Some(workload) = store.workload_named(&pod.namespace, &pod.name, &pod.service_account) else {
                continue;
            };
            if let Err(denied) = store.policies.authorize(workload, &judged.subject)
                && let Some(judged) = tracked.judged.take()
            {
                // Fails when the connection has just ended by itself.
                let _ = judged.cut.send(denied);
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<ConnectionInfo> {
        self.tracked.lock().iter().map(|(_, tracked)| tracked.info.clone()).collect()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.tracked.lock().try_remove(self.key);
    }
}
