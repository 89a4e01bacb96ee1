//! A connection that reached the pod in plain text.
//!
//! Its client has proved nothing, so a policy that asks for an identity does not let it through. STRICT arrives as
//! such a policy.

use std::net::SocketAddr;
use std::rc::Rc;

use culvert_core::names;
use culvert_net::{copy, socket};
use tokio::net::TcpStream;

use super::connections::ConnectionInfo;
use super::inbound;
use super::pod::Pod;
use crate::policy::Subject;
use crate::telemetry::{Direction, Flow, FlowEnd, Peer, ResponseFlag, Security};

/// Carry one connection to the application if policy lets a client without identity through.
pub(super) async fn handle(pod: Rc<Pod>, stream: TcpStream, client: SocketAddr) {
    let target = stream.local_addr().and_then(|local| socket::original_destination(&stream, local));
    let Ok(target) = target else { return copy::reset_on_drop(&stream) };
    if names::is_tunnel_port(target.port()) {
        return copy::reset_on_drop(&stream);
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
    let workload = match pod.workload().await {
        Ok(workload) => workload,
        Err(error) => {
            copy::reset_on_drop(&stream);
            return flow.refuse(pod.shared(), &FlowEnd::failed(ResponseFlag::Connect, error));
        }
    };
    flow.destination.workload = Some(workload.clone());
    flow.source.workload = pod.shared().store.read().workload_at(&pod.shared().config.network, client.ip()).cloned();

    let subject = Subject { peer: None, source: client.ip(), destination: target };
    let info = ConnectionInfo {
        pod: pod.info.clone(),
        direction: Direction::Inbound,
        source: client,
        original_destination: target,
        actual_destination: target,
        protocol: "TCP",
    };
    let (_listed, mut cut) = pod.registry().list_judged(info, subject.clone());
    if let Err(denied) = pod.shared().store.read().policies.authorize(&workload, &subject) {
        copy::reset_on_drop(&stream);
        let error = format!("connection closed due to policy rejection: {denied}");
        return flow.refuse(pod.shared(), &FlowEnd::failed(ResponseFlag::Denied, error));
    }
    let application = match inbound::dial(&pod, client, target).await {
        Ok(application) => application,
        Err(error) => {
            copy::reset_on_drop(&stream);
            return flow.refuse(pod.shared(), &FlowEnd::failed(ResponseFlag::Connect, error));
        }
    };
    let open = flow.open(pod.shared());
    let carried = copy::bidirectional(&stream, &application, |bytes| open.received(bytes), |bytes| open.sent(bytes));
    let end = tokio::select! {
        result = carried => result.map_or_else(|error| FlowEnd::failed(ResponseFlag::None, error), |()| FlowEnd::good()),
        Ok(denied) = &mut cut => {
            copy::reset_on_drop(&stream);
            copy::reset_on_drop(&application);
            FlowEnd::failed(ResponseFlag::Denied, format!("connection closed due to policy change: {denied}"))
        }
    };
    open.finish(&end);
}
