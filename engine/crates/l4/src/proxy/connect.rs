//! Opens the upstream connection along one route, and says whose fault it is if that fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use culvert_core::identity::Identity;
use culvert_hbone::client::{Opened, StreamGuard, TunnelKey};
use culvert_hbone::stream::TunnelStream;
use culvert_hbone::{Error, headers};
use culvert_mesh::{Route, Service, Workload};
use culvert_telemetry::{Flow, ResponseFlag, RetryReason, Security};
use http::{Method, Request, StatusCode, Uri};
use tokio::net::TcpStream;

use super::pod::Pod;

/// An upstream connection.
pub(super) enum Upstream {
    Plain(TcpStream),
    Tunnel(TunnelStream, StreamGuard),
}

/// The result of an attempt.
pub(super) struct Outcome {
    pub flow: Flow,
    pub upstream: Result<Upstream, Failure>,
}

/// Why no upstream connection was opened.
#[derive(Debug)]
pub(super) struct Failure {
    pub flag: ResponseFlag,
    pub error: String,
    /// Set if the endpoint is at fault, so that a retry at another may succeed.
    pub blame: Option<RetryReason>,
}

/// Open a connection along one route, and describe it in `flow`.
pub(super) async fn connect_route(pod: &Pod, source: &Workload, route: Route, mut flow: Flow) -> Outcome {
    let upstream = match route {
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
    Outcome { flow, upstream }
}

async fn plain(pod: &Pod, to: SocketAddr) -> Result<Upstream, Failure> {
    let upstream = pod.connect(to, pod.connect_options()).await;
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

impl Failure {
    /// A failure that no other endpoint could avoid.
    pub(super) fn ours(flag: ResponseFlag, error: String) -> Self {
        Self { flag, error, blame: None }
    }

    fn of_dial(error: &io::Error) -> Self {
        Self { flag: ResponseFlag::Connect, error: error.to_string(), blame: blame_of_dial(error) }
    }

    fn of_tunnel(error: &Error) -> Self {
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
            // A refused certificate, theirs or ours, is `InvalidData`: a decision, so no retry.
            Error::Tls(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Error::Tls(_) | Error::Handshake(_) | Error::Tunnel(_) => Some(RetryReason::Tunnel),
            Error::Refused(status) if is_gateway_error(*status) => Some(RetryReason::Unavailable),
            _ => None,
        };
        Self { flag, error: error.to_string(), blame }
    }
}

/// Errors of the endpoint or of the network to it; a lack of ports or descriptors is our own.
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
