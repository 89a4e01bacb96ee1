//! The server side of a tunnel.

use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use culvert_core::identity::Identity;
use culvert_net::buffered::BufferedStream;
use culvert_net::memory_budget::MemoryBudget;
use culvert_tls::{AcceptedPeer, Untrusted, WorkloadCertificate};
use futures_util::StreamExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Response, StatusCode, request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::lifecycle::{self, ConnectionEvent};
use crate::stream::TunnelStream;
use crate::window::TunnelWindow;
use crate::{Error, headers, limits};

/// A connection with an authenticated peer.
#[derive(Debug)]
pub struct Authenticated {
    stream: TlsStream<BufferedStream>,
    /// Identity of the peer.
    pub peer: Identity,
    accepted: AcceptedPeer,
}

/// How long an untrusted peer may take to read its GOAWAY; its streams have ended by then.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Perform the TLS handshake with a client, as the identity of `certificate`.
///
/// # Errors
/// [`Error::Tls`] or [`Error::Timeout`].
pub async fn authenticate(
    stream: TcpStream,
    certificate: &WorkloadCertificate,
    timeout: Duration,
) -> Result<Authenticated, Error> {
    let acceptor = TlsAcceptor::from(certificate.server_config());
    let mut stream = tokio::time::timeout(timeout, acceptor.accept(BufferedStream::new(stream)))
        .await
        .map_err(|_| Error::Timeout("TLS handshake"))?
        .map_err(Error::Tls)?;
    stream.get_mut().1.set_buffer_limit(Some(limits::TLS_BUFFER));
    let chain = stream.get_ref().1.peer_certificates();
    let peer = culvert_tls::peer_identity(chain).map_err(|error| Error::Tls(std::io::Error::other(error)))?;
    let accepted = certificate.accepted_client(chain);
    Ok(Authenticated { stream, peer, accepted })
}

/// A CONNECT request; it must be accepted or refused.
#[derive(Debug)]
pub struct Connect {
    /// Authority and headers.
    pub request: request::Parts,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    window: Rc<TunnelWindow>,
}

impl Connect {
    /// Answer 200: the application is connected. `baggage` describes the local workload.
    ///
    /// # Errors
    /// [`Error::Tunnel`] if the client has closed the stream or the tunnel meanwhile.
    pub fn accept(mut self, baggage: Option<HeaderValue>) -> Result<TunnelStream, Error> {
        let mut response = Response::new(());
        if let Some(baggage) = baggage {
            response.headers_mut().insert(headers::BAGGAGE, baggage);
        }
        let send = self.respond.send_response(response, false)?;
        Ok(TunnelStream::new(send, self.receive, self.window))
    }

    /// Answer with a status and end the stream.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // It fails if the client has closed the stream, and then no response is needed.
        let _ = self.respond.send_response(response, true);
    }
}

/// Serve one tunnel: hand each CONNECT to `handle`, which must not block.
///
/// Windows are reserved from `memory`. When `drain` resolves, the server sends GOAWAY and open streams run to their end. The
/// same happens when the peer's certificate expires, and when our own was issued by another root. When the peer is no
/// longer trusted, all streams end at once. Dropping the future ends them too.
///
/// # Errors
/// [`Error::Handshake`] if the peer does not speak HTTP/2, [`Error::Tunnel`] if it violates the protocol or is gone,
/// [`Error::Revoked`], [`Error::RootRemoved`].
pub async fn serve(
    authenticated: Authenticated,
    timeout: Duration,
    memory: Arc<MemoryBudget>,
    drain: impl Future<Output = ()>,
    handle: impl FnMut(Connect),
) -> Result<(), Error> {
    let Authenticated { stream, accepted, .. } = authenticated;
    // A peer whose certificate has expired must reconnect with a new one; in a root rotation it reconnects to our new one.
    let drain = async {
        tokio::select! {
            () = drain => {}
            () = accepted.superseded() => {}
        }
    };
    serve_until(stream, timeout, memory, drain, accepted.untrusted(), handle).await
}

/// The same over any stream, without authentication: for fuzzing.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    timeout: Duration,
    memory: Arc<MemoryBudget>,
    drain: impl Future<Output = ()>,
    handle: impl FnMut(Connect),
) -> Result<(), Error> {
    serve_until(stream, timeout, memory, drain, pending(), handle).await
}

async fn serve_until(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    timeout: Duration,
    memory: Arc<MemoryBudget>,
    drain: impl Future<Output = ()>,
    untrusted: impl Future<Output = Untrusted>,
    mut handle: impl FnMut(Connect),
) -> Result<(), Error> {
    let (window, windows) = TunnelWindow::new(memory);
    let window = Rc::new(window);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(limits::FRAME_SIZE)
        .max_header_list_size(limits::SERVER_HEADER_LIST)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS)
        .max_send_buffer_size(limits::SEND_BUFFER);
    let mut connection = tokio::time::timeout(timeout, builder.handshake(stream))
        .await
        .map_err(|_| Error::Timeout("HTTP/2 handshake"))?
        .map_err(Error::Handshake)?;
    let mut events = lifecycle::events(connection.ping_pong(), untrusted, drain);
    let untrusted = loop {
        let accepted = poll_fn(|context| {
            window.resize(&mut connection, context)?;
            connection.poll_accept(context).map(Option::transpose)
        });
        tokio::select! {
            biased; // An untrusted peer must not open a stream.
            Some(event) = events.next() => match event {
                ConnectionEvent::Untrusted(untrusted) => break untrusted,
                ConnectionEvent::KeepaliveTimeout => return Err(Error::Timeout("keepalive")),
                ConnectionEvent::Drain => connection.graceful_shutdown(),
            },
            accepted = accepted => match accepted? {
                None => return Ok(()),
                Some(accepted) => dispatch(accepted, window.clone(), &mut handle),
            },
        }
    };
    window.mark_untrusted(untrusted);
    connection.abrupt_shutdown(Reason::NO_ERROR);
    // The connection is closed whether or not the peer has read the GOAWAY.
    let _ = tokio::time::timeout(GOAWAY_TIMEOUT, poll_fn(|context| connection.poll_closed(context))).await;
    Err(untrusted.into())
}

type Accepted = (http::Request<RecvStream>, SendResponse<Bytes>);

fn dispatch((request, respond): Accepted, window: Rc<TunnelWindow>, handle: &mut impl FnMut(Connect)) {
    let (request, receive) = request.into_parts();
    let connect = Connect { request, receive, respond, window };
    if connect.request.method == Method::CONNECT {
        handle(connect);
    } else {
        connect.refuse(StatusCode::BAD_REQUEST);
    }
}
