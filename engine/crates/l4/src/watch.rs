//! The thread that reports direct connections, while this engine decides.

use std::io;
use std::sync::Arc;
use std::thread;

use crate::shared::ProxyState;

/// Start it; it ends when the engine is closed or another one decides.
pub(crate) fn start(shared: &Arc<ProxyState>) -> io::Result<()> {
    let shared = Arc::downgrade(shared);
    let work = move || {
        while let Some(state) = shared.upgrade() {
            let Some(pause) = state.direct.poll(state.around()) else { return };
            drop(state);
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("direct".to_owned()).spawn(work).map(drop)
}
