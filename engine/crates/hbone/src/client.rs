//! The client side: a pool of multiplexed tunnels.
//!
//! A pool belongs to one workload on one core. Tunnels are keyed by peer address and expected identities. A stream goes to
//! the first tunnel below its stream limit; if there is none, another tunnel is opened. Concurrent callers without a tunnel
//! share one dial.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_core::identity::Identity;
use culvert_net::buffered::BufferedStream;
use culvert_net::memory_budget::MemoryBudget;
use culvert_tls::{AcceptedPeer, WorkloadCertificate};
use futures_util::StreamExt;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lifecycle::{self, ConnectionEvent};
use crate::stream::TunnelStream;
use crate::window::{TunnelWindow, Windows};
use crate::{Error, limits};

/// The destination of a tunnel, and the identities expected there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The peer's HBONE listener.
    pub address: SocketAddr,
    /// Identities that the peer may have.
    pub identities: Arc<[Identity]>,
}

/// Limits of a pool.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Streams on one tunnel before another is opened.
    pub max_streams: usize,
    /// A tunnel without streams is closed after this.
    pub idle: Duration,
    /// Timeout of each step of opening a tunnel.
    pub timeout: Duration,
    /// Budget that tunnels' windows are reserved from.
    pub memory: Arc<MemoryBudget>,
}

/// Opens the TCP connection and picks our certificate; the pool knows neither.
pub trait Dial {
    /// Connect to the peer and say which certificate to use.
    fn dial(&self, key: &TunnelKey) -> impl Future<Output = Result<(TcpStream, Arc<WorkloadCertificate>), Error>>;
}

/// Tunnels of one workload.
#[derive(Debug)]
pub struct Pool {
    settings: PoolSettings,
    destinations: RefCell<HashMap<TunnelKey, Rc<Destination>>>,
}

#[derive(Debug, Default)]
struct Destination {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    /// Held while dialling, so that concurrent callers wait for the result instead of dialling too.
    dialling: Mutex<()>,
}

#[derive(Debug)]
struct Tunnel {
    send: SendRequest<Bytes>,
    streams: Cell<usize>,
    last_used: Cell<Instant>,
    closed: Cell<bool>,
    /// First expiry of the certificates of both ends, in seconds since the epoch: no more streams from then on.
    not_after: i64,
    peer: Rc<AcceptedPeer>,
    window: Rc<TunnelWindow>,
}

impl Tunnel {
    fn takes_streams(&self) -> bool {
        !self.closed.get() && !culvert_tls::has_expired(self.not_after) && !self.peer.root_rotated()
    }
}

/// An open stream, and the headers of the peer's response.
#[derive(Debug)]
pub struct Opened {
    /// The byte stream.
    pub stream: TunnelStream,
    /// Headers of the response.
    pub headers: HeaderMap,
    /// Counts the stream on its tunnel until dropped.
    pub guard: StreamGuard,
}

/// Counts a stream on its tunnel until dropped.
#[derive(Debug)]
pub struct StreamGuard(Rc<Tunnel>);

impl StreamGuard {
    fn new(tunnel: Rc<Tunnel>) -> Self {
        tunnel.streams.set(tunnel.streams.get() + 1);
        Self(tunnel)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.last_used.set(Instant::now());
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(settings: PoolSettings) -> Self {
        Self { settings, destinations: RefCell::default() }
    }

    /// Open a stream with the CONNECT `request`.
    ///
    /// A tunnel that fails before it responds is replaced once: no byte of the application has been sent yet, so a retry
    /// is safe.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Refused`] carries the peer's status.
    pub async fn open(&self, dial: &impl Dial, key: &TunnelKey, request: &Request<()>) -> Result<Opened, Error> {
        let first = self.try_open(dial, key, request).await;
        match first {
            Err(error) if error.may_retry() => self.try_open(dial, key, request).await,
            other => other,
        }
    }

    async fn try_open(&self, dial: &impl Dial, key: &TunnelKey, request: &Request<()>) -> Result<Opened, Error> {
        let guard = self.permit(dial, key).await?;
        let tunnel = guard.0.clone();
        let opened = self.connect(guard, request).await;
        if matches!(&opened, Err(error) if error.may_retry()) {
            tunnel.closed.set(true);
        }
        opened
    }

    async fn connect(&self, guard: StreamGuard, request: &Request<()>) -> Result<Opened, Error> {
        let mut send = guard.0.send.clone().ready().await?;
        let (response, send) = send.send_request(request.clone(), false)?;
        let response = tokio::time::timeout(self.settings.timeout * 2, response)
            .await
            .map_err(|_| Error::Timeout("CONNECT"))??;
        if response.status() != StatusCode::OK {
            return Err(Error::Refused(response.status()));
        }
        let (parts, receive) = response.into_parts();
        let stream = TunnelStream::new(send, receive, guard.0.window.clone());
        Ok(Opened { stream, headers: parts.headers, guard })
    }

    /// Count a stream on a tunnel below its limit, dialling one if there is none.
    async fn permit(&self, dial: &impl Dial, key: &TunnelKey) -> Result<StreamGuard, Error> {
        let destination = self.destinations.borrow_mut().entry(key.clone()).or_default().clone();
        if let Some(guard) = self.free_permit(&destination) {
            return Ok(guard);
        }
        let _dialling = destination.dialling.lock().await;
        if let Some(guard) = self.free_permit(&destination) {
            return Ok(guard);
        }
        let tunnel = self.dial(dial, key).await?;
        destination.tunnels.borrow_mut().push(tunnel.clone());
        Ok(StreamGuard::new(tunnel))
    }

    fn free_permit(&self, destination: &Destination) -> Option<StreamGuard> {
        let mut tunnels = destination.tunnels.borrow_mut();
        // A tunnel that takes no more streams stays open until its last stream ends.
        tunnels.retain(|tunnel| tunnel.takes_streams());
        let has_capacity = |tunnel: &&Rc<Tunnel>| {
            tunnel.streams.get() < self.settings.max_streams.min(tunnel.send.current_max_send_streams())
        };
        tunnels.iter().find(has_capacity).cloned().map(StreamGuard::new)
    }

    async fn dial(&self, dial: &impl Dial, key: &TunnelKey) -> Result<Rc<Tunnel>, Error> {
        let timeout = self.settings.timeout;
        let (stream, certificate) = dial.dial(key).await?;
        let config =
            certificate.client_config(key.identities.clone()).map_err(|error| Error::Certificate(error.to_string()))?;
        let name = tokio_rustls::rustls::pki_types::ServerName::IpAddress(key.address.ip().into());
        let mut stream =
            tokio::time::timeout(timeout, TlsConnector::from(config).connect(name, BufferedStream::new(stream)))
                .await
                .map_err(|_| Error::Timeout("TLS handshake"))?
                .map_err(Error::Tls)?;
        stream.get_mut().1.set_buffer_limit(Some(limits::TLS_BUFFER));
        let peer = Rc::new(certificate.accepted_server(stream.get_ref().1.peer_certificates()));
        let not_after = certificate.not_after().min(peer.not_after());
        drop(certificate);
        let (window, windows) = TunnelWindow::new(self.settings.memory.clone());
        let (send, connection) = tokio::time::timeout(timeout, handshake(stream, windows))
            .await
            .map_err(|_| Error::Timeout("HTTP/2 handshake"))?
            .map_err(Error::Handshake)?;
        let tunnel = Rc::new(Tunnel {
            send,
            streams: Cell::new(0),
            last_used: Cell::new(Instant::now()),
            closed: Cell::new(false),
            not_after,
            peer: peer.clone(),
            window: Rc::new(window),
        });
        culvert_runtime::spawn(drive(connection, peer, tunnel.window.clone(), Rc::downgrade(&tunnel)));
        Ok(tunnel)
    }

    /// Close tunnels that were idle for the configured time. Call it periodically.
    pub fn release_idle(&self) {
        let idle = self.settings.idle;
        self.destinations.borrow_mut().retain(|_, destination| {
            destination.tunnels.borrow_mut().retain(|tunnel| {
                !tunnel.closed.get() && (tunnel.streams.get() > 0 || tunnel.last_used.get().elapsed() < idle)
            });
            // A destination that is being dialled has another reference.
            !destination.tunnels.borrow().is_empty() || Rc::strong_count(destination) > 1
        });
    }
}

type Connection = h2::client::Connection<TlsStream<BufferedStream>>;

async fn handshake(
    stream: TlsStream<BufferedStream>,
    windows: Windows,
) -> Result<(SendRequest<Bytes>, Connection), h2::Error> {
    h2::client::Builder::new()
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .max_frame_size(limits::FRAME_SIZE)
        .max_header_list_size(limits::CLIENT_HEADER_LIST)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .enable_push(false)
        .handshake(stream)
        .await
}

/// Drive the connection until it ends: closed by either side, keepalive timeout, or lost trust.
async fn drive(
    mut connection: Connection,
    peer: Rc<AcceptedPeer>,
    window: Rc<TunnelWindow>,
    tunnel: std::rc::Weak<Tunnel>,
) {
    let mut events = lifecycle::events(connection.ping_pong(), peer.untrusted(), pending());
    let mut moved = std::pin::pin!(poll_fn(|context| {
        window.resize(&mut connection, context)?;
        Pin::new(&mut connection).poll(context)
    }));
    tokio::select! {
        // Each stream gets the connection's error; there is no other receiver.
        _ = &mut moved => {}
        Some(event) = events.next() => if let ConnectionEvent::Untrusted(untrusted) = event {
            // Marked before the connection is dropped, which ends the streams.
            window.mark_untrusted(untrusted);
        }
    }
    if let Some(tunnel) = tunnel.upgrade() {
        tunnel.closed.set(true);
    }
}
