//! Refused connections that are still open to their clients, bounded per workload.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_net::refusal;
use culvert_worker::PodInfo;
use tokio::net::TcpStream;

use super::pod::Pod;

/// Counts a refused connection until dropped.
struct Permit(Arc<PodInfo>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.limits.refusals.release();
    }
}

/// Close a refused connection in a task of its own. Beyond the limit it is closed at once, which costs nothing, does
/// not fail the client's connect either, and is counted: the client sees the end of the stream, or a reset if it has sent
/// bytes by then.
pub(super) fn close(pod: &Rc<Pod>, refused: TcpStream) {
    if !pod.info.limits.refusals.try_acquire() {
        pod.shared().telemetry.metrics.refusals_without_grace.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let permit = Permit(pod.info.clone());
    pod.spawn(async move {
        refusal::close(refused).await;
        drop(permit);
    });
}
