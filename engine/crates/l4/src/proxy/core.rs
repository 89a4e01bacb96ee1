//! One core: a thread with a single-threaded runtime, and the pods' listeners on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert_core::names::TUNNEL_MARK;
use culvert_net::netns::Netns;
use culvert_net::socket::SocketFactory;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::pod::{Phase, Pod, PodInfo};
use crate::shared::Shared;

/// Commands that a core may have waiting: far more than workloads change in the time one takes.
const COMMANDS: usize = 4096;

pub(crate) enum Command {
    Add { pod: Arc<PodInfo>, netns: OwnedFd, started: Arc<Started> },
    Remove { uid: Arc<str>, stopped: Arc<Stopped> },
    Drain { patience: Duration },
}

/// Collects the cores' word on a new pod; the last one reports.
#[derive(Debug)]
pub(crate) struct Started {
    uid: Arc<str>,
    shared: Arc<Shared>,
    waiting: AtomicUsize,
    error: Mutex<Option<String>>,
}

impl Started {
    pub(crate) fn new(uid: Arc<str>, shared: Arc<Shared>, cores: usize) -> Arc<Self> {
        Arc::new(Self { uid, shared, waiting: AtomicUsize::new(cores), error: Mutex::default() })
    }

    fn report(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.lock().get_or_insert(error.to_string());
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.events.workload_started(&self.uid, self.error.lock().take());
        }
    }
}

/// Told when the last core has let go of a removed pod.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub uid: Arc<str>,
    pub shared: Arc<Shared>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.shared.events.workload_stopped(&self.uid);
    }
}

#[derive(Debug)]
pub(crate) struct CoreHandle {
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl CoreHandle {
    /// Start a core.
    pub(crate) fn start(number: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let home = Netns::current()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let run = move || {
            // A panic outside a connection's task means that the core is gone: the host must not go on half-alive.
            let events = shared.events.clone();
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                LocalSet::new().block_on(&runtime, serve(number, home, shared, receiver));
                drop(runtime);
            }));
            if ended.is_err() {
                events.fatal(format!("core {number} panicked"));
            }
        };
        let thread = std::thread::Builder::new().name(format!("culvert-{number}")).spawn(run)?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Hand over a command; `false` when the queue is full or the core has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// End the core at once; connections that stand are cut.
    pub(crate) fn close(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.commands = closed;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported as a fatal event already.
            let _ = thread.join();
        }
    }
}

/// What the tasks of a core share.
pub(crate) struct Core {
    pub number: usize,
    pub home: Netns,
    pub shared: Arc<Shared>,
    pods: RefCell<HashMap<Arc<str>, Rc<Pod>>>,
    /// Pods that were removed or replaced and still have connections.
    leaving: RefCell<Vec<Rc<Pod>>>,
}

async fn serve(number: usize, home: Netns, shared: Arc<Shared>, mut commands: mpsc::Receiver<Command>) {
    let core = Rc::new(Core { number, home, shared, pods: RefCell::default(), leaving: RefCell::default() });
    tokio::task::spawn_local(judge_again(core.clone()));
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(Command::Add { pod, netns, started }) => started.report(core.add(pod, netns)),
                Some(Command::Remove { uid, stopped }) => core.remove(&uid, stopped),
                Some(Command::Drain { patience }) => core.drain(patience),
            },
            _ = tick.tick() => core.release_idle(),
        }
    }
    core.forget();
}

impl Core {
    /// Let go of all pods: they refer to their core as it does to them, so neither would ever be dropped.
    fn forget(&self) {
        let pods = std::mem::take(&mut *self.pods.borrow_mut());
        let leaving = std::mem::take(&mut *self.leaving.borrow_mut());
        pods.into_values().chain(leaving).for_each(|pod| pod.enter(Phase::Stopped));
    }

    fn add(self: &Rc<Self>, info: Arc<PodInfo>, netns: OwnedFd) -> io::Result<()> {
        let sockets = SocketFactory::new(Netns::new(netns)?, TUNNEL_MARK, fastrand::u16(..));
        let known = self.pods.borrow().get(&info.uid).cloned();
        if known.as_ref().is_some_and(|pod| pod.netns_inode() == sockets.netns_inode()) {
            return Ok(());
        }
        // The same pod in another namespace: its sandbox was made anew, and nothing of the old one can live on.
        if let Some(old) = known {
            old.enter(Phase::Stopped);
        }
        let pod = Pod::start(self.clone(), info.clone(), sockets)?;
        self.pods.borrow_mut().insert(info.uid.clone(), pod);
        Ok(())
    }

    fn remove(self: &Rc<Self>, uid: &str, stopped: Arc<Stopped>) {
        let Some(pod) = self.pods.borrow_mut().remove(uid) else { return };
        let config = &self.shared.config;
        self.leaving.borrow_mut().push(pod.clone());
        let (accept, patience) = (config.removal_accept, config.removal_drain);
        let core = self.clone();
        tokio::task::spawn_local(async move {
            pod.enter(Phase::Leaving);
            tokio::time::sleep(accept).await;
            pod.leave(patience).await;
            core.leaving.borrow_mut().retain(|other| !Rc::ptr_eq(other, &pod));
            drop(stopped);
        });
    }

    fn drain(&self, patience: Duration) {
        let leaving = self.leaving.borrow().clone();
        for pod in self.pods.borrow().values().cloned().chain(leaving) {
            tokio::task::spawn_local(async move { pod.leave(patience).await });
        }
    }

    fn release_idle(&self) {
        self.shared.outliers.tidy();
        let leaving = self.leaving.borrow();
        for pod in self.pods.borrow().values().chain(leaving.iter()) {
            pod.release_idle();
        }
    }
}

/// Judge open connections again whenever a change may forbid one.
async fn judge_again(core: Rc<Core>) {
    let mut changes = core.shared.changes();
    let mut judged = 0;
    loop {
        // Looked at before the first wait: a change may have come before this core began to listen.
        let now = *changes.borrow_and_update();
        if let Some(connections) = core.shared.connections.get(core.number).filter(|_| now.authorization > judged) {
            connections.judge(&core.shared.store.read());
        }
        judged = now.latest;
        core.shared.judged(core.number, now.latest);
        // The sender lives as long as the core.
        if changes.changed().await.is_err() {
            return;
        }
    }
}
