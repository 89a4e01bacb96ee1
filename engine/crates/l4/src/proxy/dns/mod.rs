//! DNS inside a pod: names of the mesh are answered here, all others by the pod's own resolver.

mod on_demand;
mod tcp;
mod udp;
mod upstream;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use culvert_core::names::DNS_PORT;
use culvert_dns::{Action, Decision, Lookup, QueryType, Question, Rcode, Transport, decide, refusal, without_nxdomain};
use culvert_mesh::Workload;
use culvert_net::conntrack::Conntrack;
use culvert_net::socket::SocketFactory;
use culvert_telemetry::{DnsRecord, write_dns_log};
use tokio::net::{TcpListener, UdpSocket};

use super::pod::Pod;
use super::worker::Worker;
use crate::shared::ProxyState;

pub(super) use on_demand::resolve;
pub(super) use tcp::begin as begin_tcp;
pub(super) use udp::serve as serve_udp;

/// Queries of one pod that wait on one worker; more are refused at once.
const MAX_WAITING: usize = 1024;

/// Timeout of a resolver. Applications have five seconds too.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A pod's DNS on one worker.
pub(crate) struct Dns {
    conntrack: Option<Conntrack>,
    waiting: Cell<usize>,
}

/// What to serve.
pub(super) struct Sockets {
    pub dns: Dns,
    pub datagrams: Vec<UdpSocket>,
    pub listeners: Vec<TcpListener>,
}

/// Counts a query until dropped.
struct Waiting<'a>(&'a Dns);

/// Open a pod's sockets.
pub(super) fn open(worker: &Worker, sockets: &SocketFactory) -> std::io::Result<Sockets> {
    let named = |error| std::io::Error::other(format!("cannot serve DNS on port {DNS_PORT} in the pod: {error}"));
    Ok(Sockets {
        datagrams: sockets.datagrams(&worker.home, DNS_PORT).map_err(named)?,
        listeners: sockets.listen_on_loopback(&worker.home, DNS_PORT).map_err(named)?,
        // Without it, queries over UDP go to our own resolvers, which is what most pods have too.
        dns: Dns { conntrack: Conntrack::open(sockets, &worker.home).ok(), waiting: Cell::new(0) },
    })
}

impl Dns {
    fn place(&self) -> Option<Waiting<'_>> {
        if self.waiting.get() >= MAX_WAITING {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(Waiting(self))
    }

    /// The resolver that a datagram was sent to before the rules sent it here.
    fn resolver(&self, client: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
        self.conntrack.as_ref()?.original_destination(client, local).ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// Answer one query of the pod; `None` for no answer. `resolver` returns the pod's resolver, where that is known.
async fn answer(
    pod: &Rc<Pod>,
    dns: &Dns,
    packet: &[u8],
    transport: Transport,
    resolver: impl FnOnce() -> Option<SocketAddr>,
) -> Option<Vec<u8>> {
    let Some(_place) = dns.place() else { return refusal(packet, Rcode::ServFail) };
    // A pod that is still unknown gets its names all the same once it is known: a wrong "no such name" would stick.
    let source = pod.workload().await.ok();
    let shared = pod.shared();
    let Decision { question, action, answers } = decide(packet, transport, |host, kind| {
        source.as_ref().map_or(Lookup::Unknown, |source| look_up(shared, source, host, kind))
    });
    let source = source.as_deref();
    let Some(Question { host, query_type }) = question else {
        return match action {
            Action::Reply(bytes) => Some(bytes),
            Action::Ignore | Action::Forward { .. } => None,
        };
    };
    let series = shared.telemetry.metrics.dns.series(query_type, transport, source);
    series.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let note = |result: &str, endpoints| {
        let host = host.as_deref().unwrap_or_default();
        write_dns_log(&shared.telemetry, &DnsRecord { source, kind: query_type, host, result, endpoints });
    };
    let exists = match action {
        Action::Ignore => return None,
        Action::Reply(bytes) => {
            note("NoError", answers);
            return Some(bytes);
        }
        Action::Forward { exists } => exists,
    };
    series.upstream_requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let began = Instant::now();
    let response = match resolver().or_else(|| shared.own_resolvers().first().copied()) {
        Some(server) => upstream::query(pod, server, transport, packet, TIMEOUT).await,
        None => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no resolver is known")),
    };
    match response {
        Ok(mut response) => {
            series.answered(began.elapsed());
            if exists {
                without_nxdomain(&mut response);
            }
            note("Forwarded", 0);
            Some(response)
        }
        Err(error) => {
            series.upstream_failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            note(&format!("ServFail: {error}"), 0);
            refusal(packet, Rcode::ServFail)
        }
    }
}

fn look_up(shared: &ProxyState, source: &Workload, host: &str, kind: QueryType) -> Lookup {
    let store = shared.store.read();
    let Some(service) = store.service_named(source, host, &shared.config.cluster_domain) else {
        return Lookup::Unknown;
    };
    let mut addresses = store.addresses_of(source, service);
    if addresses.is_empty() {
        return Lookup::Unknown;
    }
    match kind {
        QueryType::A => addresses.retain(std::net::IpAddr::is_ipv4),
        QueryType::AAAA => addresses.retain(std::net::IpAddr::is_ipv6),
        _ => addresses.clear(),
    }
    fastrand::shuffle(&mut addresses);
    Lookup::Known(addresses)
}
