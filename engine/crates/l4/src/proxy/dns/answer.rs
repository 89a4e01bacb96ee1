//! Answers one query: by the mesh where it knows the name, else by a resolver.
//!
//! A pod that may reach only what the registry knows gets no answer to other names: a query itself carries data out. Its
//! queries go to this process's resolvers, whichever resolver the pod has chosen.

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

/// The result of a query that must not leave the pod, for the log.
const DENIED: &str = "NXDomain: not in the service registry and culvert.io/egress is registry-only";

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
    // What a pod that is still unknown may ask is unknown too. A wrong "no such name" would stick.
    let Ok(source) = pod.workload().await else { return refusal(packet, Rcode::ServFail) };
    let shared = pod.shared();
    let Decision { question, action, answers } =
        decide(packet, transport, |host, kind| look_up(shared, &source, host, kind));
    let Some(Question { host, query_type }) = question else {
        return match action {
            Action::Reply(bytes) => Some(bytes),
            Action::Ignore | Action::Forward { .. } => None,
        };
    };
    let series = shared.telemetry.metrics.dns.series(query_type, transport, Some(&source));
    series.requests.fetch_add(1, Ordering::Relaxed);
    let note = |result: &str, endpoints| {
        let host = host.as_deref().unwrap_or_default();
        write_dns_log(
            &shared.telemetry,
            &DnsRecord { source: Some(&source), kind: query_type, host, result, endpoints },
        );
    };
    let exists = match action {
        Action::Ignore => return None,
        Action::Reply(bytes) => {
            note("NoError", answers);
            return Some(bytes);
        }
        Action::Forward { exists } => exists,
    };
    let held = source.registry_only;
    if held && !host.as_deref().is_some_and(|host| exists || may_ask(shared, &source, host)) {
        note(DENIED, 0);
        return refusal(packet, Rcode::NxDomain);
    }
    series.upstream_requests.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let chosen = if held { None } else { resolver() };
    let response = match chosen.or_else(|| shared.own_resolvers().first().copied()) {
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

/// Whether a name may leave the pod: a name of the registry without an address, such as a wildcard's, or one of the
/// cluster's own domain, whose resolver knows all of it.
fn may_ask(shared: &ProxyState, source: &Workload, host: &str) -> bool {
    let domain = &shared.config.cluster_domain;
    let in_cluster = host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    in_cluster || shared.store.read().service_named(source, host, domain).is_some()
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
