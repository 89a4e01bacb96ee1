//! What all workers read and the host's calls write.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use culvert_dns::resolv_conf;
use culvert_mesh::{Store, Workload};
use culvert_telemetry::{LogBuffer, Telemetry};
use culvert_upstream::{DnsCache, Outliers};
use culvert_worker::Host;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::config::Config;
use crate::direct::{Around, Direct};
use crate::mesh::MeshSettings;
use crate::proxy::Connections;

/// What a change of the store affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeScope {
    /// Nothing: only new connections are decided differently.
    Routing,
    /// Some may be forbidden now.
    Authorization,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ProxyState {
    pub(crate) config: Config,
    pub(crate) store: RwLock<Store>,
    mesh: RwLock<Arc<MeshSettings>>,
    pub(crate) host: Arc<Host>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) outliers: Outliers,
    pub(crate) hosts: DnsCache,
    pub(crate) direct: Direct,
    /// A registry for each worker.
    pub(crate) connections: Vec<Arc<Connections>>,
    resolvers: OnceLock<Vec<SocketAddr>>,
    /// The number of changes.
    changes: watch::Sender<u64>,
    /// The number of those that may deny an open connection. Separate, so that waiting for one does not wake for others.
    authorization: watch::Sender<u64>,
}

impl ProxyState {
    pub(crate) fn new(config: Config, host: Arc<Host>) -> Self {
        let workers = config.workers.max_workers();
        let mesh = MeshSettings::without_mesh(&config);
        let logs = LogBuffer::new(host.events.wakeup().clone());
        let telemetry = Telemetry::new(config.telemetry.clone(), mesh.access_log.clone(), logs);
        Self {
            store: RwLock::default(),
            mesh: RwLock::new(Arc::new(mesh)),
            host,
            telemetry,
            outliers: Outliers::new(config.outliers),
            hosts: DnsCache::default(),
            direct: Direct::new(config.direct_connections),
            resolvers: OnceLock::new(),
            changes: watch::channel(0).0,
            authorization: watch::channel(0).0,
            connections: (0..workers).map(|_| Arc::default()).collect(),
            config,
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

    /// Make a change known. Direct connections are decided anew before this returns.
    pub(crate) fn changed(&self, scope: ChangeScope) {
        self.direct.recompute(self.around(), scope == ChangeScope::Authorization);
        self.changes.send_modify(|number| *number += 1);
        if scope == ChangeScope::Authorization {
            self.authorization.send_modify(|number| *number += 1);
        }
    }

    /// What direct connections depend on.
    pub(crate) fn around(&self) -> Around<'_> {
        let Self { store, telemetry, outliers, config, host, .. } = self;
        Around { store, network: &config.network, telemetry, outliers, certificates: &host.certificates }
    }

    /// Learn that the tunnel carries a connection of a pod, so that later ones may be direct.
    pub(crate) fn learn_direct(&self, uid: &str, destination: SocketAddr) {
        self.direct.learn(self.around(), uid, destination);
    }

    /// Changes when an open connection may be denied.
    pub(crate) fn authorization(&self) -> watch::Receiver<u64> {
        self.authorization.subscribe()
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
    use culvert_core::proto::engine::EngineConfig;

    use super::*;

    #[test]
    fn only_a_change_of_authorization_wakes_workers() {
        let config = Config::from(EngineConfig { worker_threads: 2, max_worker_threads: 2, ..EngineConfig::default() });
        let host = Host::new(config.workers).unwrap();
        let shared = ProxyState::new(config, host);
        let waiting = shared.authorization();
        shared.changed(ChangeScope::Routing);
        assert!(!waiting.has_changed().unwrap());
        shared.changed(ChangeScope::Authorization);
        assert!(waiting.has_changed().unwrap());
    }
}
