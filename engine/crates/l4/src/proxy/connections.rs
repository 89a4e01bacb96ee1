//! Connections that stand on one core: for an operator to see, and for policy to judge again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
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
    tracked: Mutex<(u64, HashMap<u64, Tracked>)>,
}

/// Keeps a connection listed until dropped.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Connections {
    /// List a connection that policy does not judge here.
    pub(crate) fn list(&self, info: ConnectionInfo) -> Listed<'_> {
        self.insert(Tracked { info, judged: None })
    }

    /// List a connection that is cut when policy comes to forbid it; the receiver tells why.
    pub(crate) fn list_judged(
        &self,
        info: ConnectionInfo,
        subject: Subject,
    ) -> (Listed<'_>, oneshot::Receiver<Denied>) {
        let (cut, told) = oneshot::channel();
        (self.insert(Tracked { info, judged: Some(Judged { subject, cut }) }), told)
    }

    fn insert(&self, tracked: Tracked) -> Listed<'_> {
        let mut all = self.tracked.lock();
        all.0 += 1;
        let id = all.0;
        all.1.insert(id, tracked);
        Listed { connections: self, id }
    }

    /// Judge all again; what is forbidden now is told to end.
    pub(crate) fn judge(&self, store: &Store) {
        for tracked in self.tracked.lock().1.values_mut() {
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
        self.tracked.lock().1.values().map(|tracked| tracked.info.clone()).collect()
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.connections.tracked.lock().1.remove(&self.id);
    }
}
