//! Connections between pods of this node that do without the tunnel (`bpf/direct.bpf.c`).
//!
//! The kernel looks up whether a pair of pods may connect directly; here is decided what it finds. A pair becomes known
//! when the tunnel has carried a connection of it, so the table has what is used. It is decided again in every call that
//! changes what the verdict depends on, before that call returns: the table never lags behind policy. Open direct
//! connections that policy denies now are ended in the same call.
//!
//! Several engines of a node may be attached while one follows the other; the latest decides. What an engine that ends
//! leaves behind goes on deciding until the next one has compared it with its own state.

mod pods;
mod report;
mod verdict;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use culvert_bpf::BpfError;
use culvert_bpf::direct::{DirectConnection, DirectMaps, Happened, Pair};
use culvert_core::proto::engine::{MetricFamily, MetricKind};
use culvert_mesh::Store;
use culvert_metrics::{by_label, single};
use culvert_net::netns::Netns;
use culvert_net::transfer::Transfer;
use culvert_telemetry::Telemetry;
use culvert_upstream::Outliers;
use culvert_worker::PodInfo;
use parking_lot::{Mutex, RwLock};

use pods::{LocalPods, client_socket, server_socket};
use report::{Context, Reports};

/// Pairs that one pod may have; connections of others go through the tunnel. So a pod that calls every port of its
/// neighbours leaves them their part of the kernel's table.
const MAX_PAIRS_OF_POD: usize = 1024;

/// The kernel's table (`cv_direct`).
const MAX_PAIRS: usize = 16_384;

/// Events that are taken in at a time, and how long the next ones wait.
const MAX_EVENTS: usize = 2048;
const INTERVAL: Duration = Duration::from_millis(20);
const IDLE_INTERVAL: Duration = Duration::from_millis(200);

/// A connect that fails after this time was not answered, even when its SYN was sent again (after a second).
const UNANSWERED_NS: u64 = 900_000_000;

/// How long a pair that was not answered is left to the tunnel.
const BARRED: Duration = Duration::from_secs(300);

/// See the module. Thread-safe. Locked after the store.
#[derive(Debug)]
pub(crate) struct Direct {
    enabled: bool,
    /// Whether pairs are learned, to be read without a lock.
    active: AtomicBool,
    state: Mutex<State>,
    /// Open direct connections that were ended because policy denies them.
    ended: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pods: LocalPods,
    reports: Reports,
    attached: Option<Attached>,
}

/// What decisions and reports depend on.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) store: &'a RwLock<Store>,
    pub(crate) network: &'a Arc<str>,
    pub(crate) telemetry: &'a Arc<Telemetry>,
    pub(crate) outliers: &'a Outliers,
}

#[derive(Debug)]
struct Attached {
    maps: DirectMaps,
    folder: PathBuf,
    owner: u64,
    /// The pairs that are known, and whether each is allowed.
    pairs: HashMap<Pair, bool>,
    /// Pairs whose connections were not answered directly, until when: something on the way admits the tunnel only.
    barred: HashMap<Pair, Instant>,
}

impl Direct {
    /// Nothing is direct before [`Direct::attach`]. `enabled`: whether it may be called at all.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, active: AtomicBool::new(false), state: Mutex::default(), ended: AtomicU64::new(0) }
    }

    /// Know a pod that is served from now on.
    pub(crate) fn add_pod(&self, info: &Arc<PodInfo>, namespace: BorrowedFd<'_>) -> std::io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let namespace = Netns::new(namespace.try_clone_to_owned()?)?;
        self.state.lock().pods.add(info.clone(), namespace)
    }

    /// Open no new direct connections from or to a pod.
    pub(crate) fn remove_pod(&self, store: &Store, uid: &str) {
        if self.enabled && self.state.lock().pods.remove(uid).is_some() {
            self.recompute(store, true);
        }
    }

    /// Use the maps that a node agent has pinned below `folder`, and decide from now on; whether that is new, so that
    /// [`Direct::poll`] has to be called. What is allowed there is decided again first.
    ///
    /// # Errors
    /// There are no such maps.
    pub(crate) fn attach(&self, around: Around<'_>, folder: &Path) -> Result<bool, BpfError> {
        let store = &*around.store.read();
        let mut state = self.state.lock();
        let is_current = |attached: &Attached| attached.folder == folder && attached.maps.is_current(folder);
        if !self.enabled || state.attached.as_ref().is_some_and(is_current) {
            return Ok(false);
        }
        let mut maps = DirectMaps::open(folder)?;
        let owner = fastrand::u64(1..);
        maps.claim(owner)?;
        let pairs = maps.pairs().into_iter().map(|pair| (pair, true)).collect();
        let State { pods, reports, attached } = &mut *state;
        let is_first = attached.is_none();
        let made = Attached { maps, folder: folder.to_owned(), owner, pairs, barred: HashMap::new() };
        let attached = attached.insert(made);
        self.active.store(true, Ordering::Release);
        attached.decide_pairs(store, pods);
        let context = around.context(store, pods);
        for connection in attached.maps.connections().iter().filter(|connection| connection.opened.is_some()) {
            reports.opened(&context, connection);
        }
        self.end_denied(store, pods, reports, attached);
        Ok(is_first)
    }

    /// Decide no more; open direct connections are left to the next engine.
    pub(crate) fn detach(&self) {
        self.state.lock().detach();
        self.active.store(false, Ordering::Release);
    }

    /// Learn of a pair that the tunnel has just carried a connection of.
    pub(crate) fn learn(&self, store: &RwLock<Store>, uid: &str, destination: SocketAddr) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let store = &*store.read();
        // A later connection teaches the same: a worker does not wait for it.
        let Some(mut state) = self.state.try_lock() else { return };
        let State { pods, attached: Some(attached), .. } = &mut *state else { return };
        let Some(pod) = pods.with_uid(uid) else { return };
        let pair = Pair { netns: pod.cookie, destination };
        if attached.pairs.contains_key(&pair) || attached.is_barred(pair) {
            return;
        }
        let Some(verdict) = verdict::decide(store, pods, pair) else { return };
        if attached.is_owner() && !attached.is_full_for(pair.netns) && attached.maps.allow(pair, verdict).is_ok() {
            attached.pairs.insert(pair, true);
        }
    }

    /// Decide again after a change. `authorization`: whether it may deny what is open.
    pub(crate) fn recompute(&self, store: &Store, authorization: bool) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        let State { pods, reports, attached: Some(attached) } = &mut *state else { return };
        if attached.is_owner() {
            attached.decide_pairs(store, pods);
            if authorization {
                self.end_denied(store, pods, reports, attached);
            }
        }
    }

    /// Report what has happened since the last call; when to call again, if ever.
    pub(crate) fn poll(&self, around: Around<'_>) -> Option<Duration> {
        let store = &*around.store.read();
        let mut state = self.state.lock();
        if !state.attached.as_ref()?.is_owner() {
            state.detach();
            self.active.store(false, Ordering::Release);
            return None;
        }
        let State { pods, reports, attached: Some(attached) } = &mut *state else { return None };
        for _ in 0..MAX_EVENTS {
            let Some((connection, happened)) = attached.maps.next_event() else { break };
            self.note(around, &around.context(store, pods), reports, attached, &connection, happened);
        }
        let carried = |connection: &DirectConnection| {
            let found = pods.with_cookie(connection.source_netns)?.sockets().ok()?;
            let carried = found.carried(&client_socket(connection)).ok()?;
            Some(Transfer { to_destination: carried.sent, to_client: carried.received })
        };
        for connection in reports.poll(carried) {
            attached.maps.forget(&connection);
        }
        Some(if reports.is_empty() && attached.pairs.is_empty() { IDLE_INTERVAL } else { INTERVAL })
    }

    /// Take in one event.
    fn note(
        &self,
        around: Around<'_>,
        context: &Context<'_>,
        reports: &mut Reports,
        attached: &mut Attached,
        connection: &DirectConnection,
        happened: Happened,
    ) {
        let is_chosen = connection.target != connection.server;
        match happened {
            Happened::Opened => {
                reports.opened(context, connection);
                if is_chosen {
                    around.outliers.succeeded(connection.server);
                }
            }
            Happened::Closed { to_destination, to_client, at, reset } => {
                if connection.opened.is_none() {
                    if is_chosen {
                        around.outliers.failed(connection.server);
                    }
                    if at.saturating_sub(connection.began) >= UNANSWERED_NS {
                        attached.bar(connection.pair());
                    }
                }
                reports.closed(context, connection, Transfer { to_destination, to_client }, at, reset);
            }
            Happened::Forbidden => self.end_if_denied(context.store, context.pods, reports, connection),
        }
    }

    /// What has been counted, the kernel's programs included.
    pub(crate) fn families(&self) -> [MetricFamily; 2] {
        let state = self.state.lock();
        let maps = state.attached.as_ref().map(|attached| &attached.maps);
        let mut counts = maps.map(DirectMaps::counts).unwrap_or_default();
        counts.push(("ended_by_policy", self.ended.load(Ordering::Relaxed)));
        let outcomes = by_label(
            "culvert_direct_connections",
            "Connections between pods of this node that do without the tunnel, by what became of them",
            MetricKind::Counter,
            "outcome",
            counts,
        );
        let open = single(
            "culvert_direct_connections_open",
            "Of these, connections that are open or opening",
            MetricKind::Gauge,
            maps.map(DirectMaps::used).unwrap_or_default(),
        );
        [outcomes, open]
    }

    /// End the connections that policy denies. After the table: what is opened meanwhile is seen here, or finds no pair.
    fn end_denied(&self, store: &Store, pods: &mut LocalPods, reports: &mut Reports, attached: &Attached) {
        let open = attached.maps.connections();
        for connection in &open {
            self.end_if_denied(store, pods, reports, connection);
        }
        pods.retain(|cookie| open.iter().any(|one| one.source_netns == cookie || one.destination_netns == cookie));
    }

    fn end_if_denied(&self, store: &Store, pods: &LocalPods, reports: &mut Reports, connection: &DirectConnection) {
        let Err(denied) = verdict::reevaluate(store, pods, connection) else { return };
        reports.denied(connection, denied);
        if end(pods, connection) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl State {
    fn detach(&mut self) {
        self.reports.hand_over();
        self.attached = None;
    }
}

impl<'a> Around<'a> {
    fn context(&self, store: &'a Store, pods: &'a LocalPods) -> Context<'a> {
        Context { store, pods, network: self.network, telemetry: self.telemetry }
    }
}

impl Attached {
    /// Bring the table in line with what is decided now.
    fn decide_pairs(&mut self, store: &Store, pods: &LocalPods) {
        let Self { maps, pairs, .. } = self;
        pairs.retain(|pair, _| {
            let is_served = pods.with_cookie(pair.netns).is_some_and(|pod| pod.served);
            if !is_served {
                maps.forbid(*pair);
            }
            is_served
        });
        for (pair, allowed) in pairs.iter_mut() {
            match verdict::decide(store, pods, *pair) {
                Some(verdict) => *allowed = maps.allow(*pair, verdict).is_ok(),
                None if *allowed => {
                    maps.forbid(*pair);
                    *allowed = false;
                }
                None => {}
            }
        }
    }

    /// Leave a pair to the tunnel for a while.
    fn bar(&mut self, pair: Pair) {
        let now = Instant::now();
        self.barred.retain(|_, until| *until > now);
        if self.barred.len() < MAX_PAIRS {
            self.barred.insert(pair, now + BARRED);
        }
        self.pairs.remove(&pair);
        self.maps.forbid(pair);
    }

    fn is_barred(&self, pair: Pair) -> bool {
        self.barred.get(&pair).is_some_and(|until| *until > Instant::now())
    }

    fn is_owner(&self) -> bool {
        self.maps.owner() == self.owner
    }

    fn is_full_for(&self, netns: u64) -> bool {
        self.pairs.len() >= MAX_PAIRS
            || self.pairs.keys().filter(|pair| pair.netns == netns).count() >= MAX_PAIRS_OF_POD
    }
}

/// End a connection at its client's socket, or at the destination's where the client's cannot be reached.
fn end(pods: &LocalPods, connection: &DirectConnection) -> bool {
    let at = |cookie: u64, socket| {
        pods.with_cookie(cookie).is_some_and(|pod| pod.sockets().and_then(|sockets| sockets.destroy(&socket)).is_ok())
    };
    at(connection.source_netns, client_socket(connection))
        || at(connection.destination_netns, server_socket(connection))
}
