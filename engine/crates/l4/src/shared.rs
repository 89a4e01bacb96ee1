//! What all workers read and the host's calls write.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use culvert_dns::resolv_conf;
use culvert_mesh::{Store, Workload};
use culvert_telemetry::{LogBuffer, Telemetry};
use culvert_tls::Revocations;
use culvert_upstream::{DnsCache, Outliers};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::certificates::Certificates;
use crate::config::Config;
use crate::events::Events;
use crate::mesh::MeshSettings;
use crate::proxy::{Connections, Held};

/// What a change of the store affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeScope {
    /// Nothing: only new connections are decided differently.
    Routing,
    /// Some may be forbidden now.
    Authorization,
}

/// How far changes of the store have got. They are numbered from one.
#[derive(Debug)]
struct Progress {
    latest: u64,
    /// The last that may forbid an open connection.
    authorization: u64,
    /// What each worker has enforced its connections by; `None` where there is none that could have any.
    enforced: Vec<Option<u64>>,
    /// The last sequence number reported to the host.
    reported: u64,
}

impl Progress {
    /// The sequence number to report: up to it, no open connection is denied by a change.
    fn applied(&mut self) -> Option<u64> {
        let enforced = self.enforced.iter().flatten().copied().min().unwrap_or(self.authorization);
        let applied = if enforced < self.authorization { enforced } else { self.latest };
        let news = applied > self.reported;
        self.reported = self.reported.max(applied);
        news.then_some(applied)
    }
}

#[derive(Debug)]
pub(crate) struct ProxyState {
    pub config: Config,
    pub store: RwLock<Store>,
    mesh: RwLock<Arc<MeshSettings>>,
    pub certificates: Arc<Certificates>,
    pub revocations: Arc<Revocations>,
    pub events: Arc<Events>,
    pub telemetry: Arc<Telemetry>,
    pub outliers: Outliers,
    pub hosts: DnsCache,
    /// A registry for each worker.
    pub connections: Vec<Arc<Connections>>,
    /// Listeners and accepted connections that are open; what a drain waits for.
    pub held: Arc<Held>,
    resolvers: OnceLock<Vec<SocketAddr>>,
    progress: Mutex<Progress>,
    /// The latest change.
    changes: watch::Sender<u64>,
    /// The last change that may deny an open connection. Separate, so that waiting for it does not wake for other changes.
    authorization: watch::Sender<u64>,
}

impl ProxyState {
    pub(crate) fn new(config: Config, events: Arc<Events>) -> Self {
        let workers = config.workers_per_group * config.worker_groups;
        let mesh = MeshSettings::without_mesh(&config);
        let logs = LogBuffer::new(events.wakeup().clone());
        let telemetry = Telemetry::new(config.telemetry.clone(), mesh.access_log.clone(), logs);
        Self {
            store: RwLock::default(),
            mesh: RwLock::new(Arc::new(mesh)),
            certificates: Certificates::new(events.clone()),
            revocations: Arc::default(),
            telemetry,
            outliers: Outliers::new(config.outliers),
            hosts: DnsCache::default(),
            held: Arc::default(),
            resolvers: OnceLock::new(),
            progress: Mutex::new(Progress { latest: 0, authorization: 0, enforced: vec![None; workers], reported: 0 }),
            changes: watch::channel(0).0,
            authorization: watch::channel(0).0,
            connections: (0..workers).map(|_| Arc::default()).collect(),
            config,
            events,
        }
    }

    /// The resolvers of this process: for names that the mesh needs, and where a pod's own resolver is unknown.
    pub(crate) fn own_resolvers(&self) -> &[SocketAddr] {
        let read = || resolv_conf::servers(&std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default());
        self.resolvers.get_or_init(read)
    }

    /// The settings for a connection that begins now.
    pub(crate) fn mesh(&self) -> Arc<MeshSettings> {
        self.mesh.read().clone()
    }

    /// Put other settings in force for new connections.
    pub(crate) fn set_mesh(&self, settings: MeshSettings) {
        self.telemetry.set_access_log(settings.access_log.clone());
        *self.mesh.write() = Arc::new(settings);
    }

    /// Make a change known; returns its sequence number.
    pub(crate) fn changed(&self, reach: ChangeScope) -> u64 {
        let mut progress = self.progress.lock();
        progress.latest += 1;
        let latest = progress.latest;
        self.changes.send_replace(latest);
        match reach {
            ChangeScope::Routing => self.report(&mut progress),
            ChangeScope::Authorization => {
                progress.authorization = latest;
                self.authorization.send_replace(latest);
            }
        }
        latest
    }

    /// The last change that may deny an open connection.
    pub(crate) fn authorization(&self) -> watch::Receiver<u64> {
        self.authorization.subscribe()
    }

    /// A worker has reevaluated its connections by everything up to `sequence`, or has ended.
    pub(crate) fn reevaluated(&self, worker: usize, sequence: Option<u64>) {
        let mut progress = self.progress.lock();
        if let Some(mine) = progress.enforced.get_mut(worker) {
            *mine = sequence;
        }
        self.report(&mut progress);
    }

    fn report(&self, progress: &mut Progress) {
        if let Some(applied) = progress.applied() {
            self.events.applied(applied);
        }
    }

    /// The workload with the node agent's name for it; waits until the control plane has sent it.
    pub(crate) async fn workload(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        timeout: Duration,
    ) -> Option<Arc<Workload>> {
        let find = || self.store.read().workload_named(namespace, name, account).cloned();
        if let Some(found) = find() {
            return Some(found);
        }
        let mut changes = self.changes.subscribe();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = find() {
                    return found;
                }
                // The sender lives as long as `self`.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(timeout, wait).await.ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use culvert_core::proto::engine::{EngineConfig, event::Kind};

    use super::*;

    fn shared() -> ProxyState {
        let config = EngineConfig { worker_threads: 2, max_worker_threads: 2, ..EngineConfig::default() };
        ProxyState::new(config.into(), Arc::new(Events::new().unwrap()))
    }

    fn reported(shared: &ProxyState) -> Vec<u64> {
        let sequence = |kind: Option<Kind>| match kind {
            Some(Kind::Applied(applied)) => applied.sequence,
            other => panic!("{other:?}"),
        };
        shared.events.drain().into_iter().map(|event| sequence(event.kind)).collect()
    }

    #[test]
    fn a_change_of_routing_wakes_no_worker_and_is_told_at_once() {
        let shared = shared();
        let waiting = shared.authorization();
        shared.reevaluated(0, Some(0));
        assert_eq!(shared.changed(ChangeScope::Routing), 1);
        assert_eq!(shared.changed(ChangeScope::Routing), 2);
        assert_eq!(reported(&shared), [1, 2]);
        assert!(!waiting.has_changed().unwrap());
    }

    #[test]
    fn a_change_of_authorization_is_told_when_all_have_judged_by_it() {
        let shared = shared();
        let waiting = shared.authorization();
        (0..2).for_each(|worker| shared.reevaluated(worker, Some(0)));
        assert_eq!(shared.changed(ChangeScope::Authorization), 1);
        assert!(waiting.has_changed().unwrap());
        assert_eq!(shared.changed(ChangeScope::Routing), 2);
        shared.reevaluated(0, Some(1));
        assert!(reported(&shared).is_empty());
        shared.reevaluated(1, Some(1));
        assert_eq!(reported(&shared), [2]);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_waited_for() {
        let shared = shared();
        (0..2).for_each(|worker| shared.reevaluated(worker, Some(0)));
        shared.changed(ChangeScope::Authorization);
        shared.reevaluated(0, Some(1));
        shared.reevaluated(1, None);
        assert_eq!(reported(&shared), [1]);
    }
}
