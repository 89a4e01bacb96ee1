//! What a drain waits for, and the phases that lead to it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_runtime::TaskGroup;
use tokio::sync::{Notify, watch};

/// Listeners and accepted connections of a process that are open.
#[derive(Debug, Default)]
pub struct Held(AtomicUsize);

impl Held {
    /// Count one more, until as many calls of [`Held::release`].
    fn hold(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn release(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Phases of a pod's life. Ordered: each allows less than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New connections are accepted.
    Serving,
    /// Removed; peers that do not know yet are still served.
    Leaving,
    /// No new connections; open ones run to their end.
    Draining,
    /// All connections are closed.
    Stopped,
}

/// The life of a pod on one worker: its phase, its tasks, and what it has open.
#[derive(Debug)]
pub struct PodLife {
    held: Arc<Held>,
    phase: watch::Sender<Phase>,
    connections: Cell<usize>,
    listeners: Cell<usize>,
    /// Notified when a connection or a listener is closed.
    closed: Notify,
    tasks: TaskGroup,
}

/// Counts a listener until dropped.
#[derive(Debug)]
pub struct OpenListener(Rc<PodLife>);

impl PodLife {
    /// A pod that is served, with nothing open; what it opens counts in `held` too.
    #[must_use]
    pub fn new(held: Arc<Held>) -> Rc<Self> {
        Rc::new(Self {
            held,
            phase: watch::channel(Phase::Serving).0,
            connections: Cell::new(0),
            listeners: Cell::new(0),
            closed: Notify::new(),
            tasks: TaskGroup::new(),
        })
    }

    /// Enter a phase; never an earlier one.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = *current < phase;
            if forward {
                *current = phase;
            }
            forward
        });
        self.closed.notify_waiters();
        if phase == Phase::Stopped {
            self.tasks.abort();
        }
    }

    /// Wait until the pod has reached `phase`.
    pub async fn reached(&self, phase: Phase) {
        // `self` owns the sender, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Drain: take no new connections, let open ones run for up to `timeout`, then close them.
    pub async fn leave(&self, timeout: Duration) {
        self.enter(Phase::Draining);
        let ended = async {
            // Listeners count: connections queued in one are accepted when it closes.
            while self.connections.get() > 0 || self.listeners.get() > 0 {
                self.closed.notified().await;
            }
        };
        // After the last connection or the timeout, whichever comes first.
        let _ = tokio::time::timeout(timeout, ended).await;
        self.enter(Phase::Stopped);
    }

    /// Spawn a task of a connection; it is aborted when the pod is stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(task);
    }

    /// Spawn a task that ends by itself once the pod drains.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_detached(task);
    }

    /// Count a connection, until as many calls of [`PodLife::connection_closed`].
    pub fn connection_opened(&self) {
        self.connections.set(self.connections.get() + 1);
        self.held.hold();
    }

    /// Undo [`PodLife::connection_opened`].
    pub fn connection_closed(&self) {
        self.connections.set(self.connections.get() - 1);
        self.held.release();
        self.closed.notify_waiters();
    }

    /// Count a listener.
    #[must_use]
    pub fn listener(self: &Rc<Self>) -> OpenListener {
        self.listeners.set(self.listeners.get() + 1);
        self.held.hold();
        OpenListener(self.clone())
    }
}

impl Drop for OpenListener {
    fn drop(&mut self) {
        self.0.listeners.set(self.0.listeners.get() - 1);
        self.0.held.release();
        self.0.closed.notify_waiters();
    }
}
