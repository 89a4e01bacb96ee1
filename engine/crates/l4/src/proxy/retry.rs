//! Opens a connection to a service: if one endpoint fails, another is tried, before a byte of the application is sent.
//!
//! An endpoint that refuses is followed by another at once. If one does not answer within the connection attempt delay
//! (RFC 8305, section 5), another is tried in parallel; the first to answer carries the connection, and the others are
//! dropped. So an unreachable pod costs that delay, and a distant pod is still reached. Each endpoint that failed or was
//! overtaken counts for outlier detection (`culvert_upstream`).
//!
//! Never retried: a denial by policy, a peer with another identity, a lack of our own (certificate, sockets).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use culvert_mesh::{Route, RouteError, Workload};
use culvert_telemetry::{Direction, Flow, ResponseFlag, RetryReason};
use culvert_upstream::{Endpoint, SelectionContext};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{Failure, Outcome, connect_route};
use super::dns;
use super::pod::Pod;

/// Host names that are resolved to find one endpoint; each may have no address.
const MAX_NAMES: usize = 3;

/// A client's connection, with all that an attempt needs.
struct ConnectAttempt<'a> {
    pod: &'a Pod,
    source: &'a Arc<Workload>,
    client: SocketAddr,
    target: SocketAddr,
}

struct Running<'a> {
    endpoint: SocketAddr,
    opening: Pin<Box<dyn Future<Output = Outcome> + 'a>>,
}

/// Route `client`'s connection to `target` and open the upstream connection.
pub(super) async fn open(pod: &Pod, source: &Arc<Workload>, client: SocketAddr, target: SocketAddr) -> Outcome {
    let attempt = ConnectAttempt { pod, source, client, target };
    let config = &pod.shared().config;
    let began = Instant::now();
    let connect_timeout = pod.shared().mesh().connect_timeout;
    let taken = pod.shared().direct.taken_by_kernel(&pod.info.uid, target);
    let mut decided = attempt.route(&taken);
    if decided.is_err() && !taken.is_empty() {
        decided = attempt.route(&[]);
    }
    if matches!(decided, Err(RouteError::Unresolved(_))) {
        decided = Box::pin(attempt.resolved(&[])).await;
    }
    let route = match decided {
        Ok(route) => route,
        Err(error) => return attempt.no_route(&error),
    };
    let chosen = route.endpoint();
    let mut first = pin!(connect_route(pod, source, route, attempt.flow()));
    let Some(mut endpoint) = chosen else { return first.await };
    endpoint.others |= !taken.is_empty(); // a retry may go there
    if !endpoint.others || config.connect_attempts < 2 {
        let outcome = first.await;
        attempt.note(endpoint.address, &outcome);
        return outcome;
    }
    let (failed, silent) = match timeout(config.connect_attempt_delay, first.as_mut()).await {
        Ok(outcome) if attempt.note(endpoint.address, &outcome) => (Some(outcome), None),
        Ok(outcome) => return outcome,
        Err(_) => (None, Some(Running { endpoint: endpoint.address, opening: Box::pin(first) })),
    };
    Box::pin(attempt.try_next_endpoint(endpoint, failed, silent, began + connect_timeout)).await
}

impl ConnectAttempt<'_> {
    fn flow(&self) -> Flow {
        let mut flow = Flow::between(Direction::Outbound, self.client, self.target);
        if self.pod.shared().telemetry.access_log().has_format() {
            flow.extra_mut().original_destination = Some(self.target);
        }
        flow.source.workload = Some(self.source.clone());
        flow
    }

    fn route(&self, tried: &[SocketAddr]) -> Result<Route, RouteError> {
        let shared = self.pod.shared();
        let ejected = shared.outliers.ejected();
        let hosts = Some(&shared.hosts);
        let choice = SelectionContext { random: fastrand::f64(), tried, ejected: ejected.as_deref(), hosts };
        let route = shared.store.read().route(self.source, self.target, choice)?;
        if self.source.registry_only && !route.is_registered() {
            return Err(RouteError::EgressDenied(self.target));
        }
        if shared.mesh().forbids(&route) {
            return Err(RouteError::NotInRegistry(self.target));
        }
        if let Some(named) = route.destination().filter(|workload| workload.addresses.is_empty()) {
            shared.telemetry.metrics.on_demand_dns.count(self.source, &named.hostname);
        }
        Ok(route)
    }

    /// The same, resolving host names of endpoints first.
    async fn resolved(&self, tried: &[SocketAddr]) -> Result<Route, RouteError> {
        for _ in 0..MAX_NAMES {
            match self.route(tried) {
                Err(RouteError::Unresolved(name)) => dns::resolve(self.pod, &name).await,
                other => return other,
            }
        }
        self.route(tried)
    }

    fn no_route(&self, error: &RouteError) -> Outcome {
        let flag = match error {
            RouteError::NotInRegistry(_) | RouteError::EgressDenied(_) => ResponseFlag::NotInRegistry,
            _ => ResponseFlag::Connect,
        };
        Outcome { flow: self.flow(), upstream: Err(Failure::ours(flag, error.to_string())) }
    }

    /// Record the result for outlier detection; return whether a retry at another endpoint may succeed.
    fn note(&self, endpoint: SocketAddr, outcome: &Outcome) -> bool {
        let outliers = &self.pod.shared().outliers;
        match &outcome.upstream {
            Ok(_) => outliers.succeeded(endpoint),
            Err(Failure { blame: Some(_), .. }) => {
                outliers.failed(endpoint);
                return true;
            }
            Err(_) => {}
        }
        false
    }

    /// Try other endpoints after the first, which has `failed`, or in parallel while it is `silent`.
    async fn try_next_endpoint<'a>(
        &'a self,
        first: Endpoint,
        mut failed: Option<Outcome>,
        silent: Option<Running<'a>>,
        deadline: Instant,
    ) -> Outcome {
        let config = &self.pod.shared().config;
        let mut tried = vec![first.address];
        let mut running: Vec<Running<'a>> = silent.into_iter().collect();
        let mut more = failed.is_some() || self.is_able().await;
        let mut reason = blame(failed.as_ref());
        loop {
            if more
                && let Ok(route) = self.resolved(&tried).await
                && let Some(endpoint) = route.endpoint()
            {
                self.pod.shared().telemetry.metrics.retries.count(reason);
                tried.push(endpoint.address);
                more = endpoint.others && tried.len() < config.connect_attempts;
                let opening = Box::pin(connect_route(self.pod, self.source, route, self.flow()));
                running.push(Running { endpoint: endpoint.address, opening });
            } else {
                more = false;
            }
            let until = if more { deadline.min(Instant::now() + config.connect_attempt_delay) } else { deadline };
            match timeout_at(until, any(&mut running)).await {
                Ok(Some((position, outcome))) => {
                    let Running { endpoint, .. } = running.remove(position);
                    if outcome.upstream.is_ok() {
                        // Attempts that started earlier were overtaken.
                        running.drain(..position).for_each(|slow| self.pod.shared().outliers.failed(slow.endpoint));
                    }
                    if !self.note(endpoint, &outcome) {
                        return outcome;
                    }
                    failed = Some(outcome);
                    reason = blame(failed.as_ref());
                }
                Ok(None) => return failed.unwrap_or_else(|| self.timed_out()),
                Err(_) if Instant::now() < deadline => reason = RetryReason::Timeout,
                Err(_) => {
                    if self.is_able().await {
                        running.drain(..).for_each(|slow| self.pod.shared().outliers.failed(slow.endpoint));
                    }
                    return failed.unwrap_or_else(|| self.timed_out());
                }
            }
        }
    }

    /// Whether a timeout is the endpoint's fault: without a certificate of our own, no peer can be reached.
    async fn is_able(&self) -> bool {
        self.pod.certificate.get(Duration::ZERO).await.is_ok()
    }

    fn timed_out(&self) -> Outcome {
        let failure = Failure {
            flag: ResponseFlag::Connect,
            error: "connect timed out".to_owned(),
            blame: Some(RetryReason::Timeout),
        };
        Outcome { flow: self.flow(), upstream: Err(failure) }
    }
}

/// The reason of a retry after `failed`, or in parallel to a silent attempt.
fn blame(failed: Option<&Outcome>) -> RetryReason {
    failed.and_then(|outcome| outcome.upstream.as_ref().err()?.blame).unwrap_or(RetryReason::Timeout)
}

/// The first of `running` to end, by its index; `None` if there are none.
async fn any(running: &mut [Running<'_>]) -> Option<(usize, Outcome)> {
    if running.is_empty() {
        return None;
    }
    poll_fn(|context| {
        for (position, one) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = one.opening.as_mut().poll(context) {
                return Poll::Ready(Some((position, outcome)));
            }
        }
        Poll::Pending
    })
    .await
}
