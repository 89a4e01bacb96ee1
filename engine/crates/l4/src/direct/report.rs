//! Direct connections in metrics and access log: as both ends of a tunnelled one are, by reporter.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_bpf::direct::DirectConnection;
use culvert_mesh::Store;
use culvert_net::transfer::{Transfer, TransferCounter};
use culvert_telemetry::{Direction, Flow, FlowEnd, OpenFlow, Peer, ResponseFlag, Security, Telemetry};

use super::pods::LocalPods;

/// How often the bytes of an open connection are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// Connections whose bytes are read at a time, so that nobody waits for the lock for long.
const BATCH: usize = 500;

/// Client and destination of a connection.
type Ends = (SocketAddr, SocketAddr);

/// A connection that is open.
#[derive(Debug)]
struct Reported {
    connection: DirectConnection,
    source: OpenFlow,
    destination: OpenFlow,
    /// Why this engine has ended it.
    ended: Option<FlowEnd>,
    /// Whether its socket was not found the last time.
    missed: bool,
}

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Reports {
    open: HashMap<Ends, Reported>,
    /// When to read the bytes of which connection; the cookie tells whether it is still the same.
    due: VecDeque<(Instant, Ends, u64)>,
}

/// What describes connections, and who hears of them.
pub(super) struct Context<'a> {
    pub(super) store: &'a Store,
    pub(super) pods: &'a LocalPods,
    pub(super) network: &'a Arc<str>,
    pub(super) telemetry: &'a Arc<Telemetry>,
}

impl Reports {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Count a connection as opened, once.
    pub(super) fn opened(&mut self, context: &Context<'_>, connection: &DirectConnection) {
        let key = ends(connection);
        if self.open.get(&key).is_some_and(|known| known.connection.cookie == connection.cookie) {
            return;
        }
        let (source, destination) = context.flows(connection);
        context.note_dry_run(connection, &destination);
        let reported = Reported {
            connection: *connection,
            source: source.open(context.telemetry),
            destination: destination.open(context.telemetry),
            ended: None,
            missed: false,
        };
        self.due.push_back((Instant::now() + INTERVAL, key, connection.cookie));
        if let Some(earlier) = self.open.insert(key, reported) {
            earlier.end_unseen();
        }
    }

    /// Count what has been carried until the end, and the end.
    pub(super) fn closed(
        &mut self,
        context: &Context<'_>,
        connection: &DirectConnection,
        total: Transfer,
        at: u64,
        reset: bool,
    ) {
        let Some(opened) = connection.opened else { return self.failed(context, connection, at) };
        self.opened(context, connection); // the event of its beginning may have been lost
        let Some(reported) = self.open.remove(&ends(connection)) else { return };
        reported.carried(total);
        let unforced = || match reset {
            true => FlowEnd::failed(ResponseFlag::None, "connection reset"),
            false => FlowEnd { flag: ResponseFlag::None, error: None },
        };
        let end = reported.ended.clone().unwrap_or_else(unforced);
        reported.finish(&end, Duration::from_nanos(at.saturating_sub(opened)));
    }

    /// The destination has not answered, or has refused: only its client reports that.
    fn failed(&self, context: &Context<'_>, connection: &DirectConnection, at: u64) {
        let (flow, _) = context.flows(connection);
        let end = FlowEnd::failed(ResponseFlag::Connect, "connection refused, or given up");
        let duration = Duration::from_nanos(at.saturating_sub(connection.began));
        flow.open(context.telemetry).finish_after(&end, duration);
    }

    /// Remember why a connection is being ended.
    pub(super) fn ending(&mut self, context: &Context<'_>, connection: &DirectConnection, why: FlowEnd) {
        if connection.opened.is_some() {
            self.opened(context, connection); // the event of its beginning may not have been read yet
        }
        if let Some(reported) = self.open.get_mut(&ends(connection)) {
            reported.ended = Some(why);
        }
    }

    /// Count what some open connections have carried, which `carried` reads. Those whose sockets are gone twice in a row
    /// have ended unseen, and are returned.
    pub(super) fn poll(&mut self, carried: impl Fn(&DirectConnection) -> Option<Transfer>) -> Vec<DirectConnection> {
        let now = Instant::now();
        let mut gone = Vec::new();
        for _ in 0..BATCH {
            let Some(&(_, key, cookie)) = self.due.front().filter(|(due, ..)| *due <= now) else { break };
            self.due.pop_front();
            let Some(reported) = self.open.get_mut(&key).filter(|one| one.connection.cookie == cookie) else {
                continue;
            };
            match carried(&reported.connection) {
                Some(total) => {
                    reported.carried(total);
                    reported.missed = false;
                }
                None if reported.missed => {
                    gone.extend(self.open.remove(&key).map(Reported::end_unseen));
                    continue;
                }
                None => reported.missed = true,
            }
            self.due.push_back((now + INTERVAL, key, cookie));
        }
        gone
    }

    /// Leave all to another engine.
    pub(super) fn hand_over(&mut self) {
        for (_, reported) in self.open.drain() {
            reported.source.hand_over();
            reported.destination.hand_over();
        }
    }
}

impl Reported {
    /// `total`: since the beginning. What is smaller than what has been counted is not counted back.
    fn carried(&self, total: Transfer) {
        for flow in [&self.source, &self.destination] {
            let known = flow.transfer();
            flow.to_destination(total.to_destination.saturating_sub(known.to_destination));
            flow.to_client(total.to_client.saturating_sub(known.to_client));
        }
    }

    fn finish(self, end: &FlowEnd, duration: Duration) {
        self.destination.finish_after(end, duration);
        self.source.finish_after(end, duration);
    }

    fn end_unseen(self) -> DirectConnection {
        let end = FlowEnd::failed(ResponseFlag::None, "the end of the connection was not seen");
        self.destination.finish(&end);
        self.source.finish(&end);
        self.connection
    }
}

impl Context<'_> {
    /// The connection as the client's end reports it, and as the destination's does.
    fn flows(&self, connection: &DirectConnection) -> (Flow, Flow) {
        let peer = |cookie: u64| {
            let pod = self.pods.with_cookie(cookie);
            Peer {
                workload: pod.and_then(|pod| pod.workload(self.store)).cloned(),
                identity: pod.map(|pod| pod.info.identity.clone()),
                baggage: None,
            }
        };
        let (source, destination) = (peer(connection.source_netns), peer(connection.destination_netns));
        let namespace = source.workload.as_ref().map(|workload| workload.namespace.clone()).unwrap_or_default();
        let addressed = self.store.service_at(self.network, connection.target.ip(), &namespace).cloned();
        let service = addressed
            .or_else(|| self.store.intended_service(destination.workload.as_ref()?, None, connection.server.port()));
        let of = |direction| Flow {
            security: Security::Kernel,
            source: source.clone(),
            destination: destination.clone(),
            service: service.clone(),
            ..Flow::between(direction, connection.client, connection.server)
        };
        let mut outbound = of(Direction::Outbound);
        if self.telemetry.access_log().has_format() {
            outbound.extra_mut().original_destination = Some(connection.target);
        }
        (outbound, of(Direction::Inbound))
    }

    fn note_dry_run(&self, connection: &DirectConnection, flow: &Flow) {
        let Some(workload) = &flow.destination.workload else { return };
        let subject = culvert_mesh::Subject {
            peer: flow.source.identity.clone(),
            source: connection.client.ip(),
            destination: connection.server,
        };
        if let Ok(Some(denied)) = self.store.policies.evaluate_with_shadow(workload, &subject) {
            flow.would_be_refused(self.telemetry, &denied);
        }
    }
}

const fn ends(connection: &DirectConnection) -> Ends {
    (connection.client, connection.server)
}
