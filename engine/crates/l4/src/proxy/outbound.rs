//! A connection that the pod's application opened.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_hbone::client::{Opened, TunnelKey};
use culvert_hbone::{Error, headers};
use culvert_net::{copy, socket};
use http::{Method, Request, Uri};
use tokio::net::TcpStream;

use super::connections::ConnectionInfo;
use super::pod::Pod;
use crate::state::{Route, Service, Workload};
use crate::telemetry::{Direction, Flow, FlowEnd, Peer, ResponseFlag, Security};

/// Carry one captured connection to where it was going. Whatever fails, the application sees a reset, not an end.
pub(super) async fn handle(pod: Rc<Pod>, application: TcpStream, client: SocketAddr) {
    let target = match destination(&application) {
        Ok(target) => target,
        // Somebody spoke to the capture port itself. There is no connection to carry or to count.
        Err(_) => return copy::reset_on_drop(&application),
    };
    let mut flow = Flow {
        direction: Direction::Outbound,
        security: Security::Plain,
        source_address: client,
        destination_address: target,
        hbone_address: None,
        source: Peer::default(),
        destination: Peer::default(),
        service: None,
    };
    let refuse = |flow: Flow, error: String| {
        flow.refuse(pod.shared(), &FlowEnd::failed(ResponseFlag::Connect, error));
        copy::reset_on_drop(&application);
    };
    let source = match pod.workload().await {
        Ok(source) => source,
        Err(error) => return refuse(flow, error),
    };
    flow.source.workload = Some(source.clone());
    let route = pod.shared().store.read().route(&source, target, fastrand::f64());
    match route {
        Err(error) => refuse(flow, error.to_string()),
        Ok(Route::Unknown { to, service }) => {
            flow.service = service;
            plain(&pod, &application, to, flow).await;
        }
        Ok(Route::Plain { to, destination, service }) => {
            flow.service = service;
            flow.destination.workload = Some(destination);
            plain(&pod, &application, to, flow).await;
        }
        Ok(Route::Hbone { peer, authority, identities, destination, service }) => {
            flow.security = Security::MutualTls;
            flow.destination_address = peer;
            flow.hbone_address = Some(authority);
            flow.source.identity = Some(pod.info.identity.clone());
            flow.destination.identity = Some(destination.identity.clone());
            flow.destination.workload = Some(destination);
            flow.service = service;
            tunnelled(&pod, &application, target, identities, &source, flow).await;
        }
    }
}

/// Where the application wanted to go. The tunnel's own ports are no destination: that would be a loop.
fn destination(application: &TcpStream) -> std::io::Result<SocketAddr> {
    let target = socket::original_destination(application)?;
    let own = socket::canonical(application.local_addr()?);
    let is_loop = target == own || (target.ip().is_loopback() && names::is_tunnel_port(target.port()));
    if is_loop { Err(std::io::ErrorKind::InvalidInput.into()) } else { Ok(target) }
}

async fn plain(pod: &Pod, application: &TcpStream, to: SocketAddr, mut flow: Flow) {
    flow.destination_address = to;
    let timeout = pod.shared().config.connect_timeout;
    let upstream = match pod.sockets.connect(&pod.core.home, None, to, timeout).await {
        Ok(upstream) => upstream,
        Err(error) => {
            copy::reset_on_drop(application);
            return flow.refuse(pod.shared(), &FlowEnd::failed(ResponseFlag::Connect, error));
        }
    };
    let _listed = pod.registry().list(listing(pod, &flow, to, "TCP"));
    let open = flow.open(pod.shared());
    let result =
        copy::bidirectional(application, &upstream, |bytes| open.received(bytes), |bytes| open.sent(bytes)).await;
    open.finish(&result.map_or_else(|error| FlowEnd::failed(ResponseFlag::None, error), |()| FlowEnd::good()));
}

async fn tunnelled(
    pod: &Pod,
    application: &TcpStream,
    target: SocketAddr,
    identities: Arc<[Identity]>,
    source: &Workload,
    mut flow: Flow,
) {
    let key = TunnelKey { address: flow.destination_address, identities };
    let authority = flow.hbone_address.unwrap_or(target);
    let opened = match connect_request(authority, &flow, source) {
        Ok(request) => pod.pool.open(pod, &key, &request).await,
        Err(error) => Err(error.into()),
    };
    let Opened { stream, headers: answer, guard } = match opened {
        Ok(opened) => opened,
        Err(error) => {
            copy::reset_on_drop(application);
            return flow.refuse(pod.shared(), &FlowEnd::failed(flag_of(&error), error));
        }
    };
    if flow.destination.workload.is_none() {
        flow.destination.baggage = Some(headers::Baggage::parse(&answer));
    }
    let _listed = pod.registry().list(listing(pod, &flow, target, "HBONE"));
    let open = flow.open(pod.shared());
    let result = stream.carry(application, |bytes| open.received(bytes), |bytes| open.sent(bytes)).await;
    drop(guard);
    open.finish(&result.map_or_else(|error| FlowEnd::failed(ResponseFlag::None, error), |()| FlowEnd::good()));
}

fn connect_request(authority: SocketAddr, flow: &Flow, source: &Workload) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().authority(authority.to_string()).build()?;
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).version(http::Version::HTTP_2).body(())?;
    let service = flow.service.as_deref().map(|service: &Service| &*service.key.hostname);
    let values = [
        (headers::BAGGAGE, source.baggage().encode()),
        (headers::FORWARDED, headers::forwarded(flow.source_address, service)),
        (headers::TRACEPARENT, headers::traceparent(fastrand::u128(1..), fastrand::u64(1..))),
    ];
    for (name, value) in values {
        request.headers_mut().extend(value.map(|value| (name, value)));
    }
    Ok(request)
}

fn listing(pod: &Pod, flow: &Flow, original: SocketAddr, protocol: &'static str) -> ConnectionInfo {
    ConnectionInfo {
        pod: pod.info.clone(),
        direction: Direction::Outbound,
        source: flow.source_address,
        original_destination: original,
        actual_destination: flow.destination_address,
        protocol,
    }
}

fn flag_of(error: &Error) -> ResponseFlag {
    match error {
        Error::Refused(http::StatusCode::UNAUTHORIZED) => ResponseFlag::Denied,
        Error::Tls(_) => ResponseFlag::Tls,
        Error::Handshake(_) => ResponseFlag::Http2,
        Error::Certificate(_) => ResponseFlag::Identity,
        _ => ResponseFlag::Connect,
    }
}
