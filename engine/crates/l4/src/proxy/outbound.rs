//! Outbound connections: captured from the pod's application.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_hbone::client::{Opened, StreamGuard, TunnelKey};
use culvert_hbone::headers;
use culvert_hbone::stream::TunnelStream;
use culvert_mesh::{Route, Service, Workload};
use culvert_net::{copy, socket};
use culvert_telemetry::{Direction, Flow, FlowEnd, OpenFlow, ResponseFlag, Security};
use http::{Method, Request, Uri};
use tokio::net::TcpStream;

use super::connections::{ConnectionInfo, TrackedConnection};
use super::pod::{ConnectionPermit, Pod};
use super::refusal;
use super::retry::{self, Failure, Outcome};

/// A connection that is established at both ends.
struct Established {
    application: TcpStream,
    way: Upstream,
    flow: OpenFlow,
    listed: TrackedConnection,
}

pub(super) enum Upstream {
    Plain(TcpStream),
    Tunnel(TunnelStream, StreamGuard),
}

/// Carry one captured connection to its destination, in a task of its own. If no upstream connection can be opened, it is
/// refused (see [`refusal`]); if it breaks later it is reset, never closed in order.
pub(super) fn begin(pod: Rc<Pod>, permit: ConnectionPermit, application: TcpStream, client: SocketAddr) {
    // The state of opening is large, that of carrying is small and lives as long as the connection: the former is on the
    // heap and dropped by then.
    let opening = Box::pin(open(pod.clone(), application, client));
    pod.spawn(async move {
        let Some(Established { application, way, flow, listed }) = opening.await else { return };
        let end = {
            let pod = permit.pod();
            match way {
                Upstream::Plain(upstream) => {
                    let carried = pin!(copy::bidirectional(&application, &upstream, pod.memory(), &flow));
                    FlowEnd::of(pod.throttled(&flow, carried).await)
                }
                Upstream::Tunnel(stream, _guard) => {
                    let carried = pin!(stream.carry_from_client(&application, pod.memory(), &flow));
                    FlowEnd::of(pod.throttled(&flow, carried).await)
                }
            }
        };
        flow.finish(&end);
        drop((listed, permit));
    });
}

/// Open the upstream connection; `None` if that failed, which is counted and logged.
async fn open(pod: Rc<Pod>, application: TcpStream, client: SocketAddr) -> Option<Established> {
    // Without a destination, the client connected to the capture port itself: there is nothing to carry or to count.
    let target = destination(&application).ok()?;
    let refuse = |application: TcpStream, flow: Flow, flag, error: String| {
        flow.refuse(&pod.shared().telemetry, &FlowEnd::failed(flag, error));
        refusal::close(&pod, application);
        None
    };
    let source = match pod.workload().await {
        Ok(source) => source,
        Err(error) => {
            let flow = Flow::between(Direction::Outbound, client, target);
            return refuse(application, flow, ResponseFlag::Connect, error);
        }
    };
    let Outcome { flow, way } = retry::open(&pod, &source, client, target).await;
    let way = match way {
        Ok(way) => way,
        Err(failure) => return refuse(application, flow, failure.flag, failure.error),
    };
    let (protocol, original) = match &way {
        Upstream::Plain(_) => ("TCP", flow.destination_address),
        Upstream::Tunnel(..) => ("HBONE", target),
    };
    let listed = pod.registry().track(listing(&pod, &flow, original, protocol));
    let flow = flow.open(&pod.shared().telemetry);
    Some(Established { application, way, flow, listed })
}

/// The original destination. A port of the tunnel itself is refused: that would be a loop.
fn destination(application: &TcpStream) -> std::io::Result<SocketAddr> {
    let own = socket::canonical(application.local_addr()?);
    let target = socket::original_destination(application, own)?;
    let is_loop = target == own || (target.ip().is_loopback() && names::is_tunnel_port(target.port()));
    if is_loop { Err(std::io::ErrorKind::InvalidInput.into()) } else { Ok(target) }
}

/// Open a connection along one route, and describe it in `flow`.
pub(super) async fn connect_route(pod: &Pod, source: &Workload, route: Route, mut flow: Flow) -> Outcome {
    let way = match route {
        Route::Unknown { to, service } => {
            (flow.destination_address, flow.service) = (to, service);
            plain(pod, to).await
        }
        Route::Plain { to, destination, service, .. } => {
            (flow.destination_address, flow.service) = (to, service);
            flow.destination.workload = Some(destination);
            plain(pod, to).await
        }
        Route::Hbone { peer, authority, identities, destination, service, .. } => {
            flow.security = Security::MutualTls;
            flow.destination_address = peer;
            flow.hbone_address = Some(authority);
            flow.source.identity = Some(pod.info.identity.clone());
            flow.destination.identity = Some(destination.identity.clone());
            flow.destination.workload = Some(destination);
            flow.service = service;
            tunnelled(pod, authority, identities, source, &mut flow).await
        }
    };
    if flow.service.is_none()
        && let Some(workload) = &flow.destination.workload
    {
        // Set last: only a service that the client addressed itself is sent to the peer.
        let port = flow.hbone_address.unwrap_or(flow.destination_address).port();
        flow.service = pod.shared().store.read().intended_service(workload, None, port);
    }
    Outcome { flow, way }
}

async fn plain(pod: &Pod, to: SocketAddr) -> Result<Upstream, Failure> {
    let upstream = pod.sockets.connect(&pod.worker.home, None, to, pod.connect_options()).await;
    upstream.map(Upstream::Plain).map_err(|error| Failure::of_dial(&error))
}

async fn tunnelled(
    pod: &Pod,
    authority: SocketAddr,
    identities: Arc<[Identity]>,
    source: &Workload,
    flow: &mut Flow,
) -> Result<Upstream, Failure> {
    let trace = headers::Trace::new(fastrand::u128(1..), fastrand::u64(1..));
    if pod.shared().config.telemetry.access_log_records {
        flow.extra_mut().trace = Some(trace);
    }
    let key = TunnelKey { address: flow.destination_address, identities };
    let opened = match connect_request(authority, flow, &trace, source) {
        Ok(request) => pod.pool.open(pod, &key, &request).await,
        Err(error) => Err(error.into()),
    };
    let Opened { stream, headers: answer, guard } = opened.map_err(|error| Failure::of_tunnel(&error))?;
    if flow.destination.workload.is_none() {
        flow.destination.baggage = Some(headers::Baggage::parse(&answer).into());
    }
    Ok(Upstream::Tunnel(stream, guard))
}

fn connect_request(
    authority: SocketAddr,
    flow: &Flow,
    trace: &headers::Trace,
    source: &Workload,
) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().authority(authority.to_string()).build()?;
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).version(http::Version::HTTP_2).body(())?;
    let service = flow.service.as_deref().map(|service: &Service| &*service.key.hostname);
    let values = [
        (headers::BAGGAGE, source.baggage().encode()),
        (headers::FORWARDED, headers::forwarded(flow.source_address, service)),
        (headers::TRACEPARENT, trace.encode()),
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
