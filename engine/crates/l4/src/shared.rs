//! What all workers read and the host's calls write.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use culvert_dns::resolv_conf;
use culvert_tls::Revocations;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::certificates::Certificates;
use crate::config::Config;
use crate::events::Events;
use crate::proxy::Connections;
use crate::state::{Hosts, Outliers, Store, Workload};
use crate::telemetry::Metrics;

/// What a change of the store may mean for connections that stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing: only new connections are decided differently.
    Routing,
    /// Some may be forbidden now.
    Authorization,
}

/// Sequence numbers of changes of the store.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changes {
    pub latest: u64,
    /// The last that may forbid an open connection.
    pub authorization: u64,
}

#[derive(Debug)]
struct Judged {
    /// `None` where there is none that could have anything to judge.
    by_worker: Vec<Option<u64>>,
    told: u64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    pub store: RwLock<Store>,
    pub certificates: Arc<Certificates>,
    pub revocations: Arc<Revocations>,
    pub events: Arc<Events>,
    pub metrics: Metrics,
    pub outliers: Outliers,
    pub hosts: Hosts,
    /// A registry for each worker.
    pub connections: Vec<Arc<Connections>>,
    /// Listeners and accepted connections that are open; what a drain waits for.
    held: AtomicUsize,
    resolvers: OnceLock<Vec<SocketAddr>>,
    changes: watch::Sender<Changes>,
    /// What each worker has acted on, and what the host has been told of that.
    judged: Mutex<Judged>,
}

/// A listener or an accepted connection, counted until dropped.
pub(crate) struct Held(Arc<Shared>);

impl Held {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.held.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(crate) fn new(config: Config, events: Arc<Events>) -> Self {
        let workers = config.workers_per_lane * config.lanes;
        Self {
            store: RwLock::default(),
            certificates: Certificates::new(events.clone()),
            revocations: Arc::default(),
            metrics: Metrics::default(),
            outliers: Outliers::new(config.outliers),
            hosts: Hosts::default(),
            held: AtomicUsize::new(0),
            resolvers: OnceLock::new(),
            changes: watch::channel(Changes::default()).0,
            judged: Mutex::new(Judged { by_worker: vec![None; workers], told: 0 }),
            connections: (0..workers).map(|_| Arc::default()).collect(),
            config,
            events,
        }
    }

    /// The resolvers of this process; asked for names of our own, and where it is not known whom a pod asked.
    pub(crate) fn own_resolvers(&self) -> &[SocketAddr] {
        let read = || resolv_conf::servers(&std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default());
        self.resolvers.get_or_init(read)
    }

    /// Number of listeners and accepted connections that are open.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Make a change known; returns its sequence number.
    pub(crate) fn changed(&self, reach: Reach) -> u64 {
        self.changes.send_modify(|changes| {
            changes.latest += 1;
            if reach == Reach::Authorization {
                changes.authorization = changes.latest;
            }
        });
        self.changes.borrow().latest
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    /// A worker has acted on everything up to `sequence`, or has ended; the host is told when all have.
    pub(crate) fn judged(&self, worker: usize, sequence: Option<u64>) {
        let mut judged = self.judged.lock();
        if let Some(mine) = judged.by_worker.get_mut(worker) {
            *mine = sequence;
        }
        let all = judged.by_worker.iter().flatten().copied().min().unwrap_or_default();
        if all > judged.told {
            judged.told = all;
            self.events.applied(all);
        }
    }

    /// The workload that the node agent called so; waits for the control plane to tell of it.
    pub(crate) async fn workload(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        patience: Duration,
    ) -> Option<Arc<Workload>> {
        let find = || self.store.read().workload_named(namespace, name, account).cloned();
        if let Some(found) = find() {
            return Some(found);
        }
        let mut changes = self.changes();
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
        tokio::time::timeout(patience, wait).await.ok()
    }
}
