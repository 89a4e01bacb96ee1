//! The tunnel on one worker thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use culvert_net::netns::Netns;
use culvert_net::socket::SocketFactory;
use culvert_worker::{PodInfo, PodLife, Protocol, Worker};

use super::context::Context;
use super::pod::Pod;
use super::serve;
use crate::shared::ProxyState;

/// See the module.
pub(crate) struct TunnelWorker(Rc<Context>);

impl Protocol for ProxyState {
    type Worker = TunnelWorker;

    fn begin(self: Arc<Self>, number: usize, home: Netns) -> TunnelWorker {
        let context = Rc::new(Context { number, home, shared: self });
        culvert_runtime::spawn(reevaluate(context.clone()));
        TunnelWorker(context)
    }
}

impl Worker for TunnelWorker {
    type Pod = Pod;

    fn serve(&self, pod: Arc<PodInfo>, sockets: SocketFactory) -> io::Result<Rc<Pod>> {
        serve::start(&self.0, pod, sockets)
    }

    fn tick(&self) {
        self.0.shared.outliers.tidy();
        self.0.shared.telemetry.metrics.sweep(std::time::Instant::now());
    }
}

impl culvert_worker::Pod for Pod {
    fn life(&self) -> &PodLife {
        &self.life
    }

    fn release_idle(&self) {
        self.pool.release_idle();
    }
}

/// Reevaluate open connections whenever a change may deny one.
async fn reevaluate(context: Rc<Context>) {
    let mut changes = context.shared.authorization();
    loop {
        // Marked as seen before the first evaluation: a change may have come before this worker subscribed.
        changes.mark_unchanged();
        context.connections().reevaluate(&context.shared.store.read());
        // The sender outlives the worker.
        if changes.changed().await.is_err() {
            return;
        }
    }
}
