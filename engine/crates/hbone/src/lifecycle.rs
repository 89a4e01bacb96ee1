//! Infrequent connection events (drain, keepalive timeout, lost trust), polled only when their own waker fires, whereas the
//! connection's task is polled whenever a frame moves.

use culvert_tls::Untrusted;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use h2::PingPong;

use crate::keepalive;

pub(crate) enum ConnectionEvent {
    Untrusted(Untrusted),
    /// The peer does not answer PINGs.
    KeepaliveTimeout,
    /// The connection must take no more streams.
    Drain,
}

/// A stream of events; it does not end.
pub(crate) type ConnectionEvents<'a> = FuturesUnordered<LocalBoxFuture<'a, ConnectionEvent>>;

pub(crate) fn events<'a>(
    ping_pong: Option<PingPong>,
    untrusted: impl Future<Output = Untrusted> + 'a,
    drain: impl Future<Output = ()> + 'a,
) -> ConnectionEvents<'a> {
    let made = ConnectionEvents::new();
    made.push(Box::pin(async { ConnectionEvent::Untrusted(untrusted.await) }));
    made.push(Box::pin(async {
        drain.await;
        ConnectionEvent::Drain
    }));
    made.push(Box::pin(async {
        keepalive::watch(ping_pong).await;
        ConnectionEvent::KeepaliveTimeout
    }));
    made
}
