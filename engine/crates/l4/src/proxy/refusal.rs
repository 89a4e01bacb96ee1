//! Refused connections that are still open to their clients, bounded per workload.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_net::refusal;
use tokio::net::TcpStream;

use super::pod::{Pod, PodInfo};

/// Refused connections of a workload that may wait for their clients' first bytes at once. Each holds a descriptor and some
/// 500 bytes, for [`refusal::GRACE`] at most: enough for 2,500 refusals a second of clients that send nothing.
pub(super) const MAX_PENDING: usize = 256;

/// Counts a refused connection until dropped.
struct Permit(Arc<PodInfo>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.bounds.refusals.release();
    }
}

/// Close a refused connection in a task of its own. Beyond [`MAX_PENDING`] it is closed at once, which costs nothing, does
/// not fail the client's connect either, and is counted: the client sees the end of the stream, or a reset if it has sent
/// bytes by then.
pub(super) fn close(pod: &Rc<Pod>, refused: TcpStream) {
    if !pod.info.bounds.refusals.try_acquire() {
        pod.shared().telemetry.metrics.refusals_without_grace.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let permit = Permit(pod.info.clone());
    pod.spawn(async move {
        refusal::close(refused).await;
        drop(permit);
    });
}
