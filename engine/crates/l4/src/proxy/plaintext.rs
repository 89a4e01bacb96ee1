//! A connection that reached the pod in plain text.
//!
//! Its client has proved nothing, so a policy that asks for an identity does not let it through. STRICT arrives as
//! such a policy.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use culvert_core::names;
use culvert_net::{copy, socket};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::connections::{ConnectionInfo, Listed};
use super::inbound;
use super::pod::{Place, Pod};
use crate::policy::{Denied, Subject};
use crate::telemetry::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security};

/// Carry one connection to the application if policy lets a client without identity through; in a task of its own.
pub(super) fn begin(pod: Rc<Pod>, place: Place, stream: TcpStream, client: SocketAddr) {
    let opening = Box::pin(open(pod.clone(), stream, client));
    pod.spawn(async move {
        let Some(Standing { stream, application, flow, listed, cut }) = opening.await else { return };
        let end = {
            let pod = place.pod();
            let (received, sent) = (|bytes| flow.received(bytes), |bytes| flow.sent(bytes));
            let carried = pin!(copy::bidirectional(&stream, &application, pod.room(), received, sent));
            inbound::until_cut(pin!(pod.paced(&flow, carried)), cut).await
        };
        flow.finish(&end);
        drop((listed, place));
    });
}

/// A connection that is open at both ends.
struct Standing {
    stream: TcpStream,
    application: TcpStream,
    flow: OpenFlow,
    listed: Listed,
    cut: oneshot::Receiver<Denied>,
}

/// Judge and connect; `None` where the answer is no, which is then counted and logged.
async fn open(pod: Rc<Pod>, stream: TcpStream, client: SocketAddr) -> Option<Standing> {
    let pod = &*pod;
    let unopened = copy::ResetUnlessEnded::new(&stream);
    let target = stream.local_addr().and_then(|local| socket::original_destination(&stream, local)).ok()?;
    if names::is_tunnel_port(target.port()) {
        return None;
    }
    let mut flow = Flow {
        direction: Direction::Inbound,
        security: Security::Plain,
        source_address: client,
        destination_address: target,
        hbone_address: None,
        source: Peer::default(),
        destination: Peer::default(),
        service: None,
    };
    let refuse = |flow: Flow, flag, error: String| {
        flow.refuse(pod.shared(), &FlowEnd::failed(flag, error));
        None
    };
    let workload = match pod.workload().await {
        Ok(workload) => workload,
        Err(error) => return refuse(flow, ResponseFlag::Connect, error),
    };
    flow.destination.workload = Some(workload.clone());
    flow.source.workload = pod.shared().store.read().workload_at(&pod.shared().config.network, client.ip()).cloned();

    // Listed before it is judged, so that a change of policy in between finds it.
    let subject = Subject { peer: None, source: client.ip(), destination: target };
    let info = ConnectionInfo {
        pod: pod.info.clone(),
        direction: Direction::Inbound,
        source: client,
        original_destination: target,
        actual_destination: target,
        protocol: "TCP",
    };
    let (listed, cut) = pod.registry().list_judged(info, subject.clone());
    let verdict = pod.shared().store.read().policies.rehearse(&workload, &subject);
    if let Ok(Some(denied)) = &verdict {
        flow.would_be_refused(pod.shared(), denied);
    }
    if let Err(denied) = verdict {
        let error = format!("connection closed due to policy rejection: {denied}");
        return refuse(flow, ResponseFlag::Denied, error);
    }
    let application = match inbound::dial(pod, client, target).await {
        Ok(application) => application,
        Err(error) => return refuse(flow, ResponseFlag::Connect, error.to_string()),
    };
    unopened.ended();
    let flow = flow.open(pod.shared());
    Some(Standing { stream, application, flow, listed, cut })
}
