//! One pod on one worker: its listeners, its tunnels, its limits.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_core::identity::Identity;
use culvert_core::names::{HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT};
use culvert_core::proto::engine::workload_ref::Mode;
use culvert_hbone::client::{Dial, Pool, PoolSettings, TunnelKey};
use culvert_mesh::Workload;
use culvert_net::memory_budget::MemoryBudget;
use culvert_net::socket::{self, ConnectOptions, SocketFactory};
use culvert_runtime::{TaskGroup, budget};
use culvert_telemetry::{Direction, OpenFlow};
use culvert_tls::WorkloadCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::dns::{self, Dns};
use super::rate_limit::{self, RateLimiter};
use super::worker::Worker;
use super::{inbound, outbound, plaintext, refusal};
use crate::certificates::CertificateUse;
use crate::config::Config;
use crate::proxy::Connections;
use crate::shared::{ActiveGuard, ProxyState};

/// Budget of accepting a connection, in bytes moved in the same time.
const ACCEPT_COST: usize = 16 * 1024;

/// Size limit of a connection's task, in bytes. Without optimization it is a word larger.
const MAX_TASK: usize = if cfg!(debug_assertions) { 664 } else { 656 };

/// What the node agent reports of a pod.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub mode: Mode,
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub identity: Identity,
    /// Limits for all workers together.
    pub bounds: Bounds,
}

/// Resource limits of a pod in this process.
#[derive(Debug)]
pub(crate) struct Bounds {
    memory: Arc<MemoryBudget>,
    rate_limiter: Option<RateLimiter>,
    connections: Semaphore,
    handshakes: Semaphore,
    /// Refused connections that are not closed yet; see [`refusal`].
    pub(super) refusals: Semaphore,
}

/// Semaphore for things that a pod may have at once.
#[derive(Debug)]
pub(super) struct Semaphore(AtomicUsize);

impl Semaphore {
    pub(super) fn try_acquire(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    pub(super) fn release(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bounds {
    pub(crate) fn new(shared: &ProxyState) -> Self {
        let Config { max_buffered_bytes, max_bandwidth, max_connections, max_handshakes, .. } = shared.config;
        let rate_limiter = RateLimiter::new(max_bandwidth);
        let max_io = rate_limiter.as_ref().map_or(usize::MAX, RateLimiter::max_io);
        Self {
            memory: MemoryBudget::with_max_io(
                max_buffered_bytes,
                max_io,
                shared.telemetry.metrics.slowed_by_memory.clone(),
            ),
            rate_limiter,
            connections: Semaphore(max_connections.into()),
            handshakes: Semaphore(max_handshakes.into()),
            refusals: Semaphore(refusal::MAX_PENDING.into()),
        }
    }
}

/// Phases of a pod's life. Ordered: each allows less than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Removed; peers that do not know yet are still served.
    Leaving,
    /// No new connections; open ones run to their end.
    Draining,
    /// All connections are closed.
    Stopped,
}

pub(crate) struct Pod {
    pub worker: Rc<Worker>,
    pub info: Arc<PodInfo>,
    pub sockets: SocketFactory,
    pub certificate: CertificateUse,
    pub pool: Pool,
    /// `None` where DNS is not served.
    pub dns: Option<Rc<Dns>>,
    phase: watch::Sender<Phase>,
    connections: Cell<usize>,
    listeners: Cell<usize>,
    quiet: tokio::sync::Notify,
    tasks: TaskGroup,
}

/// Counts a connection until dropped, and its socket if it has one of its own.
pub(crate) struct ConnectionPermit(Rc<Pod>, Option<Direction>);

/// Counts a handshake until dropped.
pub(crate) struct HandshakePermit<'a>(&'a Pod);

/// How a listener handles accepted connections.
#[derive(Clone, Copy)]
struct Handler {
    /// Spawns the task of an accepted connection.
    begin: fn(Rc<Pod>, ConnectionPermit, TcpStream, SocketAddr),
    /// Which report of connections its sockets belong to; `None` for DNS.
    counted: Option<Direction>,
}

impl Pod {
    /// How a connection is opened now.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        self.shared().mesh().connect_options()
    }

    /// Open the pod's listeners on this worker.
    pub(crate) fn start(worker: Rc<Worker>, info: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<Self>> {
        let mut listeners: Vec<(TcpListener, Handler)> = [
            (OUTBOUND_PORT, Handler { begin: outbound::begin, counted: Some(Direction::Outbound) }),
            (INBOUND_PLAINTEXT_PORT, Handler { begin: plaintext::begin, counted: Some(Direction::Inbound) }),
            (HBONE_PORT, Handler { begin: inbound::begin, counted: Some(Direction::Inbound) }),
        ]
        .into_iter()
        .filter(|(port, _)| info.mode == Mode::Captured || *port == HBONE_PORT)
        .map(|(port, handler)| {
            let listener = sockets.listen(&worker.home, port);
            let named = |error| io::Error::other(format!("cannot listen on port {port} in the pod: {error}"));
            listener.map(|listener| (listener, handler)).map_err(named)
        })
        .collect::<io::Result<_>>()?;
        let config = &worker.shared.config;
        let mut datagrams = Vec::new();
        let dns = if config.dns_proxy && info.mode == Mode::Captured {
            let opened = dns::open(&worker, &sockets)?;
            let handler = Handler { begin: dns::begin_tcp, counted: None };
            listeners.extend(opened.listeners.into_iter().map(|listener| (listener, handler)));
            datagrams = opened.datagrams;
            Some(Rc::new(opened.dns))
        } else {
            None
        };
        let pool = Pool::new(PoolSettings {
            max_streams: config.max_streams_per_tunnel,
            idle: config.tunnel_idle,
            timeout: config.handshake_timeout,
            memory: info.bounds.memory.clone(),
        });
        let certificate = worker.shared.certificates.want(&info.identity);
        let pod = Rc::new(Self {
            worker,
            info,
            sockets,
            certificate,
            pool,
            dns,
            phase: watch::channel(Phase::Serving).0,
            connections: Cell::new(0),
            listeners: Cell::new(0),
            quiet: tokio::sync::Notify::new(),
            tasks: TaskGroup::new(),
        });
        for (listener, handler) in listeners {
            let open = OpenListener::new(pod.clone());
            pod.tasks.spawn_detached(accept(pod.clone(), listener, handler, open));
        }
        for socket in datagrams {
            if let Some(dns) = pod.dns.clone() {
                pod.tasks.spawn_detached(dns::serve_udp(pod.clone(), dns, socket, OpenListener::new(pod.clone())));
            }
        }
        Ok(pod)
    }

    pub(crate) fn shared(&self) -> &Arc<ProxyState> {
        &self.worker.shared
    }

    pub(crate) const fn netns_inode(&self) -> u64 {
        self.sockets.netns_inode()
    }

    /// This worker's registry.
    pub(crate) fn registry(&self) -> &Arc<Connections> {
        // A worker's number is always below the number of registries: both come from the same setting.
        #[allow(clippy::indexing_slicing, reason = "see above")]
        &self.worker.shared.connections[self.worker.number]
    }

    /// The pod's own workload; waits until the control plane has sent it.
    pub(crate) async fn workload(&self) -> Result<Arc<Workload>, String> {
        let PodInfo { namespace, name, service_account, .. } = &*self.info;
        let timeout = self.shared().config.workload_wait;
        let found = self.shared().workload(namespace, name, service_account, timeout).await;
        found.ok_or_else(|| {
            format!("unknown source workload: {namespace}/{name} with service account {service_account}")
        })
    }

    /// Enter a phase; never an earlier one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = *current < phase;
            if forward {
                *current = phase;
            }
            forward
        });
        self.quiet.notify_waiters();
        if phase == Phase::Stopped {
            self.tasks.abort();
        }
    }

    /// Spawn a connection's task; it is aborted when the pod is stopped.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(&self, task: F) {
        const { assert!(size_of::<F>() <= MAX_TASK) };
        self.tasks.spawn(task);
    }

    /// The budget for bytes buffered for its connections.
    pub(super) fn memory(&self) -> &Arc<MemoryBudget> {
        &self.info.bounds.memory
    }

    /// Limit a connection to the pod's rate.
    pub(super) fn throttled<T>(
        &self,
        flow: &OpenFlow,
        carried: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = T> {
        let slowed = || {
            self.shared().telemetry.metrics.slowed_by_bandwidth.fetch_add(1, Ordering::Relaxed);
        };
        rate_limit::throttled(self.info.bounds.rate_limiter.as_ref(), carried, || flow.carried(), slowed)
    }

    /// Wait until the pod has reached `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        // `self` owns the sender, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Drain: take no new connections, let open ones run for up to `timeout`, then close them.
    pub(crate) async fn leave(&self, timeout: Duration) {
        self.enter(Phase::Draining);
        let ended = async {
            // Listeners count: connections queued in one are accepted when it closes.
            while self.connections.get() > 0 || self.listeners.get() > 0 {
                self.quiet.notified().await;
            }
        };
        // After the last connection or the timeout, whichever comes first.
        let _ = tokio::time::timeout(timeout, ended).await;
        self.enter(Phase::Stopped);
    }

    pub(crate) fn release_idle(&self) {
        self.pool.release_idle();
    }

    /// A permit for one more connection, if the limit allows. `counted`: its socket counts for that reporter.
    pub(super) fn permit(self: &Rc<Self>, counted: Option<Direction>) -> Option<ConnectionPermit> {
        if !self.info.bounds.connections.try_acquire() {
            self.shared().telemetry.metrics.over_connection_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        self.shared().hold();
        if let Some(seen) = counted {
            self.shared().telemetry.metrics.socket_opened(seen);
        }
        Some(ConnectionPermit(self.clone(), counted))
    }

    /// A permit for one more handshake, if the limit allows.
    pub(crate) fn handshake_permit(&self) -> Option<HandshakePermit<'_>> {
        if !self.info.bounds.handshakes.try_acquire() {
            self.shared().telemetry.metrics.over_handshake_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(HandshakePermit(self))
    }
}

impl ConnectionPermit {
    pub(super) const fn pod(&self) -> &Rc<Pod> {
        &self.0
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.info.bounds.connections.release();
        self.0.shared().release();
        if let Some(seen) = self.1 {
            self.0.shared().telemetry.metrics.socket_closed(seen);
        }
        self.0.quiet.notify_waiters();
        if std::thread::panicking() {
            self.0.shared().telemetry.metrics.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts a listener until dropped.
pub(super) struct OpenListener(Rc<Pod>, #[allow(dead_code, reason = "held for its drop")] ActiveGuard);

impl OpenListener {
    fn new(pod: Rc<Pod>) -> Self {
        pod.listeners.set(pod.listeners.get() + 1);
        let held = ActiveGuard::new(pod.shared().clone());
        Self(pod, held)
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.0.listeners.set(self.0.listeners.get() - 1);
        self.0.quiet.notify_waiters();
    }
}

impl Drop for HandshakePermit<'_> {
    fn drop(&mut self) {
        self.0.info.bounds.handshakes.release();
    }
}

impl Dial for Pod {
    async fn dial(&self, key: &TunnelKey) -> Result<(TcpStream, Arc<WorkloadCertificate>), culvert_hbone::Error> {
        let config = &self.shared().config;
        let certificate =
            self.certificate.get(config.workload_wait).await.map_err(culvert_hbone::Error::Certificate)?;
        let stream = self
            .sockets
            .connect(&self.worker.home, None, key.address, self.connect_options())
            .await
            .map_err(culvert_hbone::Error::Dial)?;
        Ok((stream, certificate))
    }
}

/// Accept until the pod drains; each connection gets a task of its own.
async fn accept(pod: Rc<Pod>, listener: TcpListener, handler: Handler, _open: OpenListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(|context| poll_accept(&listener, context)) => accepted,
            () = pod.reached(Phase::Draining) => break,
        };
        match accepted {
            Ok((stream, peer)) => take(&pod, stream, peer, handler),
            // Out of descriptors or memory: connections wait in the kernel's queue; retry after a delay.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    // Connections that are queued when a listener closes are reset, and the runtime may not know of the latest: accept until
    // the queue is empty. One that arrives between the last accept and the close can only be moved by the kernel
    // (`net.ipv4.tcp_migrate_req`, which the node agent sets).
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let registered = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = registered {
            take(&pod, stream, peer, handler);
        }
    }
    // Close it before `_open` is dropped: arguments are dropped after locals.
    drop(listener);
}

fn poll_accept(listener: &TcpListener, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    ready!(budget::poll_proceed(context));
    let accepted = ready!(listener.poll_accept(context));
    budget::consume(ACCEPT_COST);
    Poll::Ready(accepted)
}

/// Serve an accepted connection if its pod has a permit left.
fn take(pod: &Rc<Pod>, stream: TcpStream, peer: SocketAddr, handler: Handler) {
    let Some(permit) = pod.permit(handler.counted) else { return refusal::close(pod, stream) };
    (handler.begin)(pod.clone(), permit, stream, socket::canonical(peer));
}
