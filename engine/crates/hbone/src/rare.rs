//! What seldom happens to a tunnel, whose task is polled whenever a frame moves: each of these only if it was woken itself.

use culvert_tls::Untrusted;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use h2::PingPong;

use crate::keepalive;

pub(crate) enum Rare {
    Untrusted(Untrusted),
    /// The peer is gone without a word.
    Silent,
    /// It shall take no more streams.
    Drain,
}

/// A stream of what happens; it does not end.
pub(crate) type Watched<'a> = FuturesUnordered<LocalBoxFuture<'a, Rare>>;

pub(crate) fn watch<'a>(
    ping_pong: Option<PingPong>,
    untrusted: impl Future<Output = Untrusted> + 'a,
    drain: impl Future<Output = ()> + 'a,
) -> Watched<'a> {
    let made = Watched::new();
    made.push(Box::pin(async { Rare::Untrusted(untrusted.await) }));
    made.push(Box::pin(async {
        drain.await;
        Rare::Drain
    }));
    made.push(Box::pin(async {
        keepalive::watch(ping_pong).await;
        Rare::Silent
    }));
    made
}
