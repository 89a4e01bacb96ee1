//! One thread with a single-threaded runtime, and its pods' listeners.

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
use culvert_runtime::CpuAffinity;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::context::Context;
use super::drain::Phase;
use super::limits::PodInfo;
use super::pod::Pod;
use super::serve;
use crate::shared::ProxyState;

/// Capacity of a worker's command queue: far more than changes of workloads during one command.
const COMMANDS: usize = 4096;

pub(crate) enum Command {
    Add { pod: Arc<PodInfo>, netns: OwnedFd, started: Arc<Started> },
    Remove { uid: Arc<str>, stopped: Arc<Stopped> },
    Drain { timeout: Duration },
}

/// Collects the workers' results of starting a pod; the last one reports.
#[derive(Debug)]
pub(crate) struct Started {
    uid: Arc<str>,
    shared: Arc<ProxyState>,
    waiting: AtomicUsize,
    error: Mutex<Option<String>>,
}

impl Started {
    pub(crate) fn new(uid: Arc<str>, shared: Arc<ProxyState>, workers: usize) -> Arc<Self> {
        Arc::new(Self { uid, shared, waiting: AtomicUsize::new(workers), error: Mutex::default() })
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

/// Reports when the last worker has released a removed pod.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub uid: Arc<str>,
    pub shared: Arc<ProxyState>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.shared.events.workload_stopped(&self.uid);
    }
}

#[derive(Debug)]
pub(crate) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Start a thread.
    pub(crate) fn start(number: usize, affinity: CpuAffinity, shared: Arc<ProxyState>) -> io::Result<Self> {
        let home = Netns::current()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let run = move || {
            culvert_tls::gather_entropy();
            // A panic outside of a connection's task ends the worker: the host must exit instead of serving with the rest.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                culvert_runtime::block_on(&runtime, Some(affinity), run(number, home, shared.clone(), receiver));
                drop(runtime);
            }));
            shared.reevaluated(number, None);
            if ended.is_err() {
                shared.events.fatal(format!("worker {number} panicked"));
            }
        };
        let thread = std::thread::Builder::new().name(format!("culvert-{number}")).spawn(run)?;
        Ok(Self { commands, thread })
    }

    /// Hand over a command; `false` when the queue is full or the worker has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Stop the thread at once; open connections are cut. The handle can be joined.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

/// The pods that one thread serves.
struct Worker {
    context: Rc<Context>,
    pods: RefCell<HashMap<Arc<str>, Rc<Pod>>>,
    /// Removed or replaced pods with open connections.
    leaving: RefCell<Vec<Rc<Pod>>>,
}

async fn run(number: usize, home: Netns, shared: Arc<ProxyState>, mut commands: mpsc::Receiver<Command>) {
    let context = Rc::new(Context { number, home, shared });
    culvert_runtime::spawn(reevaluate(context.clone()));
    let worker = Rc::new(Worker { context, pods: RefCell::default(), leaving: RefCell::default() });
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => break,
                Some(Command::Add { pod, netns, started }) => started.report(worker.add(pod, netns)),
                Some(Command::Remove { uid, stopped }) => worker.remove(&uid, stopped),
                Some(Command::Drain { timeout }) => worker.drain(timeout),
            },
            // A worker without pods does not tick.
            _ = tick.tick(), if worker.has_pods() => worker.release_idle(),
        }
    }
}

impl Worker {
    fn add(&self, info: Arc<PodInfo>, netns: OwnedFd) -> io::Result<()> {
        let sockets = SocketFactory::new(Netns::new(netns)?, TUNNEL_MARK, fastrand::u16(..));
        let known = self.pods.borrow().get(&info.uid).cloned();
        if known.as_ref().is_some_and(|pod| pod.sockets.netns_inode() == sockets.netns_inode()) {
            return Ok(());
        }
        // The same pod in another namespace: its sandbox was recreated, and connections of the old one are dead.
        if let Some(old) = known {
            old.life.enter(Phase::Stopped);
        }
        let pod = serve::start(&self.context, info.clone(), sockets)?;
        self.pods.borrow_mut().insert(info.uid.clone(), pod);
        Ok(())
    }

    fn remove(self: &Rc<Self>, uid: &str, stopped: Arc<Stopped>) {
        let Some(pod) = self.pods.borrow_mut().remove(uid) else { return };
        let config = &self.context.shared.config;
        self.leaving.borrow_mut().push(pod.clone());
        let (accept, timeout) = (config.removal_accept, config.removal_drain);
        let worker = self.clone();
        culvert_runtime::spawn(async move {
            pod.life.enter(Phase::Leaving);
            tokio::time::sleep(accept).await;
            pod.life.leave(timeout).await;
            worker.leaving.borrow_mut().retain(|other| !Rc::ptr_eq(other, &pod));
            drop(stopped);
        });
    }

    fn drain(&self, timeout: Duration) {
        let leaving = self.leaving.borrow().clone();
        for pod in self.pods.borrow().values().cloned().chain(leaving) {
            culvert_runtime::spawn(async move { pod.life.leave(timeout).await });
        }
    }

    fn has_pods(&self) -> bool {
        !self.pods.borrow().is_empty() || !self.leaving.borrow().is_empty()
    }

    fn release_idle(&self) {
        self.context.shared.outliers.tidy();
        self.context.shared.telemetry.metrics.sweep(std::time::Instant::now());
        let leaving = self.leaving.borrow();
        for pod in self.pods.borrow().values().chain(leaving.iter()) {
            pod.release_idle();
        }
    }
}

/// Reevaluate open connections whenever a change may deny one.
async fn reevaluate(context: Rc<Context>) {
    let mut changes = context.shared.authorization();
    loop {
        // Read before the first wait: a change may have come before this worker subscribed.
        let latest = *changes.borrow_and_update();
        context.connections().reevaluate(&context.shared.store.read());
        context.shared.reevaluated(context.number, Some(latest));
        // The sender outlives the worker.
        if changes.changed().await.is_err() {
            return;
        }
    }
}
