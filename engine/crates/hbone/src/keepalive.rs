//! Notice a peer that is gone without a word.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

/// Ping every ten seconds; end when an answer takes more than twenty, or when the connection is gone.
pub(crate) async fn watch(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        sleep(INTERVAL).await;
        match timeout(PATIENCE, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
