//! Outbound connections: captured from the pod's application.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use culvert_core::names;
use culvert_net::{copy, socket};
use culvert_telemetry::{Direction, Flow, FlowEnd, OpenFlow, ResponseFlag};
use tokio::net::TcpStream;

use super::connect::{Outcome, Upstream};
use super::connections::{ConnectionInfo, TrackedConnection};
use super::pod::{ConnectionPermit, Pod};
use super::refusal;
use super::retry;

/// A connection that is established at both ends.
struct Established {
    application: TcpStream,
    upstream: Upstream,
    flow: OpenFlow,
    listed: TrackedConnection,
}

/// Carry one captured connection to its destination, in a task of its own. If no upstream connection can be opened, it is
/// refused (see [`refusal`]); if it breaks later it is reset, never closed in order.
pub(super) fn begin(pod: Rc<Pod>, permit: ConnectionPermit, application: TcpStream, client: SocketAddr) {
    // The state of opening is large, that of carrying is small and lives as long as the connection: the former is on the
    // heap and dropped by then.
    let opening = Box::pin(open(pod.clone(), application, client));
    pod.spawn(async move {
        let Some(Established { application, upstream, flow, listed }) = opening.await else { return };
        let end = {
            let pod = permit.pod();
            match upstream {
                Upstream::Plain(destination) => {
                    let carried = pin!(copy::bidirectional(&application, &destination, pod.memory(), &flow));
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
    let Outcome { flow, upstream } = retry::open(&pod, &source, client, target).await;
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(failure) => return refuse(application, flow, failure.flag, failure.error),
    };
    if let Upstream::Tunnel(..) = &upstream {
        pod.shared().learn_direct(&pod.info.uid, target);
    }
    let (protocol, original) = match &upstream {
        Upstream::Plain(_) => ("TCP", flow.destination_address),
        Upstream::Tunnel(..) => ("HBONE", target),
    };
    let listed = pod.registry().track(listing(&pod, &flow, original, protocol));
    let flow = flow.open(&pod.shared().telemetry);
    Some(Established { application, upstream, flow, listed })
}

/// The original destination. A port of the tunnel itself is refused: that would be a loop.
fn destination(application: &TcpStream) -> std::io::Result<SocketAddr> {
    let own = socket::canonical(application.local_addr()?);
    let target = socket::original_destination(application, own)?;
    let is_loop = target == own || (target.ip().is_loopback() && names::is_tunnel_port(target.port()));
    if is_loop { Err(std::io::ErrorKind::InvalidInput.into()) } else { Ok(target) }
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
