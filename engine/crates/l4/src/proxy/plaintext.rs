//! A connection that reached the pod in plain text.
//!
//! Its client is not authenticated, so a policy that requires an identity denies it. STRICT arrives as
//! such a policy.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use culvert_core::names;
use culvert_net::{copy, socket};
use culvert_telemetry::{Direction, Flow, FlowEnd, OpenFlow, ResponseFlag};
use tokio::net::TcpStream;

use super::admission::{Admitted, admit};
use super::connections::ConnectionInfo;
use super::pod::{ConnectionPermit, Pod};
use super::refusal;

/// Carry one connection to the application if policy lets a client without identity through; in a task of its own.
pub(super) fn begin(pod: Rc<Pod>, permit: ConnectionPermit, stream: TcpStream, client: SocketAddr) {
    let opening = Box::pin(open(pod.clone(), stream, client));
    pod.spawn(async move {
        let Some(Established { stream, application, flow, mut admitted }) = opening.await else { return };
        let end = {
            let pod = permit.pod();
            let carried = pin!(copy::bidirectional(&stream, &application, pod.memory(), &flow));
            admitted.until_cut(pin!(pod.throttled(&flow, carried))).await
        };
        flow.finish(&end);
        drop((admitted, permit));
    });
}

/// A connection that is open at both ends.
struct Established {
    stream: TcpStream,
    application: TcpStream,
    flow: OpenFlow,
    admitted: Admitted,
}

/// Judge and connect; `None` where the answer is no, which is then counted and logged.
async fn open(pod: Rc<Pod>, stream: TcpStream, client: SocketAddr) -> Option<Established> {
    let target = stream.local_addr().and_then(|local| socket::original_destination(&stream, local)).ok()?;
    if names::is_tunnel_port(target.port()) {
        return None;
    }
    let mut flow = Flow::between(Direction::Inbound, client, target);
    let refuse = |stream: TcpStream, flow: Flow, flag, error: String| {
        flow.refuse(&pod.shared().telemetry, &FlowEnd::failed(flag, error));
        refusal::close(&pod, stream);
        None
    };
    let workload = match pod.workload().await {
        Ok(workload) => workload,
        Err(error) => return refuse(stream, flow, ResponseFlag::Connect, error),
    };
    flow.destination.workload = Some(workload.clone());
    flow.source.workload = pod.shared().store.read().workload_at(&pod.shared().config.network, client.ip()).cloned();

    let info = ConnectionInfo {
        pod: pod.info.clone(),
        direction: Direction::Inbound,
        source: client,
        original_destination: target,
        actual_destination: target,
        protocol: "TCP",
    };
    let admitted = match admit(&pod, &workload, None, info, &flow) {
        Ok(admitted) => admitted,
        Err(error) => return refuse(stream, flow, ResponseFlag::Denied, error),
    };
    let application = match pod.dial_application(client, target).await {
        Ok(application) => application,
        Err(error) => return refuse(stream, flow, ResponseFlag::Connect, error.to_string()),
    };
    let flow = flow.open(&pod.shared().telemetry);
    Some(Established { stream, application, flow, admitted })
}
