//! Connections between pods of this node that do without the tunnel (`bpf/direct.bpf.c`).
//!
//! The kernel looks up whether a pair of pods may connect directly; here is decided what it finds. A pair becomes known
//! when the tunnel has carried a connection of it, so the table has what is used. It is decided again in every call that
//! changes what the verdict depends on, before that call returns: the table never lags behind policy. Open direct
//! connections that policy denies now are ended in the same call.
//!
//! Several engines of a node may be attached while one follows the other. The one that began last decides; the others
//! look whether it still does, and the next one takes over when it has ended. What an engine that ends leaves behind goes
//! on deciding until then.

mod pods;
mod report;
mod table;
mod trust;
mod verdict;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use culvert_bpf::BpfError;
use culvert_bpf::direct::{DirectConnection, DirectMaps, Happened, Pair};
use culvert_core::proto::engine::{MetricFamily, MetricKind};
use culvert_mesh::Store;
use culvert_metrics::{by_label, single};
use culvert_net::netns::Netns;
use culvert_net::transfer::Transfer;
use culvert_runtime::clock;
use culvert_telemetry::Telemetry;
use culvert_upstream::Outliers;
use culvert_worker::{Certificates, PodInfo};
use parking_lot::{Mutex, RwLock};

use pods::{LocalPods, client_socket, server_socket};
use report::{Context, Reports};
use table::{Mixed, Table};
use trust::Trust;
use verdict::World;

/// Events that are taken in at a time, and how long the next ones wait.
const MAX_EVENTS: usize = 2048;
const INTERVAL: Duration = Duration::from_millis(20);
const IDLE_INTERVAL: Duration = Duration::from_millis(200);

/// How often an engine looks whether the one that decides has ended.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

/// A connect that fails after this time was not answered, even when its SYN was sent again (after a second).
const UNANSWERED_NS: u64 = 900_000_000;

/// See the module. Thread-safe. Locked after the store.
#[derive(Debug)]
pub(crate) struct Direct {
    enabled: bool,
    /// When this engine began, by which the latest is found.
    began: u64,
    /// Whether pairs are learned, to be read without a lock.
    active: AtomicBool,
    state: Mutex<State>,
    /// Apart from the state, so that workers do not wait for it.
    mixed: RwLock<Mixed>,
    /// Open direct connections that were ended because policy denies them.
    ended: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pods: LocalPods,
    trust: Trust,
    reports: Reports,
    attached: Option<Table>,
    /// The folder of maps by which another engine decides.
    standby: Option<PathBuf>,
}

/// What decisions and reports depend on.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) store: &'a RwLock<Store>,
    pub(crate) network: &'a Arc<str>,
    pub(crate) telemetry: &'a Arc<Telemetry>,
    pub(crate) outliers: &'a Outliers,
    pub(crate) certificates: &'a Certificates,
}

impl Direct {
    /// Nothing is direct before [`Direct::attach`]. `enabled`: whether it may be called at all.
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            began: clock::now(),
            active: AtomicBool::new(false),
            state: Mutex::default(),
            mixed: RwLock::default(),
            ended: AtomicU64::new(0),
        }
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
    pub(crate) fn remove_pod(&self, around: Around<'_>, uid: &str) {
        if self.enabled && self.state.lock().pods.remove(uid).is_some() {
            self.recompute(around, true);
        }
    }

    /// Use the maps that a node agent has pinned below `folder`, and decide from now on, or as soon as no later engine
    /// does; whether that is new, so that [`Direct::poll`] has to be called. What is allowed there is decided again first.
    ///
    /// # Errors
    /// There are no such maps.
    pub(crate) fn attach(&self, around: Around<'_>, folder: &Path) -> Result<bool, BpfError> {
        let store = &*around.store.read();
        let mut state = self.state.lock();
        if !self.enabled || state.attached.as_ref().is_some_and(|attached| attached.is_current(folder)) {
            return Ok(false);
        }
        let is_first = state.attached.is_none() && state.standby.is_none();
        match Table::open(folder, self.began)? {
            Some(table) => self.decide_by(table, around, store, &mut state),
            None => self.stand_by(&mut state, folder.to_owned()),
        }
        Ok(is_first)
    }

    fn decide_by(&self, table: Table, around: Around<'_>, store: &Store, state: &mut State) {
        let State { pods, trust, reports, attached, standby } = state;
        *trust = Trust::of(around.certificates);
        *standby = None;
        let attached = attached.insert(table);
        self.active.store(true, Ordering::Release);
        let world = World { store, pods, trust };
        attached.decide(world, around.outliers);
        self.publish(pods, attached);
        let context = around.context(store, pods);
        for connection in attached.maps.connections().iter().filter(|connection| connection.opened.is_some()) {
            reports.opened(&context, connection);
        }
        self.end_denied(around, world, reports, attached);
    }

    fn stand_by(&self, state: &mut State, folder: PathBuf) {
        state.detach();
        state.standby = Some(folder);
        self.active.store(false, Ordering::Release);
    }

    /// Decide no more; open direct connections are left to the next engine.
    pub(crate) fn detach(&self) {
        self.state.lock().detach();
        self.active.store(false, Ordering::Release);
    }

    /// Learn of a pair that the tunnel has just carried a connection of.
    pub(crate) fn learn(&self, around: Around<'_>, uid: &str, destination: SocketAddr) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let store = &*around.store.read();
        // A later connection teaches the same: a worker does not wait for it.
        let Some(mut state) = self.state.try_lock() else { return };
        let State { pods, trust, attached: Some(attached), .. } = &mut *state else { return };
        let Some(pod) = pods.with_uid(uid) else { return };
        attached.learn(World { store, pods, trust }, around.outliers, Pair { netns: pod.cookie, destination });
        self.publish(pods, attached);
    }

    /// Endpoints of a service that the tunnel leaves out at first, because the kernel has their share already: it sends a
    /// connection here only if it has chosen another one.
    pub(crate) fn taken_by_kernel(&self, uid: &Arc<str>, service: SocketAddr) -> Vec<SocketAddr> {
        if !self.active.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mixed = self.mixed.read();
        mixed.get(&(uid.clone(), service)).map(|endpoints| endpoints.to_vec()).unwrap_or_default()
    }

    fn publish(&self, pods: &LocalPods, table: &mut Table) {
        if let Some(mixed) = table.mixed(pods) {
            *self.mixed.write() = mixed;
        }
    }

    /// Decide again after a change. `authorization`: whether it may deny what is open.
    pub(crate) fn recompute(&self, around: Around<'_>, authorization: bool) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let store = &*around.store.read();
        let mut state = self.state.lock();
        let State { pods, trust, reports, attached: Some(attached), .. } = &mut *state else { return };
        if !attached.is_owner() {
            return;
        }
        let world = World { store, pods, trust };
        attached.decide(world, around.outliers);
        self.publish(pods, attached);
        if authorization {
            let open = self.end_denied(around, world, reports, attached);
            pods.retain(|cookie| open.iter().any(|one| one.source_netns == cookie || one.destination_netns == cookie));
        }
    }

    /// Decide again where certificates, roots or revocation lists have changed.
    pub(crate) fn trust_changed(&self, around: Around<'_>) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let now = Trust::of(around.certificates);
        let mut state = self.state.lock();
        if state.trust != now {
            state.trust = now;
            drop(state);
            self.recompute(around, true);
        }
    }

    /// Report what has happened since the last call; when to call again, if ever.
    pub(crate) fn poll(&self, around: Around<'_>) -> Option<Duration> {
        let store = &*around.store.read();
        let mut state = self.state.lock();
        if let Some(folder) = state.lost() {
            self.stand_by(&mut state, folder);
        }
        if let Some(folder) = &state.standby {
            // An engine that serves no pod would only forbid what the one before has allowed. Without the maps there is
            // nothing to decide until a node agent has pinned others.
            if !state.pods.serves_any() {
                return Some(STANDBY_INTERVAL);
            }
            let Ok(Some(table)) = Table::open(folder, self.began) else { return Some(STANDBY_INTERVAL) };
            self.decide_by(table, around, store, &mut state);
        }
        let State { pods, trust, reports, attached: Some(attached), .. } = &mut *state else { return None };
        attached.go_on();
        let world = World { store, pods, trust };
        attached.follow_ejections(world, around.outliers);
        for _ in 0..MAX_EVENTS {
            let Some((connection, happened)) = attached.maps.next_event() else { break };
            self.note(around, world, reports, attached, &connection, happened);
        }
        self.publish(pods, attached);
        let carried = |connection: &DirectConnection| {
            let found = pods.with_cookie(connection.source_netns)?.sockets().ok()?;
            let carried = found.carried(&client_socket(connection)).ok()?;
            Some(Transfer { to_destination: carried.sent, to_client: carried.received })
        };
        for connection in reports.poll(carried) {
            attached.maps.forget(&connection);
        }
        Some(if reports.is_empty() && attached.is_empty() { IDLE_INTERVAL } else { INTERVAL })
    }

    /// Take in one event.
    fn note(
        &self,
        around: Around<'_>,
        world: World<'_>,
        reports: &mut Reports,
        attached: &mut Table,
        connection: &DirectConnection,
        happened: Happened,
    ) {
        let is_chosen = connection.target != connection.server;
        let context = &around.context(world.store, world.pods);
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
                    // Only the tunnel can try another endpoint of a service.
                    if is_chosen || at.saturating_sub(connection.began) >= UNANSWERED_NS {
                        attached.bar(connection.pair());
                    }
                }
                reports.closed(context, connection, Transfer { to_destination, to_client }, at, reset);
            }
            Happened::Forbidden => self.end_if_denied(context, world, reports, connection),
        }
    }

    /// What a pod connects to directly, in order.
    pub(crate) fn destinations(&self, uid: &str) -> Vec<SocketAddr> {
        let state = self.state.lock();
        let (Some(pod), Some(attached)) = (state.pods.with_uid(uid), &state.attached) else { return Vec::new() };
        attached.destinations(pod.cookie)
    }

    /// What has been counted, the kernel's programs included.
    pub(crate) fn families(&self) -> [MetricFamily; 3] {
        let state = self.state.lock();
        let pairs = single(
            "culvert_direct_pairs",
            "Pods with an address and port that they are allowed to connect to directly",
            MetricKind::Gauge,
            state.attached.as_ref().map(Table::allowed_pairs).unwrap_or_default(),
        );
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
        [outcomes, open, pairs]
    }

    /// End the connections that policy denies, and return what there was. After the table: what is opened meanwhile is
    /// seen here, or finds no pair.
    fn end_denied(
        &self,
        around: Around<'_>,
        world: World<'_>,
        reports: &mut Reports,
        attached: &Table,
    ) -> Vec<DirectConnection> {
        let open = attached.maps.connections();
        let context = around.context(world.store, world.pods);
        for connection in &open {
            self.end_if_denied(&context, world, reports, connection);
        }
        open
    }

    fn end_if_denied(
        &self,
        context: &Context<'_>,
        world: World<'_>,
        reports: &mut Reports,
        connection: &DirectConnection,
    ) {
        let Err(why) = world.reevaluate(connection) else { return };
        reports.ending(context, connection, why);
        if end(world.pods, connection) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl State {
    fn detach(&mut self) {
        self.reports.hand_over();
        if let Some(mut attached) = self.attached.take() {
            attached.release();
        }
        self.standby = None;
    }

    /// The folder of the maps, where another engine decides by them now.
    fn lost(&self) -> Option<PathBuf> {
        self.attached.as_ref().filter(|attached| !attached.is_owner()).map(|attached| attached.folder().to_owned())
    }
}

impl<'a> Around<'a> {
    fn context(&self, store: &'a Store, pods: &'a LocalPods) -> Context<'a> {
        Context { store, pods, network: self.network, telemetry: self.telemetry }
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
