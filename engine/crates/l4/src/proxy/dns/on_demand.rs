//! Resolves an endpoint that is known by name only, when a connection needs its address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_dns::{QueryType, Transport, addresses_in, is_truncated, query};

use super::upstream;
use crate::proxy::pod::Pod;

/// Timeout of each resolver.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Query our own resolvers, one after the other, for both families; the result is cached for the next connection.
pub(crate) async fn resolve(pod: &Pod, name: &Arc<str>) {
    let hosts = &pod.shared().hosts;
    for &server in pod.shared().own_resolvers() {
        let (v4, v6) =
            tokio::join!(addresses(pod, server, name, QueryType::A), addresses(pod, server, name, QueryType::AAAA));
        let found: Vec<_> = [v4, v6].into_iter().flatten().collect();
        if !found.is_empty() {
            let ttl = found.iter().filter(|(ips, _)| !ips.is_empty()).map(|(_, ttl)| *ttl).min().unwrap_or_default();
            let all = found.into_iter().flat_map(|(ips, _)| ips).collect();
            return hosts.resolved(name, all, Duration::from_secs(ttl.into()));
        }
    }
    hosts.failed(name);
}

/// The addresses of one family and the seconds that they may be kept; `None` where the resolver has not answered.
async fn addresses(pod: &Pod, server: SocketAddr, name: &str, kind: QueryType) -> Option<(Vec<IpAddr>, u32)> {
    let packet = query(name, kind)?;
    let mut answer = upstream::query(pod, server, Transport::Udp, &packet, TIMEOUT).await.ok()?;
    if is_truncated(&answer) {
        answer = upstream::query(pod, server, Transport::Tcp, &packet, TIMEOUT).await.ok()?;
    }
    addresses_in(&answer).ok()
}
