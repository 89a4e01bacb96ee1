//! Authorization of inbound connections: when they start, and again at each change of policy.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use culvert_core::identity::Identity;
use culvert_mesh::{Denied, Subject, Workload};
use culvert_telemetry::{Flow, FlowEnd, ResponseFlag};
use tokio::sync::oneshot;

use super::connections::{ConnectionInfo, TrackedConnection};
use super::pod::Pod;

/// An authorized connection. Tracked, and reevaluated at each change of policy, until dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    _tracked: TrackedConnection,
    cut: oneshot::Receiver<Denied>,
}

/// Evaluate policy for a connection of `peer`, which is `None` for plain text.
///
/// # Errors
/// The reason of the denial.
pub(super) fn admit(
    pod: &Pod,
    workload: &Workload,
    peer: Option<Identity>,
    info: ConnectionInfo,
    flow: &Flow,
) -> Result<Admitted, String> {
    let subject = Subject { peer, source: info.source.ip(), destination: info.actual_destination };
    // Tracked before it is enforced, so that a change of policy in between finds it.
    let (tracked, cut) = pod.registry().track_enforced(info, subject.clone());
    let verdict = pod.shared().store.read().policies.evaluate_with_shadow(workload, &subject);
    if let Ok(Some(denied)) = &verdict {
        flow.would_be_refused(&pod.shared().telemetry, denied);
    }
    match verdict {
        Ok(_) => Ok(Admitted { _tracked: tracked, cut }),
        Err(denied) => Err(format!("connection closed due to policy rejection: {denied}")),
    }
}

impl Admitted {
    /// Wait for `carried`, or until policy denies the connection.
    pub(super) fn until_cut<E: Into<FlowEnd>>(
        &mut self,
        mut carried: Pin<&mut impl Future<Output = Result<(), E>>>,
    ) -> impl Future<Output = FlowEnd> {
        poll_fn(move |context| {
            if let Poll::Ready(result) = carried.as_mut().poll(context) {
                return Poll::Ready(FlowEnd::of(result));
            }
            // The sender is dropped when the connection is no longer tracked; then there is nothing to close.
            let Poll::Ready(Ok(denied)) = Pin::new(&mut self.cut).poll(context) else { return Poll::Pending };
            let error = format!("connection closed due to policy change: {denied}");
            Poll::Ready(FlowEnd::failed(ResponseFlag::Denied, error))
        })
    }
}
