//! A tunnel that a peer opened to this pod, and the connections in it.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_core::identity::Identity;
use culvert_core::names;
use culvert_hbone::authority::{self, Host};
use culvert_hbone::server::{self, Connect};
use culvert_hbone::stream::TunnelStream;
use culvert_hbone::{Error, headers};
use culvert_mesh::Workload;
use culvert_net::socket;
use culvert_telemetry::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security};
use culvert_worker::Phase;
use http::StatusCode;
use http::uri::Authority;
use tokio::net::TcpStream;

use super::admission::{Admitted, admit};
use super::connections::ConnectionInfo;
use super::pod::{ConnectionPermit, Pod};

/// Serve an accepted tunnel in a task of its own.
pub(super) fn begin(pod: Rc<Pod>, permit: ConnectionPermit, stream: TcpStream, client: SocketAddr) {
    let served = Box::pin(serve(pod.clone(), stream, client));
    pod.spawn(async move {
        let _permit = permit;
        served.await;
    });
}

/// Serve one tunnel until its peer or this pod gives it up.
async fn serve(pod: Rc<Pod>, stream: TcpStream, client: SocketAddr) {
    let Ok(local) = stream.local_addr().map(socket::canonical) else { return };
    let timeout = pod.shared().config.handshake_timeout;
    let authenticated = match authenticate(&pod, stream).await {
        Ok(authenticated) => authenticated,
        Err(error) => {
            pod.shared().telemetry.metrics.handshake_failures.fetch_add(1, Ordering::Relaxed);
            let flow = flow(&pod, client, local, local, None);
            let flag = ResponseFlag::of_trust(&error).unwrap_or(ResponseFlag::Tls);
            return flow.refuse(&pod.shared().telemetry, &FlowEnd::failed(flag, error));
        }
    };
    let peer = authenticated.peer.clone();
    let ended = server::serve(authenticated, timeout, pod.memory().clone(), pod.reached(Phase::Draining), |connect| {
        // A tunnel takes a permit, and so does each connection in it: what peers may hold open here has one bound.
        let Some(permit) = pod.permit(None) else { return connect.refuse(StatusCode::SERVICE_UNAVAILABLE) };
        // What it takes to open the way is large, what it takes to go it is small and lives as long as the connection:
        // the former is on the heap and gone by then.
        let opening = Box::pin(open(pod.clone(), connect, client, local, peer.clone()));
        pod.spawn(async move {
            let Some(Established { stream, application, flow, mut admitted }) = opening.await else { return };
            let end = {
                let pod = permit.pod();
                let carried = pin!(stream.carry_to_destination(&application, pod.memory(), &flow));
                admitted.until_cut(pin!(pod.throttled(&flow, carried))).await
            };
            flow.finish(&end);
            drop((admitted, permit));
        });
    });
    // Each connection of a tunnel gets the tunnel's error.
    let _ = ended.await;
}

async fn authenticate(pod: &Pod, stream: TcpStream) -> Result<server::Authenticated, Error> {
    let config = &pod.shared().config;
    let _permit = pod.handshake_permit().ok_or(Error::Certificate("too many handshakes at once".to_owned()))?;
    let certificate = pod.certificate.get(config.workload_wait).await.map_err(Error::Certificate)?;
    server::authenticate(stream, &certificate, config.handshake_timeout).await
}

fn flow(pod: &Pod, client: SocketAddr, local: SocketAddr, target: SocketAddr, peer: Option<Identity>) -> Flow {
    Flow {
        security: Security::MutualTls,
        hbone_address: Some(target),
        source: Peer { identity: peer, ..Peer::default() },
        destination: Peer { identity: Some(pod.info.identity.clone()), ..Peer::default() },
        ..Flow::between(Direction::Inbound, client, local)
    }
}

/// A connection that is open at both ends.
struct Established {
    stream: TunnelStream,
    application: TcpStream,
    flow: OpenFlow,
    admitted: Admitted,
}

/// Judge the wish, connect to the application, and only then answer; `None` where the answer is no.
async fn open(
    pod: Rc<Pod>,
    connect: Connect,
    client: SocketAddr,
    local: SocketAddr,
    peer: Identity,
) -> Option<Established> {
    let pod = &*pod;
    let workload = pod.workload().await;
    let authority = connect.request.uri.authority().cloned();
    let target = match &workload {
        Ok(workload) => target(pod, workload, authority.as_ref(), local),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.clone())),
    };
    let mut flow = flow(pod, client, local, local, Some(peer.clone()));
    describe(pod, &mut flow, &connect);
    if pod.shared().config.telemetry.access_log_records {
        flow.extra_mut().trace = headers::Trace::parse(&connect.request.headers);
    }
    let refuse = |connect: Connect, flow: Flow, status, flag, error: String| {
        connect.refuse(status);
        flow.refuse(&pod.shared().telemetry, &FlowEnd::failed(flag, error));
        None
    };
    let (workload, target) = match (workload, target) {
        (Ok(workload), Ok(target)) => (workload, target),
        (Ok(_), Err((status, error))) => return refuse(connect, flow, status, ResponseFlag::Connect, error),
        (Err(error), _) => {
            return refuse(connect, flow, StatusCode::SERVICE_UNAVAILABLE, ResponseFlag::Connect, error);
        }
    };
    flow.destination.workload = Some(workload.clone());
    flow.hbone_address = Some(target);
    let named = headers::forwarded_host(&connect.request.headers);
    flow.service = pod.shared().store.read().intended_service(&workload, named, target.port());

    let info = ConnectionInfo {
        pod: pod.info.clone(),
        direction: Direction::Inbound,
        source: client,
        original_destination: local,
        actual_destination: target,
        protocol: "HBONE",
    };
    let admitted = match admit(pod, &workload, Some(peer), info, &flow) {
        Ok(admitted) => admitted,
        Err(error) => return refuse(connect, flow, StatusCode::UNAUTHORIZED, ResponseFlag::Denied, error),
    };
    let application = match pod.dial_application(client, target).await {
        Ok(application) => application,
        Err(error) => {
            let error = error.to_string();
            return refuse(connect, flow, StatusCode::SERVICE_UNAVAILABLE, ResponseFlag::Connect, error);
        }
    };
    let flow = flow.open(&pod.shared().telemetry);
    match connect.accept(workload.baggage().encode()) {
        Ok(stream) => Some(Established { stream, application, flow, admitted }),
        Err(error) => {
            flow.finish(&FlowEnd::failed(ResponseFlag::None, error));
            None
        }
    }
}

type Refusal = (StatusCode, String);

/// Which local address a CONNECT means.
fn target(
    pod: &Pod,
    workload: &Arc<Workload>,
    authority: Option<&Authority>,
    local: SocketAddr,
) -> Result<SocketAddr, Refusal> {
    let bad = |reason: String| (StatusCode::BAD_REQUEST, reason);
    let (host, port) = authority::destination(authority).map_err(|error| bad(error.to_string()))?;
    let port = match host {
        Host::Ip(ip) => {
            if ip != local.ip() && !pod.shared().store.read().is_waypoint_of(workload, ip) {
                return Err(bad(format!("ip mismatch: {ip} != {}", local.ip())));
            }
            port
        }
        Host::Name(host) => pod.shared().store.read().local_port(workload, host, port).ok_or_else(|| {
            (StatusCode::SERVICE_UNAVAILABLE, format!("no service {host} with port {port} on this workload"))
        })?,
    };
    if port == 0 || names::is_tunnel_port(port) {
        return Err((StatusCode::SERVICE_UNAVAILABLE, format!("port {port} is no destination")));
    }
    Ok(SocketAddr::new(local.ip(), port))
}

/// Who calls: what the control plane knows of the address if it agrees with the identity, else what the peer says.
fn describe(pod: &Pod, flow: &mut Flow, connect: &Connect) {
    let store = pod.shared().store.read();
    let known = store.workload_at(&pod.shared().config.network, flow.source_address.ip());
    let known = known.filter(|workload| Some(&workload.identity) == flow.source.identity.as_ref());
    match known {
        Some(workload) => flow.source.workload = Some(workload.clone()),
        None => flow.source.baggage = Some(headers::Baggage::parse(&connect.request.headers).into()),
    }
}
