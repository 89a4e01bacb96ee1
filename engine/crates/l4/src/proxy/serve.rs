//! The ports that are served in a pod, and what happens to a connection that is accepted on one.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use culvert_core::names::{HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT};
use culvert_core::proto::engine::workload_ref::Mode;
use culvert_net::listener;
use culvert_net::socket::{self, SocketFactory};
use culvert_runtime::budget;
use culvert_telemetry::Direction;
use culvert_worker::{OpenListener, Phase, PodInfo};
use tokio::net::{TcpListener, TcpStream};

use super::context::Context;
use super::pod::{ConnectionPermit, Pod};
use super::{dns, inbound, outbound, plaintext, refusal};

/// Budget of accepting a connection, in bytes moved in the same time.
const ACCEPT_COST: usize = 16 * 1024;

/// How a listener handles accepted connections.
#[derive(Clone, Copy)]
struct Handler {
    /// Spawns the task of an accepted connection.
    begin: fn(Rc<Pod>, ConnectionPermit, TcpStream, SocketAddr),
    /// Which report of connections its sockets belong to; `None` for DNS.
    counted: Option<Direction>,
}

const OUTBOUND: Handler = Handler { begin: outbound::begin, counted: Some(Direction::Outbound) };
const PLAINTEXT: Handler = Handler { begin: plaintext::begin, counted: Some(Direction::Inbound) };
const TUNNEL: Handler = Handler { begin: inbound::begin, counted: Some(Direction::Inbound) };
const DNS: Handler = Handler { begin: dns::begin_tcp, counted: None };

/// The ports of a pod: that of tunnels always, the others where rules redirect its connections.
const PORTS: [(u16, Handler); 3] =
    [(OUTBOUND_PORT, OUTBOUND), (INBOUND_PLAINTEXT_PORT, PLAINTEXT), (HBONE_PORT, TUNNEL)];

/// Open the pod's listeners on this worker, and accept on them until the pod drains.
pub(super) fn start(context: &Rc<Context>, info: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<Pod>> {
    let is_captured = info.mode == Mode::Captured;
    let mut listeners = PORTS
        .into_iter()
        .filter(|(port, _)| is_captured || *port == HBONE_PORT)
        .map(|(port, handler)| {
            let listener = sockets.listen(&context.home, port);
            let named = |error| io::Error::other(format!("cannot listen on port {port} in the pod: {error}"));
            listener.map(|listener| (listener, handler)).map_err(named)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut datagrams = Vec::new();
    let mut dns = None;
    if context.shared.config.dns_proxy && is_captured {
        let opened = dns::open(&context.home, &sockets)?;
        listeners.extend(opened.listeners.into_iter().map(|listener| (listener, DNS)));
        datagrams = opened.datagrams;
        dns = Some(Rc::new(opened.dns));
    }
    let pod = Pod::new(context.clone(), info, sockets, dns);
    for (listener, handler) in listeners {
        let open = pod.listener();
        pod.life.spawn_detached(accept(pod.clone(), listener, handler, open));
    }
    for socket in datagrams {
        if let Some(dns) = pod.dns.clone() {
            pod.life.spawn_detached(dns::serve_udp(pod.clone(), dns, socket, pod.listener()));
        }
    }
    Ok(pod)
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
    // Before `_open` is dropped, which says that it is closed.
    listener::close(&pod.sockets, &pod.context.home, listener, |stream, peer| take(&pod, stream, peer, handler)).await;
}

fn poll_accept(listener: &TcpListener, context: &mut TaskContext<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
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
