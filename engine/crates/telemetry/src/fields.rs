//! The fields of an entry of the access log, those of Istio's ztunnel in its order.

use std::borrow::Cow;
use std::time::Duration;

use culvert_net::transfer::Transfer;

use crate::flow::{Direction, Flow, Peer, Security};
use crate::outcome::FlowEnd;

/// The value of a field.
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// A name and its value.
pub(crate) type Field<'a> = (&'static str, Value<'a>);

/// The fields of a connection that has ended.
pub(crate) fn of_ended<'a>(flow: &'a Flow, duration: Duration, transfer: Transfer, end: &'a FlowEnd) -> Vec<Field<'a>> {
    let mut all = about(flow);
    // What was sent, and what was received, by the end of the tunnel that writes the entry.
    let Transfer { to_destination, to_client } = transfer;
    let (sent, received) = match flow.direction {
        Direction::Inbound => (to_client, to_destination),
        Direction::Outbound => (to_destination, to_client),
    };
    all.push(("bytes_sent", Value::Number(sent)));
    all.push(("bytes_recv", Value::Number(received)));
    all.push(("duration", format!("{}ms", duration.as_millis()).into()));
    if let Some(error) = &end.error {
        all.push(("error", error.as_str().into()));
    }
    all
}

/// Who talks to whom.
pub(crate) fn about<'a>(flow: &'a Flow) -> Vec<Field<'a>> {
    let authenticated = flow.security != Security::Plain;
    let proved = |peer: &'a Peer| match &peer.identity {
        Some(identity) if authenticated => identity.as_str(),
        _ => "",
    };
    let (source, destination) = (Named::of(&flow.source), Named::of(&flow.destination));
    let hbone_address = flow.hbone_address.map(|address| address.to_string());
    let mut all = Vec::with_capacity(20);
    all.extend([
        ("src.addr", flow.source_address.to_string().into()),
        ("src.workload", source.workload.into()),
        ("src.namespace", source.namespace.into()),
        ("src.identity", proved(&flow.source).into()),
        ("src.cluster", source.cluster.into()),
        ("dst.addr", flow.destination_address.to_string().into()),
        ("dst.hbone_addr", hbone_address.unwrap_or_default().into()),
        ("dst.service", flow.service.as_ref().map_or("", |service| &service.key.hostname).into()),
        ("dst.workload", destination.workload.into()),
        ("dst.namespace", destination.namespace.into()),
        ("dst.identity", proved(&flow.destination).into()),
        ("dst.cluster", destination.cluster.into()),
        ("direction", if flow.direction == Direction::Inbound { "inbound" } else { "outbound" }.into()),
    ]);
    all.retain(|(_, value)| !matches!(value, Value::Text(text) if text.is_empty()));
    all
}

/// A peer's names; empty where they are not known.
#[derive(Default)]
struct Named<'a> {
    workload: &'a str,
    namespace: &'a str,
    cluster: &'a str,
}

impl<'a> Named<'a> {
    fn of(peer: &'a Peer) -> Self {
        if let Some(workload) = &peer.workload {
            return Self { workload: &workload.name, namespace: &workload.namespace, cluster: &workload.cluster };
        }
        let Some(baggage) = &peer.baggage else { return Self::default() };
        let or_empty = |name: &'a Option<String>| name.as_deref().unwrap_or_default();
        Self {
            workload: or_empty(&baggage.workload),
            namespace: or_empty(&baggage.namespace),
            cluster: or_empty(&baggage.cluster),
        }
    }
}
