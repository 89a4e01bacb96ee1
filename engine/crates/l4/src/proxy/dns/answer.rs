//! Answers one query: by the mesh where it knows the name, else by a resolver.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_dns::{Action, Decision, Lookup, QueryType, Question, Rcode, Transport, decide, refusal, without_nxdomain};
use culvert_mesh::Workload;
use culvert_telemetry::{DnsRecord, write_dns_log};

use super::pending::Dns;
use super::upstream;
use crate::proxy::pod::Pod;
use crate::shared::ProxyState;

/// Timeout of a resolver. Applications have five seconds too.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answer one query of the pod; `None` for no answer. `resolver` returns the pod's resolver, where that is known.
pub(super) async fn answer(
    pod: &Rc<Pod>,
    dns: &Dns,
    packet: &[u8],
    transport: Transport,
    resolver: impl FnOnce() -> Option<SocketAddr>,
) -> Option<Vec<u8>> {
    let Some(_permit) = dns.permit() else { return refusal(packet, Rcode::ServFail) };
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
    series.requests.fetch_add(1, Ordering::Relaxed);
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
    series.upstream_requests.fetch_add(1, Ordering::Relaxed);
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
            series.upstream_failures.fetch_add(1, Ordering::Relaxed);
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
