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
use culvert_hbone::client::{Dial, Pool, PoolSettings, TunnelKey};
use culvert_net::room::Room;
use culvert_net::socket::{self, ConnectOptions, SocketFactory};
use culvert_runtime::{Share, turn};
use culvert_tls::WorkloadCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::dns::{self, Dns};
use super::pace::{self, Pace};
use super::worker::Worker;
use super::{inbound, outbound, plaintext};
use crate::certificates::CertificateUse;
use crate::config::Config;
use crate::proxy::Connections;
use crate::shared::{Held, Shared};
use crate::state::Workload;
use crate::telemetry::OpenFlow;

/// An accepted connection takes as long as moving so many bytes.
const ACCEPT_COST: usize = 16 * 1024;

/// Bytes that a connection's task may keep while the connection stands. Without optimisation it is a word more.
const MAX_TASK: usize = if cfg!(debug_assertions) { 664 } else { 656 };

/// What the node agent says of a pod.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub identity: Identity,
    /// Bounds that hold on all workers together.
    pub bounds: Bounds,
}

/// What a pod may take of this process.
#[derive(Debug)]
pub(crate) struct Bounds {
    room: Arc<Room>,
    pace: Option<Pace>,
    connections: Places,
    handshakes: Places,
}

/// Places for things that a pod may have at once.
#[derive(Debug)]
struct Places(AtomicUsize);

impl Places {
    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bounds {
    pub(crate) fn new(shared: &Shared) -> Self {
        let Config { max_buffered_bytes, max_bandwidth, max_connections, max_handshakes, .. } = shared.config;
        let pace = Pace::new(max_bandwidth);
        let largest_step = pace.as_ref().map_or(usize::MAX, Pace::largest_step);
        Self {
            room: Room::in_steps(max_buffered_bytes, largest_step, shared.metrics.slowed_by_memory.clone()),
            pace,
            connections: Places(max_connections.into()),
            handshakes: Places(max_handshakes.into()),
        }
    }
}

/// A pod's life here. Order matters: each phase allows less than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Removed; peers that have not heard are still answered.
    Leaving,
    /// Nothing new; what stands goes on.
    Draining,
    /// Everything is cut.
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
    share: Share,
}

/// Counts a connection until dropped.
pub(crate) struct Place(Rc<Pod>, #[allow(dead_code, reason = "held for its drop")] Held);

/// Counts a handshake until dropped.
pub(crate) struct HandshakePlace<'a>(&'a Pod);

/// Begins a task for an accepted connection.
type Handler = fn(Rc<Pod>, Place, TcpStream, SocketAddr);

impl Pod {
    /// How a connection is opened now.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        self.shared().mesh().connect_options()
    }

    /// Open the pod's listeners on this worker.
    pub(crate) fn start(worker: Rc<Worker>, info: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<Self>> {
        let mut listeners: Vec<(TcpListener, Handler)> = [
            (OUTBOUND_PORT, outbound::begin as Handler),
            (INBOUND_PLAINTEXT_PORT, plaintext::begin),
            (HBONE_PORT, inbound::begin),
        ]
        .into_iter()
        .map(|(port, handler)| {
            let listener = sockets.listen(&worker.home, port);
            let named = |error| io::Error::other(format!("cannot listen on port {port} in the pod: {error}"));
            listener.map(|listener| (listener, handler)).map_err(named)
        })
        .collect::<io::Result<_>>()?;
        let config = &worker.shared.config;
        let mut datagrams = Vec::new();
        let dns = if config.dns_proxy {
            let opened = dns::open(&worker, &sockets)?;
            listeners.extend(opened.listeners.into_iter().map(|listener| (listener, dns::begin_tcp as Handler)));
            datagrams = opened.datagrams;
            Some(Rc::new(opened.dns))
        } else {
            None
        };
        let pool = Pool::new(PoolSettings {
            max_streams: config.max_streams_per_tunnel,
            idle: config.tunnel_idle,
            patience: config.handshake_timeout,
            room: info.bounds.room.clone(),
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
            share: Share::new(),
        });
        for (listener, handler) in listeners {
            let open = OpenListener::new(pod.clone());
            pod.share.spawn_uncut(accept(pod.clone(), listener, handler, open));
        }
        for socket in datagrams {
            if let Some(dns) = pod.dns.clone() {
                pod.share.spawn_uncut(dns::serve_udp(pod.clone(), dns, socket, OpenListener::new(pod.clone())));
            }
        }
        Ok(pod)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
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

    /// The pod's own workload; waits for the control plane to tell of it.
    pub(crate) async fn workload(&self) -> Result<Arc<Workload>, String> {
        let PodInfo { namespace, name, service_account, .. } = &*self.info;
        let patience = self.shared().config.workload_wait;
        let found = self.shared().workload(namespace, name, service_account, patience).await;
        found.ok_or_else(|| {
            format!("unknown source workload: {namespace}/{name} with service account {service_account}")
        })
    }

    /// Move on to a phase; never back.
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
            self.share.cut();
        }
    }

    /// Run a connection's task; it is cut when the pod is stopped.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(&self, task: F) {
        const { assert!(size_of::<F>() <= MAX_TASK) };
        self.share.spawn(task);
    }

    /// Memory for what its connections hold.
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.info.bounds.room
    }

    /// Let a connection carry no faster than the pod may.
    pub(super) fn paced<T>(
        &self,
        flow: &OpenFlow,
        carried: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = T> {
        let slowed = || {
            self.shared().metrics.slowed_by_bandwidth.fetch_add(1, Ordering::Relaxed);
        };
        pace::paced(self.info.bounds.pace.as_ref(), carried, || flow.carried(), slowed)
    }

    /// Wait until the pod has reached `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is `self`'s own, so waiting cannot fail while somebody can ask.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Take nothing new, let what stands go on for `patience`, then cut it.
    pub(crate) async fn leave(&self, patience: Duration) {
        self.enter(Phase::Draining);
        let ended = async {
            // Listeners count: what is still queued in one becomes a connection when it closes.
            while self.connections.get() > 0 || self.listeners.get() > 0 {
                self.quiet.notified().await;
            }
        };
        // Whether all have ended or patience has, the rest is the same.
        let _ = tokio::time::timeout(patience, ended).await;
        self.enter(Phase::Stopped);
    }

    pub(crate) fn release_idle(&self) {
        self.pool.release_idle();
    }

    /// A place for one more connection, if the limit allows.
    pub(super) fn place(self: &Rc<Self>) -> Option<Place> {
        if !self.info.bounds.connections.take() {
            self.shared().metrics.over_connection_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        Some(Place(self.clone(), Held::new(self.shared().clone())))
    }

    /// A place for one more handshake, if the limit allows.
    pub(crate) fn handshake_place(&self) -> Option<HandshakePlace<'_>> {
        if !self.info.bounds.handshakes.take() {
            self.shared().metrics.over_handshake_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(HandshakePlace(self))
    }
}

impl Place {
    pub(super) const fn pod(&self) -> &Rc<Pod> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.info.bounds.connections.give();
        self.0.quiet.notify_waiters();
        if std::thread::panicking() {
            self.0.shared().metrics.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts a listener until dropped.
pub(super) struct OpenListener(Rc<Pod>, #[allow(dead_code, reason = "held for its drop")] Held);

impl OpenListener {
    fn new(pod: Rc<Pod>) -> Self {
        pod.listeners.set(pod.listeners.get() + 1);
        let held = Held::new(pod.shared().clone());
        Self(pod, held)
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.0.listeners.set(self.0.listeners.get() - 1);
        self.0.quiet.notify_waiters();
    }
}

impl Drop for HandshakePlace<'_> {
    fn drop(&mut self) {
        self.0.info.bounds.handshakes.give();
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

/// Accept until the pod drains; each connection is a task of its own.
async fn accept(pod: Rc<Pod>, listener: TcpListener, handler: Handler, _open: OpenListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(|context| poll_accept(&listener, context)) => accepted,
            () = pod.reached(Phase::Draining) => break,
        };
        match accepted {
            Ok((stream, peer)) => take(&pod, stream, peer, handler),
            // Out of descriptors or memory: the queue waits in the kernel, and spinning would not help.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    // Connections that are queued when a listener closes are reset, and the runtime may not have heard of the latest:
    // the kernel is asked itself until nothing is left. What arrives after the last question and before the close can
    // only be handed on by the kernel (`net.ipv4.tcp_migrate_req`, which the node agent sets).
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let registered = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = registered {
            take(&pod, stream, peer, handler);
        }
    }
    // Closed before it is no longer counted: arguments are dropped after locals.
    drop(listener);
}

fn poll_accept(listener: &TcpListener, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    ready!(turn::poll_left(context));
    let accepted = ready!(listener.poll_accept(context));
    turn::spend(ACCEPT_COST);
    Poll::Ready(accepted)
}

/// Serve an accepted connection if there is a place for it.
fn take(pod: &Rc<Pod>, stream: TcpStream, peer: SocketAddr, handler: Handler) {
    let Some(place) = pod.place() else {
        return culvert_net::copy::reset_on_drop(&stream);
    };
    handler(pod.clone(), place, stream, socket::canonical(peer));
}
