//! What all protocols of a process share.

use std::sync::Arc;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::drain::Held;
use crate::events::Events;

/// How many threads there are, and how pods leave them.
#[derive(Debug, Clone, Copy)]
pub struct WorkerSettings {
    /// Threads that serve a pod.
    pub workers_per_group: usize,
    /// Groups of threads; a pod has one to itself as long as there are enough.
    pub worker_groups: usize,
    /// CPUs that CPU-bound threads leave to others.
    pub reserved_cpus: usize,
    /// A removed pod still serves peers that do not know yet for this long.
    pub removal_accept: Duration,
    /// Its open connections may run for this long afterwards.
    pub removal_drain: Duration,
}

impl WorkerSettings {
    /// How many threads there are at most.
    #[must_use]
    pub const fn max_workers(&self) -> usize {
        self.workers_per_group * self.worker_groups
    }
}

/// See the module.
#[derive(Debug)]
pub struct Host {
    /// Settings of the threads.
    pub settings: WorkerSettings,
    /// Events for the process that embeds the engine.
    pub events: Arc<Events>,
    /// Certificates of the identities that are served.
    pub certificates: Arc<Certificates>,
    /// Listeners and accepted connections that are open; what a drain waits for.
    pub held: Arc<Held>,
}

impl Host {
    /// Nothing is served yet.
    ///
    /// # Errors
    /// An eventfd cannot be created.
    pub fn new(settings: WorkerSettings) -> std::io::Result<Arc<Self>> {
        let events = Arc::new(Events::new()?);
        let certificates = Certificates::new(events.clone());
        Ok(Arc::new(Self { settings, events, certificates, held: Arc::default() }))
    }
}
