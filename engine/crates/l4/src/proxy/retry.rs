//! Opening a connection that any endpoint of a service can serve: what fails at one is tried at another, before the
//! application has sent a byte that somebody could have seen.
//!
//! An endpoint that refuses is followed by another at once. One that stays silent is given some timeout, then another
//! is tried beside it; the first that answers carries the connection and the others are let go. So a pod behind a
//! black hole costs that timeout, and a pod that is merely far away is still reached when all are. Each endpoint that
//! failed or was overtaken is remembered (see `state::outlier`).
//!
//! Never tried elsewhere: what policy denied, a peer of another identity, a lack of our own (certificate, sockets).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use culvert_hbone::Error;
use http::StatusCode;
use tokio::time::{Instant, timeout, timeout_at};

use super::dns;
use super::outbound::{Upstream, connect_route};
use super::pod::Pod;
use crate::state::{Endpoint, Route, RouteError, SelectionContext, Workload};
use crate::telemetry::{Direction, Flow, ResponseFlag, RetryReason};

/// Names that are asked for to find one endpoint: each may turn out to be nobody's.
const MAX_NAMES: usize = 3;

/// What became of an attempt.
pub(super) struct Outcome {
    pub flow: Flow,
    pub way: Result<Upstream, Failure>,
}

/// Why there is no way.
#[derive(Debug)]
pub(super) struct Failure {
    pub flag: ResponseFlag,
    pub error: String,
    /// Set where the endpoint is at fault, so that another may do better.
    pub blame: Option<RetryReason>,
}

/// One client's wish, and all that it takes to make another attempt.
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

/// Find a way for `client`'s connection to `target` and open it.
pub(super) async fn open(pod: &Pod, source: &Arc<Workload>, client: SocketAddr, target: SocketAddr) -> Outcome {
    let attempt = ConnectAttempt { pod, source, client, target };
    let config = &pod.shared().config;
    let began = Instant::now();
    let connect_timeout = pod.shared().mesh().connect_timeout;
    let mut decided = attempt.route(&[]);
    if matches!(decided, Err(RouteError::Unresolved(_))) {
        decided = Box::pin(attempt.resolved(&[])).await;
    }
    let route = match decided {
        Ok(route) => route,
        Err(error) => return attempt.no_route(&error),
    };
    let chosen = route.endpoint();
    let mut first = pin!(connect_route(pod, source, route, attempt.flow()));
    let Some(endpoint) = chosen else { return first.await };
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
        if self.pod.shared().mesh().access_log.has_format() {
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
        if shared.mesh().forbids(&route) {
            return Err(RouteError::NotInRegistry(self.target));
        }
        if let Some(named) = route.destination().filter(|workload| workload.addresses.is_empty()) {
            shared.metrics.on_demand_dns.count(self.source, &named.hostname);
        }
        Ok(route)
    }

    /// The same, asking for the names of endpoints on the way.
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
            RouteError::NotInRegistry(_) => ResponseFlag::NotInRegistry,
            _ => ResponseFlag::Connect,
        };
        Outcome { flow: self.flow(), way: Err(Failure::ours(flag, error.to_string())) }
    }

    /// Remember how an endpoint did; true where another may do better.
    fn note(&self, endpoint: SocketAddr, outcome: &Outcome) -> bool {
        let outliers = &self.pod.shared().outliers;
        match &outcome.way {
            Ok(_) => outliers.succeeded(endpoint),
            Err(Failure { blame: Some(_), .. }) => {
                outliers.failed(endpoint);
                return true;
            }
            Err(_) => {}
        }
        false
    }

    /// Try others after, or beside, the first; `failed` is what came of it, or `silent` what goes on.
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
                self.pod.shared().metrics.retries.count(reason);
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
                    if outcome.way.is_ok() {
                        // Those that began before it have been overtaken.
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

    /// Whether silence is the endpoint's: without a certificate of our own, nobody is reached.
    async fn is_able(&self) -> bool {
        self.pod.certificate.get(Duration::ZERO).await.is_ok()
    }

    fn timed_out(&self) -> Outcome {
        let failure = Failure {
            flag: ResponseFlag::Connect,
            error: "connect timed out".to_owned(),
            blame: Some(RetryReason::Timeout),
        };
        Outcome { flow: self.flow(), way: Err(failure) }
    }
}

impl Failure {
    /// Nothing that another endpoint could do better.
    fn ours(flag: ResponseFlag, error: String) -> Self {
        Self { flag, error, blame: None }
    }

    pub(super) fn of_dial(error: &io::Error) -> Self {
        Self { flag: ResponseFlag::Connect, error: error.to_string(), blame: blame_of_dial(error) }
    }

    pub(super) fn of_tunnel(error: &Error) -> Self {
        let flag = ResponseFlag::of_trust(error).unwrap_or(match error {
            Error::Refused(StatusCode::UNAUTHORIZED) => ResponseFlag::Denied,
            Error::Tls(_) => ResponseFlag::Tls,
            Error::Handshake(_) => ResponseFlag::Http2,
            Error::Certificate(_) => ResponseFlag::Identity,
            _ => ResponseFlag::Connect,
        });
        let blame = match error {
            Error::Dial(error) => blame_of_dial(error),
            Error::Timeout(_) => Some(RetryReason::Timeout),
            // A refused certificate, theirs or ours, comes as invalid data: that is a decision, not an accident.
            Error::Tls(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Error::Tls(_) | Error::Handshake(_) | Error::Tunnel(_) => Some(RetryReason::Tunnel),
            Error::Refused(status) if is_gateway_error(*status) => Some(RetryReason::Unavailable),
            _ => None,
        };
        Self { flag, error: error.to_string(), blame }
    }
}

/// Only what the other end or the way to it can be blamed for; a lack of ports or descriptors is ours.
fn blame_of_dial(error: &io::Error) -> Option<RetryReason> {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::TimedOut => Some(RetryReason::Timeout),
        Kind::ConnectionRefused
        | Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable => Some(RetryReason::Connect),
        _ => None,
    }
}

fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Why another endpoint is tried after `failed`, or beside one that is silent.
fn blame(failed: Option<&Outcome>) -> RetryReason {
    failed.and_then(|outcome| outcome.way.as_ref().err()?.blame).unwrap_or(RetryReason::Timeout)
}

/// The first of `running` to end, by its position; `None` where there are none.
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
