//! What a pod needs of the worker that serves it.

use std::sync::Arc;

use culvert_net::netns::Netns;

use super::connections::Connections;
use crate::shared::ProxyState;

/// Shared by the pods of one worker.
#[derive(Debug)]
pub(crate) struct Context {
    /// The worker's number, from 0.
    pub number: usize,
    /// The namespace of this process, which the thread returns to.
    pub home: Netns,
    pub shared: Arc<ProxyState>,
}

impl Context {
    /// The registry of the worker's connections.
    pub(crate) fn connections(&self) -> &Arc<Connections> {
        // A worker's number is always below the number of registries: both come from the same setting.
        #[allow(clippy::indexing_slicing, reason = "see above")]
        &self.shared.connections[self.number]
    }
}
