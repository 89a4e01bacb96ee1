//! One pod on one worker: its sockets, its tunnels, its certificate and its permits.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_core::proto::engine::workload_ref::Mode;
use culvert_hbone::client::{Dial, Pool, PoolSettings, TunnelKey};
use culvert_mesh::Workload;
use culvert_net::memory_budget::MemoryBudget;
use culvert_net::socket::{ConnectOptions, SocketFactory};
use culvert_telemetry::{Direction, OpenFlow};
use culvert_tls::WorkloadCertificate;
use culvert_worker::{CertificateUse, OpenListener, Permit, Phase, PodInfo, PodLife, throttled};
use tokio::net::TcpStream;

use super::connections::Connections;
use super::context::Context;
use super::dns::Dns;
use crate::shared::ProxyState;

/// Size limit of a connection's task, in bytes. Without optimization it is a word larger.
const MAX_TASK: usize = if cfg!(debug_assertions) { 664 } else { 656 };

/// See the module.
pub(crate) struct Pod {
    pub(super) context: Rc<Context>,
    pub(super) info: Arc<PodInfo>,
    pub(super) sockets: SocketFactory,
    pub(super) certificate: CertificateUse,
    pub(super) pool: Pool,
    /// `None` where DNS is not served.
    pub(super) dns: Option<Rc<Dns>>,
    pub(super) life: Rc<PodLife>,
}

/// Counts a connection until dropped, and its socket if it has one of its own.
pub(crate) struct ConnectionPermit(Rc<Pod>, Option<Direction>);

impl Pod {
    /// A pod without listeners.
    pub(super) fn new(
        context: Rc<Context>,
        info: Arc<PodInfo>,
        sockets: SocketFactory,
        dns: Option<Rc<Dns>>,
    ) -> Rc<Self> {
        let config = &context.shared.config;
        let pool = Pool::new(PoolSettings {
            max_streams: config.max_streams_per_tunnel,
            idle: config.tunnel_idle,
            timeout: config.handshake_timeout,
            memory: info.limits.memory.clone(),
        });
        let certificate = context.shared.host.certificates.want(&info.identity);
        let life = PodLife::new(context.shared.host.held.clone());
        Rc::new(Self { context, info, sockets, certificate, pool, dns, life })
    }

    pub(crate) fn shared(&self) -> &Arc<ProxyState> {
        &self.context.shared
    }

    /// This worker's registry.
    pub(crate) fn registry(&self) -> &Arc<Connections> {
        self.context.connections()
    }

    /// How a connection is opened now.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        self.shared().mesh().connect_options()
    }

    /// Connect to `to` from the pod's namespace.
    pub(super) async fn connect(&self, to: SocketAddr, options: ConnectOptions) -> io::Result<TcpStream> {
        self.sockets.connect(&self.context.home, None, to, options).await
    }

    /// Connect to the application under the client's own address, where rules bring back the answers to it.
    pub(super) async fn dial_application(&self, client: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
        // A pod that calls itself has the address already, and binding it transparently would confuse the routing.
        let from = Some(client.ip()).filter(|ip| *ip != target.ip() && self.info.mode == Mode::Captured);
        self.sockets.connect(&self.context.home, from, target, self.connect_options()).await
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

    /// Spawn a connection's task; it is aborted when the pod is stopped.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(&self, task: F) {
        const { assert!(size_of::<F>() <= MAX_TASK) };
        self.life.spawn(task);
    }

    /// Wait until the pod has reached `phase`.
    pub(crate) async fn reached(&self, phase: Phase) {
        self.life.reached(phase).await;
    }

    /// The budget for bytes buffered for its connections.
    pub(super) fn memory(&self) -> &Arc<MemoryBudget> {
        &self.info.limits.memory
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
        throttled(self.info.limits.rate_limiter.as_ref(), carried, || flow.carried(), slowed)
    }

    /// A permit for one more connection, if the limit allows. `counted`: its socket counts for that reporter.
    pub(super) fn permit(self: &Rc<Self>, counted: Option<Direction>) -> Option<ConnectionPermit> {
        let metrics = &self.shared().telemetry.metrics;
        if !self.info.limits.connections.try_acquire() {
            metrics.over_connection_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.life.connection_opened();
        if let Some(seen) = counted {
            metrics.socket_opened(seen);
        }
        Some(ConnectionPermit(self.clone(), counted))
    }

    /// A permit for one more handshake, if the limit allows.
    pub(crate) fn handshake_permit(&self) -> Option<Permit<'_>> {
        let permit = self.info.limits.handshakes.permit();
        if permit.is_none() {
            self.shared().telemetry.metrics.over_handshake_limit.fetch_add(1, Ordering::Relaxed);
        }
        permit
    }

    /// Count a listener.
    pub(super) fn listener(&self) -> OpenListener {
        self.life.listener()
    }
}

impl ConnectionPermit {
    pub(super) const fn pod(&self) -> &Rc<Pod> {
        &self.0
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let Self(pod, counted) = self;
        let metrics = &pod.shared().telemetry.metrics;
        pod.info.limits.connections.release();
        if let Some(seen) = counted {
            metrics.socket_closed(*seen);
        }
        pod.life.connection_closed();
        if std::thread::panicking() {
            metrics.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Dial for Pod {
    async fn dial(&self, key: &TunnelKey) -> Result<(TcpStream, Arc<WorkloadCertificate>), culvert_hbone::Error> {
        let config = &self.shared().config;
        let certificate =
            self.certificate.get(config.workload_wait).await.map_err(culvert_hbone::Error::Certificate)?;
        let stream = self.connect(key.address, self.connect_options()).await.map_err(culvert_hbone::Error::Dial)?;
        Ok((stream, certificate))
    }
}
