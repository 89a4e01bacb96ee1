//! Commands to a thread, and how their results reach the host.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::events::Events;
use crate::limits::PodInfo;

/// What a thread is to do.
pub(crate) enum Command {
    Add { pod: Arc<PodInfo>, netns: OwnedFd, started: Arc<Started> },
    Remove { uid: Arc<str>, stopped: Arc<Stopped> },
    Drain { timeout: Duration },
}

/// Collects the workers' results of starting a pod; the last one reports.
#[derive(Debug)]
pub(crate) struct Started {
    uid: Arc<str>,
    events: Arc<Events>,
    waiting: AtomicUsize,
    error: Mutex<Option<String>>,
}

impl Started {
    pub(crate) fn new(uid: Arc<str>, events: Arc<Events>, workers: usize) -> Arc<Self> {
        Arc::new(Self { uid, events, waiting: AtomicUsize::new(workers), error: Mutex::default() })
    }

    pub(crate) fn report(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.lock().get_or_insert(error.to_string());
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.events.workload_started(&self.uid, self.error.lock().take());
        }
    }
}

/// Reports when the last worker has released a removed pod.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub uid: Arc<str>,
    pub events: Arc<Events>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.events.workload_stopped(&self.uid);
    }
}
