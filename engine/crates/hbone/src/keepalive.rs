//! Detects a dead peer with HTTP/2 PING frames (RFC 9113, 6.7).

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(20);

/// PING every ten seconds; return when an answer takes more than twenty seconds, or when the connection has failed.
pub(crate) async fn watch(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        sleep(INTERVAL).await;
        match timeout(TIMEOUT, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
