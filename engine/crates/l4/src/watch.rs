//! The thread that reports direct connections, while this engine is attached.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::shared::ProxyState;

/// How often it is looked whether a certificate has expired.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Start it; it ends when the engine is closed.
pub(crate) fn start(shared: &Arc<ProxyState>) -> io::Result<()> {
    let shared = Arc::downgrade(shared);
    let work = move || {
        let mut looked = Instant::now();
        while let Some(state) = shared.upgrade() {
            let Some(pause) = state.direct.poll(state.around()) else { return };
            if looked.elapsed() >= EXPIRY_INTERVAL {
                looked = Instant::now();
                state.direct.trust_changed(state.around());
            }
            drop(state);
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("direct".to_owned()).spawn(work).map(drop)
}
